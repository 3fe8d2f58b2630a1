"""``--fast``: leave out the tests that are marked slow, and each other one when it starts a server.

So no test needs a mark because of a server, whichever fixture or line starts it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from service.demo.servers import Server

SERVER, SLOW = "it starts a server", "it is marked slow"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: no worker is to end with one. Or leave slow tests out."""
    took: defaultdict[Path, float] = defaultdict(float)  # seconds, about
    for item in items:
        slow = item.get_closest_marker("slow")
        took[item.path] += (slow.args[0] if slow.args else 1) if slow else 0.1
    items.sort(key=lambda item: -took[item.path])
    if config.getoption("--fast"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason=SLOW))


@pytest.fixture(autouse=True, scope="session")
def no_servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """No server of Redis or Valkey starts in this run, where the option says so."""

    def leave_out(server: Server) -> NoReturn:
        pytest.skip(SERVER)

    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--fast"):
            patch.setattr(Server, "launch", leave_out)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out, and why."""
    if terminalreporter.config.getoption("--fast"):
        reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
        servers, slow = (sum(why in reason for reason in reasons) for why in (SERVER, SLOW))
        terminalreporter.write_line(
            f"left out: {servers} tests that start servers, {slow} that are marked slow; "
            f"make test runs them"
        )

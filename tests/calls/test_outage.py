"""The log lines about a store that fails and recovers; the test passes the times."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from limiter import StoreUnavailable, outage
from limiter.log_throttle import PAUSE
from service.demo.servers import HOST, free_port
from tests.calls.conftest import Make
from tests.calls.support import PATIENCE, PLENTY
from tests.proxy import Proxy, cut


class Clock:
    """The clock of the log's throttle and of the outage."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        began = time.monotonic()
        monkeypatch.setattr(outage, "monotonic", lambda: began + self.ahead)
        monkeypatch.setattr("limiter.log_throttle.monotonic", lambda: began + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock that the test moves forward."""
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("on_error", "instead"),
    [
        ("raise", "calls raise StoreUnavailable"),
        ("allow", "calls are allowed (on_error=allow)"),
        ("deny", "calls are denied (on_error=deny)"),
        ("local", "this process decides about its share of each limit (on_error=local)"),
    ],
)
def test_one_line_when_it_goes_and_one_when_it_is_back(
    make_on: Make,
    proxy: Proxy,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    on_error: str,
    instead: str,
) -> None:
    """In between at most one line every ten seconds, with the number of failed calls."""
    url = f"redis://127.0.0.1:{proxy.port}"
    limiter = make_on(url, PLENTY, on_error=on_error, timeout=PATIENCE)

    def hit() -> None:
        try:
            limiter.hit("u")
        except StoreUnavailable:
            assert on_error == "raise"

    hit()
    assert caplog.messages == []
    proxy.replies = cut
    for _ in range(4):
        hit()
    before, separator, after = caplog.messages[0].partition("; ")
    assert before.startswith(f"no decision from store 127.0.0.1:{proxy.port}")
    assert (separator, after) == ("; ", instead)
    assert len(caplog.messages) == 1

    clock.ahead += PAUSE
    hit()
    assert len(caplog.messages) == 2
    assert caplog.messages[1].endswith(f"{instead} (3 calls failed since the last such line)")
    proxy.mend()
    hit()  # too soon: another node of a cluster answers as well
    assert len(caplog.messages) == 2
    clock.ahead += outage.QUIET
    hit()
    hit()
    assert len(caplog.messages) == 3
    said = caplog.messages[2]
    assert said.startswith(f"store 127.0.0.1:{proxy.port} decides again, after 11.")
    assert said.endswith("s in which 5 calls failed")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_limiters_that_share_a_store_share_the_line(
    make_on: Make, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The store fails for all of them at once: one line."""
    first = make_on(f"redis://127.0.0.1:{proxy.port}", PLENTY, on_error="allow", timeout=PATIENCE)
    inner: Any = getattr(first, "inner", first)
    second = make_on(inner, PLENTY, on_error="deny", name="second")
    proxy.replies = cut
    assert first.hit("u")
    assert not second.hit("u")
    assert not second.peek("u")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("on_error", ["raise", "allow", "deny", "local"])
def test_entering_while_the_store_is_away(
    make_on: Make, caplog: pytest.LogCaptureFixture, on_error: str
) -> None:
    """``with`` raises where calls would, or logs a warning; a call of ``open`` raises."""
    limiter = make_on(f"redis://{HOST}:{free_port()}", PLENTY, on_error=on_error, timeout=0.2)
    if on_error == "raise":
        with pytest.raises(StoreUnavailable), limiter:
            pass
    else:
        with limiter:
            assert bool(limiter.hit("u")) is (on_error != "deny")
        assert len(caplog.messages) == 1
    with pytest.raises(StoreUnavailable):
        limiter.open()

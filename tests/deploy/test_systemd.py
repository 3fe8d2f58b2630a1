"""The systemd unit: verified by systemd's own tool, and its commands run."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.settings import trusted_proxies
from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.deploy.support import DEPLOY, graceful_timeout, option, program, run
from tests.service.support import clean_environment, get
from tests.waiting import until

UNIT = (DEPLOY / "limiter.service").read_text()
LIMITER = Path(sys.executable).parent / "limiter"


def values(name: str) -> list[str]:
    """The values of a setting, in their order."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def command() -> list[str]:
    """The words of ExecStart."""
    return values("ExecStart")[0].split()


def variables() -> dict[str, str]:
    """What systemd reads from the environment file."""
    text = (DEPLOY / "limiter.env").read_text()
    return dict(re.findall(r"^(LIMITER_\w+)=(.*)$", text, re.MULTILINE))


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program and a file that exist here."""
    found = tmp_path / "limiter.service"
    text = UNIT.replace(command()[0], str(LIMITER))
    found.write_text(text.replace(values("EnvironmentFile")[0], str(DEPLOY / "limiter.env")))
    return found


def test_systemd_accepts_every_line(unit: Path) -> None:
    assert not run(program("systemd-analyze", "systemd"), "verify", "--man=no", unit)


def test_systemd_finds_a_wrong_line(unit: Path) -> None:
    """The check above can fail."""
    unit.write_text(unit.read_text().replace("LimitNOFILE", "LimitNOFILES"))

    said = run(program("systemd-analyze", "systemd"), "verify", "--man=no", unit)
    assert "Unknown key 'LimitNOFILES'" in said


def test_little_is_left_to_an_intruder(unit: Path) -> None:
    """The exposure by systemd's own count, from 0 to 10 in tenths; below 2.0 it says OK."""
    run(program("systemd-analyze", "systemd"), "security", "--offline=yes", "--threshold=15", unit)


def test_systemd_waits_until_the_service_has_drained() -> None:
    drain = float(option(command(), "--drain"))

    assert float(values("TimeoutStopSec")[0]) >= drain + graceful_timeout() + 5
    # Else the workers get SIGTERM too, and stop at once.
    assert values("KillMode") == ["mixed"]


def test_the_environment_file_has_known_variables() -> None:
    assert trusted_proxies(variables())
    named = set(re.findall(r"^#?(LIMITER_\w+)=", (DEPLOY / "limiter.env").read_text(), re.M))
    assert named > {"LIMITER_STORE", "LIMITER_POLICIES", "LIMITER_ADMIN_TOKEN"}
    page = (DEPLOY.parent / "docs/operate.md").read_text()
    assert all(f"| `{name}` |" in page for name in named)


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd receives messages of a unit with Type=notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


@pytest.mark.slow
def test_it_starts_reloads_and_stops_as_systemd_does(
    tmp_path: Path, notified: socket.socket, store: str
) -> None:
    program("kill", "procps")  # ExecReload runs it
    policies = tmp_path / "policies.toml"
    policies.write_text('[policies.first]\nlimits = "100/minute"\n')
    given = variables() | {"LIMITER_STORE": store, "LIMITER_POLICIES": str(policies)}
    port, second = free_port(), free_port()
    words = " ".join([str(LIMITER), *command()[1:]]).replace(":8001", f":{second}")
    words = words.replace(":8000", f":{port}").replace("--drain 5", "--drain 1")
    environment = clean_environment(**given, NOTIFY_SOCKET=str(tmp_path / "notify"))
    with (tmp_path / "log").open("wb") as output:
        child = Child("limiter", words.split(), env=environment, cwd=tmp_path, output=output)
    try:
        assert values("Type") == ["notify"]
        assert b"READY=1" in notified.recv(4096)
        url = f"http://{HOST}:{port}"
        until(lambda: _status(f"{url}/healthz") == 200, what=(tmp_path / "log").read_text)

        policies.write_text('[policies.second]\nlimits = "100/minute"\n')
        run(*values("ExecReload")[0].replace("$MAINPID", str(child.pid)).split())
        fields = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Uri": "/"}
        until(lambda: get(f"{url}/forward-auth/second", fields).status == 204)

        child.signal(signal.SIGTERM)
        until(lambda: _status(f"{url}/readyz") == 503)
        assert get(f"{url}/forward-auth/second", fields).status == 204
        assert child.process.wait(float(values("TimeoutStopSec")[0])) == 0
    finally:
        child.stop()


def _status(url: str) -> int:
    try:
        return get(url).status
    except OSError:
        return 0

"""The Flask application under its gunicorn configuration."""

from __future__ import annotations

import http.client
import json
import os
import re
import runpy
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType

import pytest
from gunicorn.config import make_settings

from service.demo.servers import HOST, Server, free_port
from tests.e2e.support import until
from tests.ids import plain
from tests.service.support import ROOT, get, gunicorn, run_gunicorn


@pytest.mark.slow
def test_workers_share_the_limit_and_leave_nothing_in_the_home_folder(
    tmp_path: Path, store: str, subject: str
) -> None:
    """Connections are kept, and a client is the one that the nearest proxy reports."""
    home = tmp_path / "home"
    home.mkdir()
    with gunicorn(
        tmp_path / "log",
        "--workers=2",
        HOME=str(home),
        XDG_RUNTIME_DIR=str(home),
        LIMITER_STORE=store,
        LIMITER_NAME=subject,
        LIMITER_LIMITS="50/minute",
    ) as (child, url):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(get, [f"{url}/demo-service/hello"] * 200))
        left = left_on_one_connection(url.removeprefix("http://"))
        assert list(home.iterdir()) == []
    statuses = [answer.status for answer in answers]

    assert (statuses.count(200), statuses.count(429)) == (50, 150)
    assert left == [49, 48, 47]
    assert child.process.returncode == 0
    assert "GET" not in (tmp_path / "log").read_text()  # no access log


def left_on_one_connection(address: str) -> list[int]:
    """What is left of the limit of one client, which sends three requests on one connection."""
    reported = ("X-Forwarded-For", "203.0.113.5")
    left, sockets = [], set()
    with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        for fields in (
            [reported],
            # Repeated fields are one list; the nearest proxy has added the last entry.
            [("X-Forwarded-For", "9.9.9.9"), reported],
            # A name with underscores is another field, which gunicorn drops.
            [reported, ("X_Forwarded_For", "203.0.113.6")],
        ):
            connection.putrequest("GET", "/demo-service/hello")
            for field in fields:
                connection.putheader(*field)
            connection.endheaders()
            answer = connection.getresponse()
            answer.read()
            left.append(int(re.search(r"r=(\d+)", answer.headers["RateLimit"])[1]))  # type: ignore[index]
            sockets.add(connection.sock.getsockname())
    assert len(sockets) == 1
    return left


@pytest.mark.slow
def test_it_starts_without_a_store_and_recovers_with_it(tmp_path: Path) -> None:
    with Server() as server:
        server.kill()
        with gunicorn(tmp_path / "log", LIMITER_STORE=server.url, LIMITER_TIMEOUT="0.5") as (
            _,
            url,
        ):
            assert get(f"{url}/demo-service/hello").status == 200
            assert "the store does not decide" in get(f"{url}/readyz").text
            assert "started without the store" in (tmp_path / "log").read_text()

            server.restart()

            answer = get(f"{url}/demo-service/hello")
            assert answer.headers["RateLimit"] == '"default";r=99;t=60'
            assert get(f"{url}/readyz").text == "ready\n"


@pytest.mark.slow(7)
def test_workers_without_a_store_admit_no_more_than_one_limit_together(tmp_path: Path) -> None:
    with (
        gunicorn(
            tmp_path / "log",
            "--workers=4",
            LIMITER_STORE=f"redis://{HOST}:{free_port()}",
            LIMITER_LIMITS="40/hour",
        ) as (_, url),
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(get, [f"{url}/demo-service/hello"] * 200))

    statuses = [answer.status for answer in answers]
    # Each worker grants ten; the kernel chooses the worker of a request.
    assert 10 <= statuses.count(200) <= 40
    assert statuses.count(200) + statuses.count(429) == 200


def _policies(path: Path, limit: int) -> None:
    path.write_text(f"[policies.api]\nlimits = '{limit}/minute'\n")


@pytest.mark.slow
def test_policies_change_while_it_runs_and_a_broken_file_never_stops_it(
    tmp_path: Path, store: str, subject: str
) -> None:
    """On SIGHUP gunicorn starts new workers; while the file is invalid, they use the last valid one."""
    path, log = tmp_path / "policies.toml", tmp_path / "log"
    _policies(path, 500)
    with gunicorn(
        log,
        "--workers=2",
        LIMITER_STORE=store,
        LIMITER_PREFIX=subject,
        LIMITER_POLICIES=str(path),
    ) as (child, url):

        def limits() -> set[int]:
            """Return the limits in responses to enough requests for each worker to answer some."""
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(get, [f"{url}/demo-service/hello"] * 20))
            fields = [answer.headers["RateLimit-Policy"] for answer in answers]
            return {int(re.search(r"q=(\d+)", field)[1]) for field in fields}  # type: ignore[index]

        assert limits() == {500}
        # Workers notice a change without a signal.
        _policies(path, 600)
        until(lambda: limits() == {600}, what=log.read_text)
        # An invalid file changes nothing, and is reported; new workers do not use it either.
        path.write_text("[policies.api]\nlimits = '0/minute'\n")
        until(lambda: limits() == {600} and "is refused" in log.read_text(), what=log.read_text)
        child.signal(signal.SIGHUP)
        until(lambda: log.read_text().count("Booting worker") >= 4, what=log.read_text)
        until(lambda: limits() == {600}, what=log.read_text)
        assert "the policy file is refused" in get(f"{url}/readyz").text
        # A SIGHUP to a worker makes it read the file, and does not end it.
        _policies(path, 700)
        for pid in re.findall(r"Booting worker with pid: (\d+)", log.read_text())[-2:]:
            os.kill(int(pid), signal.SIGHUP)
        until(lambda: limits() == {700}, what=log.read_text)
        assert log.read_text().count("Booting worker") == 4


@pytest.mark.slow
def test_on_sigterm_it_is_not_ready_and_answers_for_a_while(tmp_path: Path, store: str) -> None:
    """A second SIGTERM stops it at once; every line of its log is JSON."""
    log = tmp_path / "log"
    with gunicorn(log, "--workers=2", LIMITER_STORE=store, DRAIN_SECONDS="2") as (child, url):
        assert get(f"{url}/readyz").status == 200
        began = time.monotonic()
        child.signal(signal.SIGTERM)
        until(lambda: get(f"{url}/readyz").status == 503, what=log.read_text)
        statuses, alive, ready = set(), {get(f"{url}/healthz").status}, set()
        while child.alive:
            with suppress(OSError):  # it has ended
                statuses.add(get(f"{url}/demo-service/nothing").status)
                alive.add(get(f"{url}/healthz").status)
                ready.add(get(f"{url}/readyz").status)
        assert time.monotonic() - began >= 2
        assert child.process.returncode == 0
    assert (statuses, alive, ready) == ({404}, {200}, {503})
    for line in log.read_text().splitlines():
        assert json.loads(line)["message"]

    with gunicorn(log, LIMITER_STORE=store, DRAIN_SECONDS="60") as (child, url):
        child.signal(signal.SIGTERM)
        until(lambda: get(f"{url}/readyz").status == 503, what=log.read_text)
        child.signal(signal.SIGTERM)
        assert child.process.wait(10) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "variables", "messages"),
    [
        ("", {"LIMITER_LIMITS": "lots"}, ["LIMITER_LIMITS"]),
        ("", {"DRAIN_SECONDS": "soon"}, ["DRAIN_SECONDS is 'soon': expected 0 to 300"]),
        ("", {"DRAIN_SECONDS": "301"}, ["DRAIN_SECONDS"]),
        (
            "",
            {"LIMITER_POLICIES": "{file}"},
            ["{file}:2: policies.api.limits", "{file}:3: policies.api.shadw"],
        ),
        (
            "--workers=2",
            {"LIMITER_STORE": "memory://"},
            ["each of the 2 workers would count by itself"],
        ),
    ],
    ids=plain,
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, options: str, variables: dict[str, str], messages: list[str]
) -> None:
    """Gunicorn exits, without workers that fail repeatedly."""
    file = tmp_path / "policies.toml"
    file.write_text("[policies.api]\nlimits = '0/minute'\nshadw = true\n")
    given = {name: value.format(file=file) for name, value in variables.items()}
    store = f"redis://{HOST}:{free_port()}"
    done = run_gunicorn(*options.split(), **{"LIMITER_STORE": store, **given})

    assert done.returncode != 0
    for message in messages:
        assert message.format(file=file) in done.stderr
    assert "Traceback" not in done.stderr
    assert "Booting worker" not in done.stderr


@pytest.mark.slow
def test_added_workers_that_count_by_themselves_are_reported(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with gunicorn(log, "--log-level=notice", LIMITER_STORE="memory://") as (child, _):
        child.process.send_signal(signal.SIGTTIN)
        until(
            lambda: "each of the 2 workers would count by itself" in log.read_text(),
            what=log.read_text,
        )


def test_the_configuration_uses_names_that_gunicorn_knows() -> None:
    """Gunicorn ignores an unknown name without an error."""
    found = runpy.run_path(str(ROOT / "service/gunicorn.conf.py"))
    ours = {
        name
        for name, value in found.items()
        if name[0] != "_" and not isinstance(value, ModuleType)
    }

    assert ours - set(make_settings()) == {
        *("Any", "LimiterError", "ThrottleFilter", "annotations"),
        *("check_workers", "hand_on_policies"),
    }
    assert found["keepalive"] >= 75

"""The service under its gunicorn configuration."""

from __future__ import annotations

import http.client
import json
import os
import re
import runpy
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gunicorn.config import make_settings

from service.demo.servers import HOST, Server, free_port
from tests.e2e.support import until
from tests.ids import plain
from tests.service.support import ROOT, get, gunicorn, post, run_gunicorn


@pytest.mark.slow
def test_workers_share_the_limit_and_leave_nothing_in_the_home_folder(
    tmp_path: Path, store: str, subject: str
) -> None:
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
        LIMITER_TIMEOUT="5",
    ) as (child, url):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(get, [f"{url}/demo-service/hello"] * 200))
        assert list(home.iterdir()) == []
    statuses = [answer.status for answer in answers]

    assert (statuses.count(200), statuses.count(429)) == (50, 150)
    assert child.process.returncode == 0
    assert "GET" not in (tmp_path / "log").read_text()  # no access log


@pytest.mark.slow
def test_connections_are_kept_and_duplicate_headers_are_read(
    tmp_path: Path, store: str, subject: str
) -> None:
    with gunicorn(
        tmp_path / "log",
        LIMITER_STORE=store,
        LIMITER_NAME=subject,
        LIMITER_LIMITS="1/minute",
        LIMITER_TIMEOUT="5",
    ) as (_, url):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)

        def status(*lines: tuple[str, str]) -> int:
            connection.putrequest("GET", "/demo-service/hello")
            for line in lines:
                connection.putheader(*line)
            connection.endheaders()
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert status(("X-Forwarded-For", "203.0.113.5")) == 200
        first = connection.sock.getsockname()
        # Repeated fields are one list; the nearest proxy has added the last entry.
        assert status(("X-Forwarded-For", "9.9.9.9"), ("X-Forwarded-For", "203.0.113.5")) == 429
        # A name with underscores is another field, which gunicorn drops.
        forged = ("X_Forwarded_For", "203.0.113.6")
        assert status(("X-Forwarded-For", "203.0.113.5"), forged) == 429
        assert connection.sock.getsockname() == first
        connection.close()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_second_address_is_for_operators_and_counts_for_all_workers(
    tmp_path: Path, store: str, subject: str
) -> None:
    second = f"{HOST}:{free_port()}"
    token = "a-token-of-enough-length"  # noqa: S105
    with gunicorn(
        tmp_path / "log",
        "--workers=2",
        f"--bind={second}",
        LIMITER_STORE=store,
        LIMITER_NAME=subject,
        LIMITER_LIMITS="50/minute",
        LIMITER_TIMEOUT="5",
        LIMITER_ADMIN_TOKEN=token,
        TMPDIR=str(tmp_path),
    ) as (child, url):
        before = get(f"http://{second}/metrics").text
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(get, [f"{url}/demo-service/hello"] * 120))
        # A client cannot reach the operators' routes by a port in its header fields.
        forged = {"Host": second, "X-Forwarded-Port": second.rpartition(":")[2]}
        inside = [get(f"{url}{path}", forged).status for path in ("/metrics", "/v1/policies")]
        outside = [get(f"http://{second}{path}").status for path in ("/healthz", "/v1/check/x")]
        metrics = [get(f"http://{second}/metrics").text for _ in range(8)]
        bearer = {"Authorization": f"Bearer {token}"}
        looked = get(f"http://{second}/v1/keys/127.0.0.1", bearer)
        (folder,) = tmp_path.glob("limiter-metrics-*")
        assert child.alive

    for counter in (  # from the start, for both workers together
        f'limiter_decisions_total{{outcome="denied",policy="{subject}"}}',
        f'limiter_degraded_decisions_total{{policy="{subject}"}}',
        'limiter_store_errors_total{error="StoreRefused"}',
        "limiter_decision_seconds_count",
    ):
        assert f"{counter} 0.0\n" in before
    assert inside == [404, 404]
    assert outside == [401, 401]
    for text in metrics:  # each worker has the same metrics
        assert f'{{outcome="allowed",policy="{subject}"}} 50.0' in text
        assert f'{{outcome="denied",policy="{subject}"}} 70.0' in text
        assert "limiter_decision_seconds_count 120.0" in text
    assert json.loads(looked.text)["policies"][subject]["remaining"] == 0
    assert not folder.exists()
    log = (tmp_path / "log").read_text()
    assert '"message": "a limit denied"' in log
    assert token not in log


def _policies(path: Path, limit: int) -> None:
    path.write_text(f"[policies.api]\nlimits = '{limit}/minute'\n")


@pytest.mark.slow
def test_policies_change_while_it_runs_and_a_broken_file_never_stops_it(
    tmp_path: Path, store: str, subject: str
) -> None:
    """On SIGHUP gunicorn starts new workers; while the file is invalid, they use the last valid one."""
    path, log = tmp_path / "policies.toml", tmp_path / "log"
    second = f"{HOST}:{free_port()}"
    _policies(path, 5)
    with gunicorn(
        log,
        "--workers=2",
        f"--bind={second}",
        LIMITER_STORE=store,
        LIMITER_PREFIX=subject,
        LIMITER_POLICIES=str(path),
        LIMITER_TIMEOUT="5",
    ) as (child, url):

        def limits() -> set[int]:
            """Return the responses of the workers to enough requests for each worker to answer some."""
            asked = {"key": "u", "peek": True}
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: post(f"{url}/v1/check/api", asked), range(40)))
            assert {answer.status for answer in answers} == {200}
            return {json.loads(answer.text)["decision"]["limit"] for answer in answers}

        def refused() -> set[str]:
            """Return whether the file is refused, from the metrics of any worker."""
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(get, [f"http://{second}/metrics"] * 16))
            found = (
                re.findall(r"^limiter_policy_file_refused (.*)$", a.text, re.M) for a in answers
            )
            return {value for (value,) in found}

        def said(text: str, times: int = 1) -> None:
            until(lambda: log.read_text().count(text) >= times, what=log.read_text)

        assert limits() == {5}
        assert refused() == {"0.0"}
        # Workers notice a change without a signal.
        _policies(path, 6)
        until(lambda: limits() == {6}, what=log.read_text)
        # An invalid file changes nothing, and is reported.
        path.write_text("[policies.api]\nlimits = '0/minute'\n")
        until(lambda: limits() == {6} and "is refused" in log.read_text(), what=log.read_text)
        until(lambda: refused() == {"1.0"}, what=log.read_text)
        # New workers do not use it either.
        child.signal(signal.SIGHUP)
        said("Booting worker", 4)
        until(lambda: limits() == {6}, what=log.read_text)
        until(lambda: refused() == {"1.0"}, what=log.read_text)
        # A killed worker is replaced.
        os.kill(int(re.findall(r"Booting worker with pid: (\d+)", log.read_text())[-1]), 9)
        said("Booting worker", 5)
        assert limits() == {6}
        _policies(path, 7)
        child.signal(signal.SIGHUP)
        said("Booting worker", 7)
        until(lambda: limits() == {7} and refused() == {"0.0"}, what=log.read_text)
        # A SIGHUP to a worker does not end it.
        _policies(path, 8)
        for pid in re.findall(r"Booting worker with pid: (\d+)", log.read_text())[-2:]:
            os.kill(int(pid), signal.SIGHUP)
        until(lambda: limits() == {8}, what=log.read_text)
        assert log.read_text().count("Booting worker") == 7
    refusals = [line for line in log.read_text().splitlines() if "policies.api.limits" in line]
    # Two workers saw the file become invalid, and three started meanwhile; one of those was killed.
    assert len(refusals) >= 3
    assert {json.loads(line)["logger"] for line in refusals} == {"limiter.policies"}


#: Requests that two servers in a row may read differently.
SMUGGLED = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    "Content-Length: +5\r\n\r\nabcde",
    "Content-Length: -1\r\n\r\nabcde",
    "Content-Length : 5\r\n\r\nabcde",
    "Content-Length: 5, 5\r\n\r\nabcde",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X\x00: y\r\n\r\n",
    "X: y\x00\r\n\r\n",
]


@pytest.mark.slow
def test_requests_that_two_servers_may_read_differently_are_refused(tmp_path: Path) -> None:
    with gunicorn(tmp_path / "log", LIMITER_STORE="memory://") as (_, url):
        host, _, port = url.removeprefix("http://").partition(":")
        for fields in SMUGGLED:
            with socket.create_connection((host, int(port)), timeout=10) as raw:
                head = f"POST /forward-auth/default HTTP/1.1\r\nHost: x\r\n{fields}"
                raw.sendall(head.encode("latin-1"))
                status = raw.recv(65_536).split(b" ")[1]
                assert status in (b"400", b"501"), (fields, status)
        # Names of WSGI's own variables are header fields like any other.
        for name in ("SCRIPT_NAME", "PATH_INFO", "SERVER_PORT", "REMOTE_ADDR"):
            assert get(f"{url}/healthz", {name: "/healthz"}).status == 200, name
            assert get(f"{url}/healthz", {name: "/x"}).status == 200, name


@pytest.mark.slow
def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path, store: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        for more in ([f"--bind={HOST}:{port}"], [f"--bind={HOST}:{free_port()}"] * 2):
            done = run_gunicorn(*more, LIMITER_STORE=store, TMPDIR=str(tmp_path))
            assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "variables", "messages"),
    [
        ("", {"LIMITS": "lots"}, ["LIMITER_LIMITS"]),
        (
            "",
            {"POLICIES": "{file}"},
            ["{file}:2: policies.api.limits", "{file}:3: policies.api.shadw"],
        ),
        ("--workers=2", {"STORE": "memory://"}, ["each of the 2 workers would count by itself"]),
        # Addresses of which gunicorn does not tell which one a request came by.
        ("--bind=127.0.0.1:{port} --bind=127.0.0.1:{other}", {}, ["bind: accepted are"]),
        ("--bind=unix:{file}.socket", {}, ["bind: accepted are"]),
    ],
    ids=plain,
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, options: str, variables: dict[str, str], messages: list[str]
) -> None:
    """Gunicorn exits, without workers that fail repeatedly."""
    file = tmp_path / "policies.toml"
    file.write_text("[policies.api]\nlimits = '0/minute'\nshadw = true\n")
    store = f"redis://{HOST}:{free_port()}"

    def filled(text: str) -> str:
        return text.format(file=file, port=ports[0], other=ports[1])

    ports = free_port(), free_port()
    given = {f"LIMITER_{name}": filled(value) for name, value in variables.items()}
    done = run_gunicorn(*filled(options).split(), **{"LIMITER_STORE": store, **given})

    assert done.returncode != 0
    for message in messages:
        assert filled(message) in done.stderr
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
    ours = {name for name in found if name[0] != "_"} - {
        "annotations",
        "os",
        "sys",
        "logging",
        "shutil",
        "signal",
        "tempfile",
    }

    assert ours - set(make_settings()) == {"Any", "LimiterError", "logs", "settings"}
    assert found["worker_class"] == "service.worker.Worker"
    assert found["keepalive"] >= 75

"""The decision service is measured, alone and behind Traefik; the programs that send requests are right."""

from __future__ import annotations

import shutil
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import forward_auth, idle, page, steady, wrk
from bench.decision_service import BY_BEFORE
from bench.goals import GOALS
from bench.sections import Failed
from bench.service_cases import BATCHES, CHECK, NAMES
from tests.bench.test_bench import run, written

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a server that handles each connection in a thread; yield its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            answer(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 100

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def answer_all(connection: socket.socket) -> None:
    """Answer until the client closes."""
    while connection.recv(10_000):
        connection.sendall(OK)


@pytest.mark.slow(40)
@needs_wrk
def test_a_quick_run_has_every_figure_with_a_goal(tmp_path: Path) -> None:
    """Also the absolute figures, plots, and the page's table; figures of another revision need one."""
    ran = run(tmp_path, "--quick", "--only", "service", "--server", "redis")

    assert ran.returncode == 0, ran.stderr
    results, report, folder = written(tmp_path)
    section = results["sections"]["service"]
    (figures,) = section["figures"].values()
    assert {goal["figure"] for goal in results["goals"]} == {
        goal.figure
        for goal in GOALS
        if goal.part == "service" and not goal.figure.endswith(BY_BEFORE)
    }
    assert set(NAMES) < set(figures)
    assert [record["case"] for record in section["records"]] == list(NAMES)
    for record in section["records"]:
        assert record["requests_per_second"]["low"] > 0
        assert record["processor_us"]["low"] > 0
    for picture in ("service.png", "service-latency.png"):
        assert f"({picture})" in report
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    (column,) = section["figures"]
    lines = page._decision_service(page.Results("a-run", results, column))
    assert [line.split(" | ")[0] for line in lines if "`/v1/check`" in line] == [
        f"| {CHECK}",
        f"| {BATCHES}",
    ]


@pytest.mark.slow(20)
@needs_wrk
def test_each_way_through_traefik_is_measured(tmp_path: Path) -> None:
    """The goal's figure is one of them, and the processor time of each process is above zero."""
    ran = run(tmp_path, "--quick", "--only", "forward-auth", "--server", "redis")

    assert ran.returncode == 0, ran.stderr
    results, report, _ = written(tmp_path)
    (goal,) = results["goals"]
    assert goal["figure"] == forward_auth.SHIPPED
    (figures,) = results["sections"]["forward-auth"]["figures"].values()
    assert set(figures) == set(forward_auth.PATHS) - {forward_auth.BARE}
    for name in forward_auth.PATHS:
        assert f"| {name} |" in report


@needs_wrk
def test_wrk_sends_requests_in_turn_and_counts_refusals(tmp_path: Path) -> None:
    """A body with line feeds arrives whole."""
    bodies = (b"one\n", b"two\ntwo\n")
    requests = [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in bodies
    ]
    received = []

    def answer(connection: socket.socket) -> None:
        while data := connection.recv(10_000):
            received.append(data)
            refused = data == requests[1]
            connection.sendall(OK.replace(b"200 OK", b"429 No") if refused else OK)

    with serving(answer) as port:
        result = wrk.run(port, wrk.write(tmp_path / "requests", requests), 1, 1)

    assert set(received) == set(requests)
    assert abs(result.requests - 2 * result.refused) <= 1
    assert result.rate == result.requests / result.seconds
    assert 0 < result.p50 <= result.p99


@needs_wrk
def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """A run without responses means nothing."""
    with (
        serving(lambda connection: connection.close()) as port,
        pytest.raises(Failed, match="errors of connections"),
    ):
        wrk.run(port, wrk.write(tmp_path / "requests", [REQUEST]), 1, 1)


def test_requests_keep_their_rate_while_the_server_pauses() -> None:
    """Those that should have been sent meanwhile have waited for the rest of the pause."""
    pauses = iter([0.0, 0.3])

    def answer(connection: socket.socket) -> None:
        while connection.recv(10_000):
            time.sleep(next(pauses, 0.0))
            connection.sendall(OK)

    with serving(answer) as port:
        found = steady.latencies(port, [REQUEST], 100, 0.5, 1, 200)

    assert len(found) == 50
    assert found == sorted(found)
    # About 30 requests were due in the pause; a generator that waits would see one slow request.
    assert sum(latency > 0.05 for latency in found) >= 20


@pytest.mark.parametrize(
    ("response", "message"),
    [(b"HTTP/1.1 503 No\r\n\r\n", "503 No"), (b"HTTP/1.1 200 OK\r\n", "closed a connection")],
)
def test_a_response_that_is_not_expected(response: bytes, message: str) -> None:
    """Another status, and an incomplete response, end the run."""

    def answer(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(response)

    with serving(answer) as port, pytest.raises(Failed, match=message):
        steady.latencies(port, [REQUEST], 100, 0.1, 1, 200)


def test_connections_that_the_server_closes_are_counted() -> None:
    """Three are held; the server closes the first one after its response."""
    first = threading.Lock()

    def answer(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(OK)
        if not first.acquire(blocking=False):
            connection.recv(10_000)

    with serving(answer) as port:
        with idle.held(port, 3, REQUEST) as held:
            assert held.closed == 0
        assert held.closed == 1


def test_connections_that_cannot_be_held() -> None:
    """The server closes each without a response."""
    with (
        serving(lambda connection: connection.close()) as port,
        pytest.raises(Failed, match="did not answer on each of 3 connections"),
        idle.held(port, 3, REQUEST),
    ):
        pass

"""``limiter serve``: its processes, its signals, and its log."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from service.demo.children import Child
from service.demo.servers import HOST, Server, free_port
from tests.ids import plain
from tests.server.serving import run_serve, serving
from tests.service.support import ROOT, Answer, get, is_alive, post, started
from tests.waiting import until

pytestmark = pytest.mark.slow

ASK = "/forward-auth/default"
#: What a trusted proxy says of its client.
CLIENT = {"X-Forwarded-For": "203.0.113.7"}


def ask(url: str) -> Answer:
    return get(url + ASK, CLIENT)


def lines_of(log: Path) -> list[dict[str, str]]:
    """Read the lines of a log; each is JSON."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def pids(log: Path) -> list[int]:
    """The workers' processes, in the order of their starts."""
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", log.read_text())]


def ended(log: Path) -> int:
    """The number of workers that ended; SIGTERM kills one that does not serve yet."""
    return len(re.findall("Worker exiting|was sent SIGTERM", log.read_text()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """One service, with a limit of one request; its log, and its address."""
    log = tmp_path_factory.mktemp("shared") / "log"
    with (
        Server(options=["--maxmemory-policy", "allkeys-lru"]) as server,
        serving(
            log,
            LIMITER_STORE=server.url,
            LIMITER_LIMITS="1/minute",
            LIMITER_ADMIN_TOKEN="let-the-operators-in",  # noqa: S106
        ) as (_, url),
    ):
        yield log, url


def test_connections_are_kept_and_duplicate_headers_are_read(shared: tuple[Path, str]) -> None:
    _, url = shared
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)

    def status(*lines: tuple[str, str]) -> int:
        connection.putrequest("GET", ASK)
        for line in lines:
            connection.putheader(*line)
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        return answer.status

    with closing(connection):
        assert status(("X-Forwarded-For", "203.0.113.5")) == 204
        first = connection.sock.getsockname()
        # Repeated fields are one list; the nearest proxy has added the last entry.
        assert status(("X-Forwarded-For", "9.9.9.9"), ("X-Forwarded-For", "203.0.113.5")) == 429
        # A name with underscores is another field.
        forged = ("X_Forwarded_For", "203.0.113.6")
        assert status(("X-Forwarded-For", "203.0.113.5"), forged) == 429
        assert connection.sock.getsockname() == first


@pytest.mark.parametrize("resets", [False, True], ids=["ends", "resets"])
def test_a_client_that_hangs_up_leaves_no_lease(tmp_path: Path, own: Server, resets: bool) -> None:
    """A client that ends its side, and reads on, gets a refusal; one that chose the id may ask again."""
    file = tmp_path / "policies.toml"
    file.write_text(
        "[policies.jobs]\nlimits = {algorithm = 'concurrency', limit = 2, lease = '1 hour'}\n"
    )

    def hold(**more: str) -> bytes:
        body = json.dumps({"key": "u", **more})
        head = "POST /v1/hold/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    with serving(
        tmp_path / "log",
        LIMITER_STORE=own.url,
        LIMITER_POLICIES=str(file),
    ) as (_, url):
        address = HOST, int(url.rpartition(":")[2])
        own.pause()
        with ExitStack() as stack:
            callers = [socket.create_connection(address, timeout=10) for _ in range(2)]
            for caller, sent in zip(callers, (hold(), hold(lease="known")), strict=True):
                stack.enter_context(caller)
                caller.sendall(sent)
                until(lambda: is_alive(url.removeprefix("http://")))  # the request has arrived
                if resets:
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    caller.close()
                else:
                    caller.shutdown(socket.SHUT_WR)
                until(lambda: is_alive(url.removeprefix("http://")))
            own.resume()
            if not resets:
                statuses = [caller.makefile("rb").readline().split()[1] for caller in callers]
                assert statuses == [b"400", b"200"]
        until(lambda: post(f"{url}/v1/hold/jobs", {"key": "u", "lease": "third"}).status == 200)
        assert post(f"{url}/v1/hold/jobs", {"key": "u", "lease": "fourth"}).status == 429


def test_it_does_not_start_on_a_server_on_which_promises_do_not_hold(foreign: str) -> None:
    done = run_serve("--bind", f"{HOST}:{free_port()}", LIMITER_STORE=foreign)

    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "the service does not start" in line]
    assert "struct: Lua's library struct is missing: fakeredis cannot run" in line


def test_what_an_operator_should_change_is_logged_at_the_start(shared: tuple[Path, str]) -> None:
    """A token of operators without their address would look as if the token were wrong."""
    warnings = [line["message"] for line in lines_of(shared[0]) if line["level"] == "warning"]

    assert [text for text in warnings if "memory: allkeys-lru" in text and "noeviction" in text]
    assert (
        "LIMITER_ADMIN_TOKEN has no effect without an address for operators: add --operators HOST:PORT"
        in warnings
    )


def test_it_starts_without_a_store_and_recovers_with_it(tmp_path: Path) -> None:
    with Server() as server:
        server.kill()
        with serving(tmp_path / "log", LIMITER_STORE=server.url, LIMITER_TIMEOUT="0.5") as (
            _,
            url,
        ):
            assert ask(url).status == 204
            assert "the store does not decide" in get(f"{url}/readyz").text
            assert "started without the store" in (tmp_path / "log").read_text()

            server.restart()

            until(lambda: ask(url).headers["RateLimit"].startswith('"default";r=99;'))
            assert get(f"{url}/readyz").text == "ready\n"


def test_workers_without_a_store_admit_no_more_than_one_limit_together(tmp_path: Path) -> None:
    with (
        serving(
            tmp_path / "log",
            "--workers=4",
            LIMITER_STORE=f"redis://{HOST}:{free_port()}",
            LIMITER_LIMITS="40/hour",
        ) as (_, url),
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(ask, [url] * 200))

    statuses = [answer.status for answer in answers]
    # Each worker grants ten; the kernel chooses the worker of a request.
    assert 10 <= statuses.count(204) <= 40
    assert statuses.count(204) + statuses.count(429) == 200


def test_the_second_address_is_for_operators_and_counts_for_all_workers(
    tmp_path: Path, store: str, subject: str
) -> None:
    """The workers share the limit, too, and leave nothing in the home folder."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    second = f"{HOST}:{free_port()}"
    token = "a-token-of-enough-length"  # noqa: S105
    with serving(
        tmp_path / "log",
        "--workers=2",
        f"--operators={second}",
        LIMITER_STORE=store,
        LIMITER_NAME=subject,
        LIMITER_LIMITS="50/minute",
        LIMITER_ADMIN_TOKEN=token,
        TMPDIR=str(temporary),
        HOME=str(home),
        XDG_RUNTIME_DIR=str(home),
    ) as (child, url):
        before = get(f"http://{second}/metrics").text
        with ThreadPoolExecutor(8) as pool:
            statuses = Counter(answer.status for answer in pool.map(ask, [url] * 120))
        assert list(home.iterdir()) == []
        # A client cannot reach the operators' routes by a port in its header fields.
        forged = {"Host": second, "X-Forwarded-Port": second.rpartition(":")[2]}
        inside = [get(f"{url}{path}", forged).status for path in ("/metrics", "/v1/policies")]
        outside = [get(f"http://{second}{path}").status for path in ("/healthz", "/v1/check/x")]

        def counted(text: str) -> bool:
            return "limiter_decision_seconds_count 120.0" in text

        until(lambda: counted(get(f"http://{second}/metrics").text))
        metrics = [get(f"http://{second}/metrics").text for _ in range(8)]
        bearer = {"Authorization": f"Bearer {token}"}
        looked = get(f"http://{second}/v1/keys/203.0.113.7", bearer)
        (folder,) = temporary.glob("limiter-metrics-*")
        assert child.alive

    assert statuses == {204: 50, 429: 70}
    assert child.process.returncode == 0
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
        assert counted(text)
    assert json.loads(looked.text)["policies"][subject]["remaining"] == 0
    assert not folder.exists()
    log = (tmp_path / "log").read_text()
    assert '"message": "a limit denied"' in log
    assert token not in log
    assert "GET" not in log  # no access log


def _policies(path: Path, limit: int) -> None:
    path.write_text(f"[policies.api]\nlimits = '{limit}/minute'\n")


def test_policies_change_while_it_runs_and_a_broken_file_never_stops_it(
    tmp_path: Path, store: str, subject: str
) -> None:
    """On SIGHUP gunicorn starts new workers; while the file is invalid, they use the last valid one."""
    path, log = tmp_path / "policies.toml", tmp_path / "log"
    second = f"{HOST}:{free_port()}"
    _policies(path, 5)
    with serving(
        log,
        "--workers=2",
        f"--operators={second}",
        LIMITER_STORE=store,
        LIMITER_PREFIX=subject,
        LIMITER_POLICIES=str(path),
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

        def boots(number: int) -> None:
            until(lambda: len(pids(log)) == number, what=log.read_text)

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
        boots(4)
        until(lambda: limits() == {6}, what=log.read_text)
        until(lambda: refused() == {"1.0"}, what=log.read_text)
        # A killed worker is replaced.
        os.kill(pids(log)[-1], signal.SIGKILL)
        boots(5)
        assert limits() == {6}
        _policies(path, 7)
        child.signal(signal.SIGHUP)
        boots(7)
        until(lambda: limits() == {7} and refused() == {"0.0"}, what=log.read_text)
        # A SIGHUP to a worker does not end it.
        _policies(path, 8)
        for pid in pids(log)[-2:]:
            os.kill(pid, signal.SIGHUP)
        until(lambda: limits() == {8}, what=log.read_text)
        assert len(pids(log)) == 7
    refusals = [line for line in lines_of(log) if "policies.api.limits" in line["message"]]
    # Two workers saw the file become invalid, and three started meanwhile; one of those was killed.
    assert len(refusals) >= 3
    assert {line["logger"] for line in refusals} == {"limiter.policies"}


class Clients:
    """Clients that send requests all the time, each on a connection that it keeps.

    Attributes:
        statuses: The responses.
        lost: The requests that got no response, with their errors.

    """

    def __init__(self, address: str) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost: list[BaseException] = []
        self._address = address
        self._stops = threading.Event()

    @contextmanager
    def sending(self, number: int = 4) -> Iterator[None]:
        """Send requests until the block ends, or the service accepts no more connections."""
        with ThreadPoolExecutor(number) as pool:
            for _ in range(number):
                pool.submit(self._send_all)
            try:
                yield
            finally:
                self._stops.set()

    def _send_all(self) -> None:
        with closing(http.client.HTTPConnection(self._address, timeout=10)) as connection:
            self._send_on(connection)

    def _send_on(self, connection: http.client.HTTPConnection) -> None:
        while not self._stops.is_set():
            if connection.sock is None:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return  # the service has stopped
            try:
                connection.request("GET", ASK, headers=CLIENT)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(error)
                connection.close()
            else:
                self.statuses[answer.status] += 1  # closes the connection if the response says so


def test_a_drain_answers_each_request_and_reports_itself(
    tmp_path: Path, store: str, subject: str
) -> None:
    """A load balancer looks at /readyz, and has the drain's time to send its requests elsewhere."""
    options = ("--drain=4", "--workers=2")
    with serving(tmp_path / "log", *options, LIMITER_STORE=store, LIMITER_NAME=subject) as (
        child,
        url,
    ):
        assert get(f"{url}/readyz").status == 200
        clients = Clients(url.removeprefix("http://"))
        with clients.sending():
            until(lambda: clients.statuses)
            began = time.monotonic()
            child.signal(signal.SIGTERM)
            until(lambda: get(f"{url}/readyz").status == 503)
            assert {get(f"{url}/readyz").status for _ in range(8)} == {503}  # of each worker
            assert get(f"{url}/healthz").status == 200
            before = sum(clients.statuses.values())
            until(lambda: sum(clients.statuses.values()) > before + 20)
        child.process.wait(30)  # the load balancer has noticed: it sends no more
        lasted = time.monotonic() - began

    assert clients.lost == []
    assert 4 <= lasted < 20
    assert child.process.returncode == 0
    assert "draining for 4 seconds" in (tmp_path / "log").read_text()


def test_a_reload_answers_each_request(tmp_path: Path, store: str, subject: str) -> None:
    """The old workers end each connection by a response, so that no client sends on a closed one."""
    log = tmp_path / "log"
    with serving(log, "--workers=2", "--drain=9", LIMITER_STORE=store, LIMITER_PREFIX=subject) as (
        child,
        url,
    ):
        clients = Clients(url.removeprefix("http://"))
        with clients.sending():
            for reload in (1, 2):
                child.signal(signal.SIGHUP)
                until(lambda: ended(log) == 2 * reload, what=log.read_text)  # noqa: B023
                before = sum(clients.statuses.values())
                until(lambda: sum(clients.statuses.values()) > before + 20)  # noqa: B023
            assert get(f"{url}/readyz").status == 200  # a reload is no drain
        child.signal(signal.SIGINT)
        child.process.wait(30)

    assert clients.lost == []
    assert set(clients.statuses) <= {204, 429}


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM] * 2, [signal.SIGQUIT]])
def test_a_stop_without_a_drain(tmp_path: Path, signals: list[signal.Signals]) -> None:
    """Ctrl-C, and a second SIGTERM, do not wait for the drain."""
    log = tmp_path / "log"
    with serving(log, "--drain=60", LIMITER_STORE="memory://") as (child, url):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), 10):  # an idle connection
            child.signal(signals[0])
            for number in signals[1:]:
                until(lambda: "draining" in log.read_text())
                child.signal(number)
            child.process.wait(30)  # half of the drain

    assert child.process.returncode == 0
    assert lines_of(log)


def test_a_killed_master_leaves_no_worker(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log, LIMITER_STORE="memory://") as (child, url):
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not is_alive(url.removeprefix("http://")))
        (worker,) = pids(log)
        until(lambda: not Path(f"/proc/{worker}").exists(), what=log.read_text)


def test_each_line_of_the_log_is_json(tmp_path: Path) -> None:
    """From the first line to the last, with a killed worker, invalid requests, and a reload."""
    log = tmp_path / "log"
    with serving(log, "--workers=1", LIMITER_STORE="memory://", LIMITER_STROE="x") as (child, url):
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), 10) as raw:
                raw.sendall(b"nonsense\r\n\r\n")
                assert raw.recv(65_536).startswith(b"HTTP/1.1 400 Bad Request\r\n")
        os.kill(pids(log)[-1], signal.SIGKILL)
        until(lambda: len(pids(log)) == 2)
        child.signal(signal.SIGHUP)
        until(lambda: len(pids(log)) == 3)
        until(lambda: ended(log) == 1)  # the one that was replaced, perhaps before it served
    lines = lines_of(log)

    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    messages = [line["message"] for line in lines]
    assert any("LIMITER_STROE" in message for message in messages)
    assert any(message.startswith("Starting gunicorn") for message in messages)
    assert sum(message.startswith("a request is refused") for message in messages) == 1
    assert messages[-1].startswith("Shutting down")


def test_unix_sockets_and_open_sockets(tmp_path: Path) -> None:
    """A service manager may pass open sockets, and a proxy of the same host may use a Unix socket."""
    path = tmp_path / "socket"
    operators = f"{HOST}:{free_port()}"

    def is_there() -> bool:
        with socket.socket(socket.AF_UNIX) as raw:
            try:
                raw.connect(str(path))
            except OSError:
                return False
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return raw.recv(65_536).startswith(b"HTTP/1.1 200")

    command = [sys.executable, "-m", "limiter", "serve", "--drain=0"]
    unix = [*command, f"--bind=unix:{path}", f"--operators={operators}"]
    with started(tmp_path / "log", unix, is_there, LIMITER_STORE="memory://"):
        assert get(f"http://{operators}/metrics").status == 200
    assert not path.exists()

    with socket.create_server((HOST, 0)) as first, socket.create_server((HOST, 0)) as second:
        addresses = ["{}:{}".format(*each.getsockname()) for each in (first, second)]
        files = first.fileno(), second.fileno()
        passed = [*command, f"--bind=fd://{files[0]}", f"--operators=fd://{files[1]}"]
        # As systemd does: it also sets LISTEN_FDS, by which gunicorn would open them again.
        inner = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""
        child = Child(
            "serve",
            [sys.executable, "-c", inner, *passed],
            env={**os.environ, "LIMITER_STORE": "memory://", "LISTEN_FDS": "2"},
            cwd=ROOT,
            keep=files,
        )
        try:
            until(lambda: is_alive(addresses[0]))
            assert get(f"http://{addresses[1]}/metrics").status == 200
            assert get(f"http://{addresses[0]}/metrics").status == 404
        finally:
            child.stop()


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", "--factory", "limiter.server.app:create_app", "--no-proxy-headers", "--port"],
        [
            "gunicorn",
            "limiter.server.app:create_app()",
            "--worker-class=asgi",
            "--no-control-socket",
            "--bind",
        ],
    ],
    ids=lambda command: command[0],
)
def test_other_servers_run_the_application_too(
    tmp_path: Path, store: str, subject: str, command: list[str]
) -> None:
    """It decides as under ``limiter serve``, without a drain and without the bounds for slow clients."""
    port = str(free_port())
    with started(
        tmp_path / "log",
        [sys.executable, "-m", *command, port if command[0] == "uvicorn" else f"{HOST}:{port}"],
        lambda: is_alive(f"{HOST}:{port}"),
        LIMITER_STORE=store,
        LIMITER_NAME=subject,
        LIMITER_LIMITS="1/minute",
    ):
        url = f"http://{HOST}:{port}"
        assert [ask(url).status for _ in range(2)] == [204, 429]
        assert get(f"{url}/readyz").text == "ready\n"
        assert get(f"{url}/metrics").status == 404


#: Requests that two servers in a row may read differently.
SMUGGLED = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "Content-Length: +5\r\n\r\nabcde",
    "Content-Length: -1\r\n\r\nabcde",
    "Content-Length : 5\r\n\r\nabcde",
    "Content-Length: 5, 5\r\n\r\nabcde",
    "Content-Length: 0x5\r\n\r\nabcde",
    "Content-Length: 99999999999999999999999\r\n\r\nabcde",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: y\n\n",
    "X: y\rZ: x\r\n\r\n",
    " X: y\r\n\r\n",
    "X\r\n\r\n",
    "X\x00: y\r\n\r\n",
    "X: y\x00\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
]


def test_requests_that_two_servers_may_read_differently_are_refused(
    shared: tuple[Path, str],
) -> None:
    _, url = shared
    host, _, port = url.removeprefix("http://").partition(":")
    for fields in SMUGGLED:
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            head = f"POST /forward-auth/default HTTP/1.1\r\nHost: x\r\n{fields}"
            raw.sendall(head.encode("latin-1"))
            with raw.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 400 Bad Request\r\n", fields
                assert http.client.parse_headers(answer)["Connection"] == "close"
                assert json.load(answer)["status"] == 400  # and nothing after it
    # Names of WSGI's own variables are header fields like any other.
    for name in ("SCRIPT_NAME", "PATH_INFO", "SERVER_PORT", "REMOTE_ADDR"):
        assert get(f"{url}/healthz", {name: "/healthz"}).status == 200, name
        assert get(f"{url}/healthz", {name: "/x"}).status == 200, name


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path, store: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = run_serve(f"--bind={HOST}:{port}", LIMITER_STORE=store, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert all(json.loads(line) for line in done.stderr.splitlines())
    assert list(tmp_path.iterdir()) == []


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
    ],
    ids=plain,
)
def test_a_wrong_variable_is_one_line_and_an_exit_code(
    tmp_path: Path, options: str, variables: dict[str, str], messages: list[str]
) -> None:
    file = tmp_path / "policies.toml"
    file.write_text("[policies.api]\nlimits = '0/minute'\nshadw = true\n")

    def filled(text: str) -> str:
        return text.format(file=file)

    given = {f"LIMITER_{name}": filled(value) for name, value in variables.items()}
    done = run_serve(
        *options.split(), f"--bind={HOST}:{free_port()}", **{"LIMITER_STORE": "memory://", **given}
    )

    assert (done.returncode, done.stdout) == (1, "")
    line = json.loads(done.stderr)
    assert line["level"] == "error"
    for message in messages:
        assert filled(message) in line["message"]


@pytest.mark.parametrize("address", ["unix:{file}", "fd://99"], ids=plain)
def test_an_address_that_cannot_be_used_is_one_line(tmp_path: Path, address: str) -> None:
    file = tmp_path / "file"
    file.touch()
    done = run_serve(f"--bind={address.format(file=file)}", LIMITER_STORE="memory://")

    assert done.returncode == 1
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert last["message"].startswith("the service cannot start: ")
    assert list(tmp_path.iterdir()) == [file]


def test_addresses_of_which_one_cannot_be_recognised_are_refused() -> None:
    """Both have one port, or the second is no address with a port."""
    port = free_port()
    same = run_serve(
        f"--bind={HOST}:{port}", f"--operators=127.0.0.2:{port}", LIMITER_STORE="memory://"
    )
    assert same.returncode == 1
    assert "bind: expected" in same.stderr
    assert "Booting worker" not in same.stderr
    assert all(json.loads(line) for line in same.stderr.splitlines())


def test_added_workers_that_count_by_themselves_are_reported(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log, LIMITER_STORE="memory://") as (child, _):
        child.process.send_signal(signal.SIGTTIN)
        until(
            lambda: "each of the 2 workers would count by itself" in log.read_text(),
            what=log.read_text,
        )


def test_a_worker_that_cannot_start_ends_the_service() -> None:
    """And does not start again and again; the reason is in the log, as JSON."""
    code = """
import limiter.server.app
def fail(): raise RuntimeError("no application")
limiter.server.app.create_app = fail
from limiter.server.serve import Application
import sys
Application([sys.argv[1]]).run()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"{HOST}:{free_port()}"],
        env={**os.environ, "LIMITER_STORE": "memory://"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line for line in lines if "no application" in line["message"] and "exception" in line]

"""Slow clients, and clients that send too much: no other client waits for them."""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from limiter.server.connections import (
    LARGEST_HEAD,
    MOST_FIELDS,
    MOST_PIPELINED,
    Bounds,
    Connection,
    Connections,
)
from limiter.server.worker import Worker
from service.demo.servers import HOST, free_port
from tests.server.quick import IDLE, Quick
from tests.server.serving import QUICK, serving
from tests.server.slow_clients import ATTACKS, attacking, begun, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[int, str]]]:
    """The service's two addresses, with a path that each of them answers."""
    log, second = tmp_path_factory.mktemp("slow") / "log", free_port()
    with serving(log, f"--operators={HOST}:{second}", LIMITER_STORE="memory://") as (_, url):
        yield {
            "service": (int(url.rpartition(":")[2]), "/healthz"),
            "operators": (second, "/metrics"),
        }
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.parametrize("name", ["service", "operators"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_others_are_served_meanwhile(
    ports: dict[str, tuple[int, str]], name: str, attack: str
) -> None:
    port, path = ports[name]
    with attacking(port, ATTACKS[attack]):
        found = served(port, path)

    assert found.count == 20, found


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    log = tmp_path_factory.mktemp("quick") / "log"
    with serving(log, program=QUICK, LIMITER_STORE="memory://") as (_, url):
        yield int(url.rpartition(":")[2])
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_slow_client_is_disconnected(quick: int, name: str) -> None:
    """The whole request must arrive in time, however often a byte arrives."""
    few = ATTACKS[name]._replace(connections=2)
    with attacking(quick, few) as connections:
        # A client that reads nothing sees nothing of the end: wait until it is there, then read.
        time.sleep(2 * Quick.write_timeout + 1 if few.begins.count(b"GET") > 2 else 0)
        for connection in connections:
            connection.settimeout(10)
            assert_is_closed(connection)


def assert_is_closed(connection: socket.socket) -> bytes:
    """Read until the connection ends, and return what arrived."""
    found = b""
    with suppress(ConnectionResetError):  # if a part of the body was not read
        while data := connection.recv(65_536):
            found += data
    return found


def test_an_idle_connection_is_closed(quick: int) -> None:
    """After the time for idle connections, which is longer than the time for a request to arrive."""
    began = time.monotonic()
    with begun(quick, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        connection.settimeout(10)
        text = assert_is_closed(connection)
    assert text.endswith(b"alive\n")
    assert IDLE - 0.1 < time.monotonic() - began < IDLE + 5


def test_responses_that_are_not_read_are_given_up(quick: int) -> None:
    """Else each such connection would keep its responses in memory."""
    requests = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20

    def send_without_reading(connection: socket.socket) -> None:
        """Send until the kernel's buffers are full of responses, and the server gives up."""
        connection.settimeout(10)
        for _ in range(1_000):
            connection.sendall(requests)
            time.sleep(0.05)  # a client that reads nothing sees no progress

    with begun(quick) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        send_without_reading(connection)


def test_the_connection_that_has_waited_longest_makes_room(quick: int) -> None:
    """A worker keeps a bounded number of connections; idle ones end before those that just began."""

    def seconds_to_make_room() -> float:
        with ExitStack() as stack:
            began = time.monotonic()
            idle = []
            for _ in range(Quick.most_connections + 5):
                connection = stack.enter_context(
                    begun(quick, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                )
                connection.settimeout(10)
                idle.append(connection)
                assert connection.recv(12) == b"HTTP/1.1 200"
            for connection in idle[:5]:
                assert_is_closed(connection)
            took = time.monotonic() - began
            assert served(quick, count=4).count == 4
        return took

    # Before the time for idle connections; a busy machine may stall for as long.
    assert any(seconds_to_make_room() < IDLE for _ in range(5))


def test_incomplete_requests_take_a_bounded_part_of_the_memory(quick: int) -> None:
    """Beyond it, the connection whose request began first is closed, before its time is over."""
    part = check("Content-Length: 65536", b"x" * 60_000)

    def is_closed_early() -> bool:
        with ExitStack() as stack:
            began = time.monotonic()
            first = stack.enter_context(begun(quick))
            for _ in range(20):
                connection = stack.enter_context(socket.create_connection((HOST, quick), 10))
                connection.sendall(part)
            first.settimeout(10)
            assert_is_closed(first)
            took = time.monotonic() - began
            assert served(quick, count=4).count == 4
        return took < Quick.read_timeout

    assert any(is_closed_early() for _ in range(5))  # a busy machine may stall for that time


def test_many_idle_connections_do_no_harm(tmp_path: Path) -> None:
    """10,000 of them, or as many as this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(10_000, files - 500, Worker.most_connections)
    with (
        serving(tmp_path / "log", LIMITER_STORE="memory://") as (child, url),
        ExitStack() as stack,
    ):
        port = int(url.rpartition(":")[2])
        opened = []
        for at in range(number):
            one = stack.enter_context(socket.create_connection((HOST, port), 10))
            if at % 2:  # half of them have sent a request
                one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                opened.append(one)
        for one in opened:
            assert one.recv(65_536).startswith(b"HTTP/1.1 200")
        found = served(port)
        for one in opened[:: len(opened) // 10]:  # they are still open
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(65_536).startswith(b"HTTP/1.1 200")
        assert child.alive
    assert found.count == 20, found


@pytest.fixture
def raw(ports: dict[str, tuple[int, str]]) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, ports["service"][0]), 10) as made:
        yield made


def answers(raw: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Read the next responses of a connection."""
    found = []
    with raw.makefile("rb") as lines:
        while len(found) < count:
            status = int(lines.readline().split()[1])
            fields = http.client.parse_headers(lines)
            if status != 100:
                found.append((status, lines.read(int(fields["Content-Length"]))))
    return found


BODY = json.dumps({"key": "u", "peek": True}).encode()


def check(fields: str, body: bytes) -> bytes:
    """A request whose response shows whether its body was read as it was sent."""
    head = (
        f"POST /v1/check/default HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{fields}"
    )
    return head.encode() + b"\r\n\r\n" + body


CHUNKS = b"%x;name=value\r\n%b\r\n5\r\n     \r\n0\r\nX-Sum: 1\r\n\r\n" % (len(BODY), BODY)

WHOLE = {
    "a length": check(f"Content-Length: {len(BODY)}", BODY),
    "a length with blanks": check(f"content-length:\t{len(BODY)}  ", BODY),
    "chunks": check("Transfer-Encoding: chunked", CHUNKS),
    "as long as it may be": check(f"Content-Length: {65_536}", BODY + b" " * (65_536 - len(BODY))),
    # Java's client offers HTTP/2 like this.
    "an upgrade": check(
        f"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: {len(BODY)}", BODY
    ),
    "a large head": check(
        f"X-Large: {'x' * (LARGEST_HEAD - 300)}\r\nContent-Length: {len(BODY)}", BODY
    ),
}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (name, size)
        for name, sent in WHOLE.items()
        for size in (1, 7, 1_000, 10**6)
        if len(sent) < 1_000 * size  # more would take long, and show no more
    ],
)
def test_requests_in_pieces_are_read_as_they_were_sent(
    raw: socket.socket, name: str, size: int
) -> None:
    """Send two such requests on one connection."""
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(2):
        for at in range(0, len(WHOLE[name]), size):
            raw.sendall(WHOLE[name][at : at + size])
            time.sleep(0)  # so that the server sometimes receives the pieces separately
        ((status, body),) = answers(raw, 1)
        assert (status, json.loads(body)["allowed"]) == (200, True)


def test_pipelined_requests_are_answered_in_order(raw: socket.socket) -> None:
    raw.sendall(b"".join([*WHOLE.values()][:3]) * 4)
    raw.sendall(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
    found = answers(raw, 13)

    assert [status for status, _ in found] == [*[200] * 12, 404]


def test_too_many_pipelined_requests_end_the_connection(raw: socket.socket) -> None:
    """After the responses to those before: each waiting request takes memory."""
    raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 5 * MOST_PIPELINED)
    text = assert_is_closed(raw)

    assert 1 <= text.count(b"HTTP/1.1 200 OK") < 5 * MOST_PIPELINED
    assert text.count(b"HTTP/1.1") == text.count(b"HTTP/1.1 200 OK")
    assert text.count(b"connection: close") == 1


@pytest.mark.parametrize(
    "invalid",
    [b"nonsense\r\n\r\n", b"\x00", b"GET / HTTP/1.1\r\nX\r\n\r\n", b"GET /" + b"x" * 300_000],
)
def test_an_invalid_request_does_not_take_the_response_of_an_earlier_one(
    raw: socket.socket, invalid: bytes
) -> None:
    raw.sendall(WHOLE["a length"] + invalid)
    text = assert_is_closed(raw)

    assert text.startswith(b"HTTP/1.1 200 OK\r\n")
    assert text.find(b"HTTP/1.1 4") in (-1, text.rfind(b"HTTP/1.1 "))  # if at all, then at the end


def test_a_client_that_expects_a_100_gets_it(raw: socket.socket) -> None:
    raw.sendall(check(f"Content-Length: {len(BODY)}\r\nExpect: 100-continue", b""))
    assert raw.recv(65_536).startswith(b"HTTP/1.1 100 ")
    raw.sendall(BODY)
    ((status, _),) = answers(raw, 1)

    assert status == 200


def test_a_client_may_end_its_side_before_the_response(raw: socket.socket) -> None:
    raw.sendall(WHOLE["a length"] * 2)
    raw.shutdown(socket.SHUT_WR)
    text = assert_is_closed(raw)

    assert text.count(b"HTTP/1.1 200 OK") == 2


def test_a_request_may_have_many_fields(raw: socket.socket) -> None:
    raw.sendall(b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * MOST_FIELDS + b"\r\n")
    ((status, _),) = answers(raw, 1)

    assert status == 200


def test_trailer_fields_are_not_fields_of_the_head(raw: socket.socket) -> None:
    """Else a client could send fields past a proxy that reads the head alone."""
    length = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    trailer = b"Content-Type: text/plain\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    raw.sendall(check("Transfer-Encoding: chunked", length + trailer))
    ((status, _),) = answers(raw, 1)

    assert status == 200


class Gone:
    """The transport of a client that has just reset the connection, as uvloop's: it refuses each call."""

    def is_closing(self) -> bool:
        """True."""
        return True

    def get_extra_info(self, name: str) -> None:
        """Nothing is known."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("the handler is closed")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("kept", ["keep-alive", "close"])
def test_a_response_to_a_client_that_is_gone_is_no_error(
    method: str, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its transport is closed before the connection learns that."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fields = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"ok"})

    async def respond() -> None:
        config = uvicorn.Config(app, http=Connection, lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        all_connections = Connections(Bounds(1, 1, 1, 1, 1, 1_000_000))
        connection = Connection(
            connections=all_connections, config=config, server_state=state, app_state={}
        )
        connection.connection_made(Gone())  # type: ignore[arg-type]
        head = f"{method} / HTTP/1.1\r\nConnection: {kept}\r\nContent-Length: 0\r\n\r\n"
        connection.data_received(head.encode())
        await asyncio.gather(*state.tasks)

    asyncio.run(respond())

    assert not caplog.records


LONG = b"x" * (2 * LARGEST_HEAD)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (check("Content-Length: 99999", b""), 413),
        (check("Content-Length: 99999", b"x" * 99_999), 413),
        (check("Content-Length: 5\r\nContent-Length: 900000", b"{}"), 400),
        (check("Content-Length: " + "9" * 30, b"{}"), 400),
        (check("Transfer-Encoding: chunked", b"zz\r\n"), 400),
        (check("Transfer-Encoding: chunked\r\nExpect: 100-continue", b"zz\r\n"), 400),
        (check("Transfer-Encoding: chunked", b"fffffff\r\n" + LONG), 413),
        (check("Transfer-Encoding: chunked", b"1\r\n1\r\n0\r\nX: " + LONG * 8), 431),
        (check("Transfer-Encoding: chunked", b"1;" + LONG * 8), 431),
        (b"GET / HTTP/1.1\r\nX: " + LONG, 431),
        (b"GET / HTTP/1.1\r\nX: " + LONG + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MOST_FIELDS + 1) + b"\r\n", 431),
        (b"GET /" + LONG + b" HTTP/1.1\r\n\r\n", 431),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nx", 405),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 400),
        (b"GET /forward-auth/default/static/a#/../../x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /healthz?a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
    ids=[
        *("length", "body", "lengths", "digits", "chunks", "a 100", "chunk", "trailer"),
        *("extension", "half head", "head", "fields", "short fields", "path", "unread"),
        *("connect", "fragment", "query fragment"),
    ],
)
def test_a_request_that_is_not_read_is_answered_at_once(
    raw: socket.socket, sent: bytes, status: int
) -> None:
    """Then the connection is closed: else the rest of the body would be the next request."""
    began = time.monotonic()
    raw.sendall(sent)
    text = assert_is_closed(raw)

    assert time.monotonic() - began < Worker.read_timeout - 1
    assert text.startswith(b"HTTP/1.1 %d " % status), text
    assert b"connection: close\r\n" in text.lower()
    assert b"Content-Type: application/problem+json".lower() in text.lower()

"""Slow clients of the service and of the upstream: no other client waits for them."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service.demo.servers import HOST, free_port
from service.worker import LARGEST, Worker
from tests.service.slow_clients import ATTACKS, attacking, served
from tests.service.support import gunicorn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="its time-outs are set as Linux has them"),
]

#: Longer than the part of a request that is received before a thread starts.
LONG_BODIES = ("a slow body that is long", "a slow body that is not read")
QUICK = f"--worker-class={__name__}.Quick"


class Quick(Worker):
    """A worker with short timeouts, so that tests take little time."""

    read_timeout = 0.5


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[int, str]]]:
    """The service's two addresses, and the upstream's, with a path that each of them answers."""
    folder, second = tmp_path_factory.mktemp("slow"), free_port()
    upstream = ["--config=service/upstream.conf.py", "--worker-class=service.worker.Worker"]
    with (
        gunicorn(folder / "log", f"--bind={HOST}:{second}", LIMITER_STORE="memory://") as (_, one),
        gunicorn(folder / "other", *upstream, app="service.upstream:create_app()") as (_, other),
    ):
        first, behind = (int(url.rpartition(":")[2]) for url in (one, other))
        yield {
            "service": (first, "/healthz"),
            "operators": (second, "/metrics"),
            "upstream": (behind, "/"),
        }


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        (name, attack)
        for name in ("service", "operators", "upstream")
        for attack in ATTACKS
        # The upstream's threads read long bodies, which Traefik receives first.
        if not (name == "upstream" and attack in LONG_BODIES)
    ],
)
def test_others_are_served_meanwhile(
    ports: dict[str, tuple[int, str]], name: str, attack: str
) -> None:
    """With gunicorn's own worker, none of 20 requests was answered during any of these attacks."""
    port, path = ports[name]
    with attacking(port, ATTACKS[attack]):
        found = served(port, path)

    assert found.count == 20, found


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("quick")
    with gunicorn(folder / "log", QUICK, LIMITER_STORE="memory://") as (_, url):
        yield int(url.rpartition(":")[2])


def test_a_request_that_takes_too_long_is_closed(quick: int) -> None:
    """The whole request must arrive in time, however often a byte arrives."""
    with ExitStack() as stack:
        connections = []
        for name, attack in ATTACKS.items():
            if name != "responses that are not read":
                few = attack._replace(connections=2)
                connections += stack.enter_context(attacking(quick, few))
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


def test_a_long_body_holds_a_thread_of_the_upstream_for_a_while_only(tmp_path: Path) -> None:
    config = "--config=service/upstream.conf.py"
    with (
        gunicorn(tmp_path / "log", config, QUICK, app="service.upstream:create_app()") as (_, url),
        attacking(int(url.rpartition(":")[2]), ATTACKS["a slow body that is long"]) as connections,
    ):
        for connection in connections:
            connection.settimeout(10)
            assert_is_closed(connection)


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
            if status != 100:  # gunicorn sends a 100 too; clients accept several
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
    raw.sendall(b"".join(list(WHOLE.values())[:3]) * 4)
    found = answers(raw, 12)

    assert [status for status, _ in found] == [200] * 12


def test_a_client_that_expects_a_100_gets_it(raw: socket.socket) -> None:
    raw.sendall(check(f"Content-Length: {len(BODY)}\r\nExpect: 100-continue", b""))
    assert raw.recv(65_536).startswith(b"HTTP/1.1 100 ")
    raw.sendall(BODY)
    ((status, _),) = answers(raw, 1)

    assert status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (check(f"Content-Length: {LARGEST + 1}", b""), 413),
        (check("Content-Length: 5\r\nContent-Length: 900000", b"{}"), 400),
        (check("Content-Length: " + "9" * 30, b"{}"), 413),
        (check("Transfer-Encoding: chunked", b"zz\r\n"), 400),
        (check("Transfer-Encoding: chunked", b"fffffff\r\n" + b"x" * LARGEST), 413),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * LARGEST, 431),
        (b"\r\n\r\nGET /healthz HTTP/1.1\r\n", None),
    ],
)
def test_a_body_that_is_not_read_is_answered_at_once(
    raw: socket.socket, sent: bytes, status: int | None
) -> None:
    """Then the connection is closed: else the rest of the body would be the next request."""
    began = time.monotonic()
    raw.sendall(sent)
    text = assert_is_closed(raw)

    assert time.monotonic() - began < Worker.read_timeout - 1
    assert text.startswith(b"HTTP/1.1 %d " % status if status else b"") or not text, text
    assert b"Traceback" not in text

"""Slow clients of Traefik, in front of an upstream whose threads wait for bodies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxies.support import MARKS, Front, by_file, front
from tests.server.slow_clients import ATTACKS, Attack, attacking, served
from tests.server.test_floods import flood

pytestmark = MARKS


#: A client with a limit of its own.
DENIED = "127.41.0.1"
POLICIES = f"""
[policies.default]
limits = "1000/minute"
[policies.default.overrides]
"{DENIED}" = "1/minute"
"""


@pytest.fixture(scope="module")
def traefik(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[tuple[Front, Path]]:
    """A Traefik with the demo's configuration, but a timeout of one second for clients."""
    folder = tmp_path_factory.mktemp("slow")
    changes = {"readTimeout: 10s": "readTimeout: 1s"}
    variables = by_file(folder, POLICIES, store)
    with front(folder, "traefik", changes=changes, has_app=True, **variables) as found:
        yield found, folder


def _post(path: str, fields: str, body: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n{body}".encode()


SLOW = {
    "bodies": Attack(20, _post("/x", "Content-Length: 900000", "x" * 100_000), is_slow=True),
    "bodies in chunks": Attack(
        20, _post("/x", "Transfer-Encoding: chunked", "fffff\r\n" + "x" * 100_000), is_slow=True
    ),
    "bodies of the demo's route": Attack(
        20, _post("/demo-service/hello", "Content-Length: 900000", "x" * 100_000), is_slow=True
    ),
    "bodies of the page": Attack(
        20, _post("/page/hit", "Content-Length: 900000", "x" * 100_000), is_slow=True
    ),
    "half requests": ATTACKS["half a request, byte by byte"],
    "idle": ATTACKS["idle"],
}


REFUSED = {
    "no HTTP": (b"GET nonsense, and more of it\r\n\r\n", 400),
    "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "two lengths": (_post("/x", "Content-Length: 1\r\nContent-Length: 2", "xx"), 400),
    "an encoded slash": (b"GET /%2fx HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a path that is not routed": (b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n", None),
    "a method that is not served": (b"POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "a limit": (b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 429),
}


def test_refused_requests_leave_no_line(traefik: tuple[Front, Path]) -> None:
    """Only clients that disconnect leave one, while Traefik asks the service or receives a body."""
    found, folder = traefik
    log = folder / "traefik.log"
    before = log.read_text()
    for sent, status in REFUSED.values():
        flood(found.port, sent, status, DENIED, ends=False)

    assert log.read_text() == before


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("path", ["/x", "/demo-service/hello"])
def test_others_are_served_meanwhile(traefik: tuple[Front, Path], name: str, path: str) -> None:
    port = traefik[0].port
    with attacking(port, SLOW[name]):
        found = served(port, path)

    assert found.count == 20, found


def test_a_slow_body_is_cut_off(traefik: tuple[Front, Path]) -> None:
    with attacking(traefik[0].port, SLOW["bodies"]._replace(connections=2)) as connections:
        for connection in connections:
            connection.settimeout(10)
            assert _rest(connection)


def _rest(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65_536):
        found += data
    return found

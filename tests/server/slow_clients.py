"""Attacks by slow clients, and requests of other clients meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from service.demo.servers import HOST


class Attack(NamedTuple):
    """What each connection sends at once, and whether it then sends one byte a second."""

    connections: int
    begins: bytes
    is_slow: bool = False


def _post(path: str, fields: str, body: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{fields}\r\n\r\n"
    return (head + body).encode()


_HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "
_WHOLE = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"

#: Attacks by name: they block a server that waits for clients.
ATTACKS = {
    "half a request": Attack(20, _HALF),
    "half a request, byte by byte": Attack(20, _HALF, is_slow=True),
    "a whole request and half of one": Attack(20, _WHOLE + _HALF, is_slow=True),
    "idle": Attack(200, b""),
    "a slow body": Attack(20, _post("/v1/check/default", "Content-Length: 60000"), is_slow=True),
    "a slow body that is long": Attack(
        20, _post("/v1/check/default", "Content-Length: 900000", "x"), is_slow=True
    ),
    "a slow body that is not read": Attack(
        20, _post("/healthz", "Content-Length: 900000", "x"), is_slow=True
    ),
    "a slow body in chunks": Attack(
        20, _post("/v1/check/default", "Transfer-Encoding: chunked", "ffff\r\n"), is_slow=True
    ),
    "a slow trailer": Attack(
        20,
        _post("/v1/check/default", "Transfer-Encoding: chunked", "1\r\nx\r\n0\r\nX: "),
        is_slow=True,
    ),
    "a slow body after a 100 Continue": Attack(
        20,
        _post("/v1/check/default", "Content-Length: 60000\r\nExpect: 100-continue"),
        is_slow=True,
    ),
    "an invalid request, kept open": Attack(20, b"GET\r\n\r\n"),
    "responses that are not read": Attack(20, _WHOLE * 20),
    "more requests at once than are accepted": Attack(20, _WHOLE * 2_000),
}


@contextmanager
def attacking(port: int, attack: Attack) -> Iterator[list[socket.socket]]:
    """Keep these connections open."""
    stop = threading.Event()
    with ExitStack() as stack:
        found = [begun(port, attack.begins) for _ in range(attack.connections)]
        for one in found:
            stack.callback(one.close)

        def send_slowly() -> None:
            while not stop.wait(1.0):
                for one in found:
                    try:
                        one.send(b"x")
                    except OSError:
                        continue

        sending = threading.Thread(target=send_slowly)
        if attack.is_slow:
            sending.start()
            stack.callback(sending.join)
        stack.callback(stop.set)
        yield found


def begun(port: int, begins: bytes = b"") -> socket.socket:
    """A connection with a small buffer for what it receives, on which this was sent."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.settimeout(5)
    made.connect((HOST, port))
    made.setblocking(False)
    if begins:
        made.send(begins)  # as much as the socket's buffer takes
    return made


class Served(NamedTuple):
    """The number of other clients' requests that were answered, and the seconds that this took."""

    count: int
    seconds: float


def served(port: int, path: str = "/healthz", count: int = 20, patience: float = 2.0) -> Served:
    """Send requests as ordinary clients do, each on its own connection, four at a time."""
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _is_answered(port, path, patience), range(count)))
    return Served(sum(answers), time.monotonic() - began)


def _is_answered(port: int, path: str, patience: float) -> bool:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection((HOST, port), patience) as one:
            one.sendall(request)
            return one.recv(65_536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False

"""Clients that keep a server waiting, each of them in its own way, and what others get meanwhile."""

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
    """What each of so many connections sends at once; and one byte a second after it, where it drips."""

    connections: int
    begins: bytes
    drips: bool = False


def _post(path: str, fields: str, body: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{fields}\r\n\r\n"
    return (head + body).encode()


_HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "

#: By name: what stops a server that waits for clients in its threads.
ATTACKS = {
    "half a request": Attack(20, _HALF),
    "half a request, dripping": Attack(20, _HALF, drips=True),
    "a whole request and half of one": Attack(
        20, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + _HALF, drips=True
    ),
    "idle": Attack(200, b""),
    "a slow body": Attack(20, _post("/v1/check/default", "Content-Length: 60000"), drips=True),
    "a slow body that is long": Attack(
        20, _post("/v1/check/default", "Content-Length: 900000", "x"), drips=True
    ),
    "a slow body that is not wanted": Attack(
        20, _post("/healthz", "Content-Length: 900000", "x"), drips=True
    ),
    "a slow body in chunks": Attack(
        20, _post("/v1/check/default", "Transfer-Encoding: chunked", "ffff\r\n"), drips=True
    ),
    "a slow body that waits to be asked for": Attack(
        20, _post("/v1/check/default", "Content-Length: 60000\r\nExpect: 100-continue"), drips=True
    ),
    "nonsense, and waiting": Attack(20, b"GET\r\n\r\n"),
    "more idle ones than there is room for": Attack(600, b""),
    "answers that are not read": Attack(
        20, b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000
    ),
}


@contextmanager
def attacking(port: int, attack: Attack) -> Iterator[list[socket.socket]]:
    """Have these connections open, whatever the server does to them; one that it closes comes again."""
    stop = threading.Event()
    with ExitStack() as stack:
        found = [_begin(port, attack) for _ in range(attack.connections)]
        for one in found:
            stack.callback(one.close)

        def drip() -> None:
            while not stop.wait(1.0):
                for one in found:
                    try:
                        one.send(b"x")
                    except OSError:
                        continue

        dripping = threading.Thread(target=drip)
        if attack.drips:
            dripping.start()
            stack.callback(dripping.join)
        stack.callback(stop.set)
        yield found


def _begin(port: int, attack: Attack) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.settimeout(5)
    made.connect((HOST, port))
    made.setblocking(False)
    if attack.begins:
        made.send(attack.begins)  # as much as there is room for
    return made


class Served(NamedTuple):
    """How many of the requests that were asked meanwhile were answered, and in how many seconds."""

    count: int
    seconds: float


def served(port: int, path: str = "/healthz", count: int = 20, patience: float = 2.0) -> Served:
    """Ask as good clients do, each on its own connection, four at a time."""
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

"""Requests at a fixed rate, however fast they are answered, on kept connections.

`wrk` waits for a response before it sends the next request: while a server pauses, it sends none, and so
does not see how long they would have waited. Here the times at which requests are sent are fixed
beforehand, and a request's latency is counted from its time, also if no connection was free then.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from select import select
from time import perf_counter

from bench.sections import Failed
from service.demo.servers import HOST

#: A response without a body, or with one that is complete.
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNK = 65_536
_TIMEOUT = 10.0


def latencies(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    connections: int,
    status: int,
) -> list[float]:
    """Send ``rate`` requests a second; return the latency of each in seconds, sorted.

    All responses must have the status. The kernel wakes this process about 50 us late, which counts too.
    """
    total = int(rate * seconds)
    found: list[float] = []
    expected = b"HTTP/1.1 %d " % status
    with ExitStack() as stack:
        free = [stack.enter_context(_connection(port)) for _ in range(connections)]
        due: dict[socket.socket, float] = {}
        sent, began = 0, perf_counter()
        while len(found) < total:
            while sent < total and free and began + sent / rate <= perf_counter():
                connection = free.pop()
                connection.sendall(requests[sent % len(requests)])
                due[connection] = began + sent / rate
                sent += 1
            pause = _TIMEOUT
            if sent < total and free:
                pause = max(0.0, began + sent / rate - perf_counter())
            answered = select(due, [], [], pause)[0]
            if not answered and pause == _TIMEOUT:
                raise Failed(f"{len(due)} requests had no response within {_TIMEOUT:.0f} s")
            for connection in answered:
                _receive(connection, expected)
                found.append(perf_counter() - due.pop(connection))
                free.append(connection)
    return sorted(found)


def _connection(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=_TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _receive(connection: socket.socket, expected: bytes) -> None:
    """Read one response."""
    received = connection.recv(_CHUNK)
    while not _is_complete(received):
        more = connection.recv(_CHUNK)
        if not more:
            raise Failed(f"the server closed a connection after {received!r}")
        received += more
    if not received.startswith(expected):
        raise Failed(f"a response was {received[:200]!r}, not {expected.decode().strip()}")


def _is_complete(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    return bool(end) and len(body) >= (int(length[1]) if length else 0)

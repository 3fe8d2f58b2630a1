"""A plain socket: three system calls for a hit, each of which ends by the deadline."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from limiter import StoreUnavailable
from limiter.transport.connection import PlainSocket
from service.demo.servers import Server
from tests.transport.conftest import MakeLimiter
from tests.transport.support import timed

#: Larger than any socket's buffers here.
LARGE = b"x" * 4_000_000


@pytest.fixture
def ends() -> Iterator[tuple[PlainSocket, socket.socket]]:
    """A socket of ours, with small buffers, and the server's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield PlainSocket(ours), theirs


@pytest.fixture
def storm() -> Iterator[Counter[str]]:
    """A signal every 50 ms, whose handler only counts."""
    seen: Counter[str] = Counter()
    before = signal.signal(signal.SIGALRM, lambda *_: seen.update(["signals"]))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def times_out(call: Callable[[], Any], timeout: float) -> None:
    """The call raises TimeoutError, never before ``timeout``, and at its best at most 2 ms later."""
    took = []

    def fails() -> None:
        with pytest.raises(TimeoutError):
            call()

    for _ in range(20):
        took.append(timed(fails))
        if took[-1] < timeout + 0.002:
            break
    assert timeout - 0.000_1 <= min(took) < timeout + 0.002, took
    assert max(took) < timeout + 5.0, took


def noting(function: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    """The function, which also notes its name at each call."""

    def noted(*given: Any) -> Any:
        calls.append(name)
        return function(*given)

    return noted


def test_three_system_calls(make_limiter: MakeLimiter, own: Server) -> None:
    """The socket blocks, so that Python adds none of its own: send, poll, recv."""
    limiter = make_limiter(own.url).open()
    (connection,) = limiter._core.transport._node._idle  # type: ignore[attr-defined]
    plain = connection._send.__self__
    assert type(plain) is PlainSocket
    assert plain._socket.gettimeout() is None
    calls: list[str] = []
    for name in ("_send", "_poll", "_receive"):
        setattr(plain, name, noting(getattr(plain, name), name, calls))
    for _ in range(10):
        connection.used_at = (
            time.monotonic() + 60
        )  # it was used at this moment, however slow we are
        limiter.hit("u")
    assert calls == ["_send", "_poll", "_receive"] * 10
    calls.clear()
    connection.used_at = 0.0  # used long ago: one more look
    limiter.hit("u")
    assert calls == ["_poll", "_send", "_poll", "_receive"]


@pytest.mark.parametrize("timeout", [0.0004, 0.0205])
def test_a_reply_that_does_not_come(
    ends: tuple[PlainSocket, socket.socket], timeout: float
) -> None:
    """It gives up at the deadline: not before, and at most a millisecond later."""
    plain, _ = ends
    times_out(lambda: plain.receive(bytearray(9), time.monotonic() + timeout), timeout)


def test_a_reply_in_time_is_read_late(ends: tuple[PlainSocket, socket.socket]) -> None:
    """The thread got no processor until the deadline was over: the reply is there all the same."""
    plain, theirs = ends
    theirs.sendall(b"+OK\r\n")
    buffer = bytearray(9)
    assert plain.receive(buffer, time.monotonic() - 1) == 5
    assert buffer.startswith(b"+OK\r\n")


def test_a_full_send_buffer(ends: tuple[PlainSocket, socket.socket]) -> None:
    """The server reads late: the rest is sent when there is room, all of it and in order."""
    plain, theirs = ends
    received = bytearray()

    def read() -> None:
        while len(received) < len(LARGE) and (data := theirs.recv(65_536)):
            received.extend(data)

    reader = threading.Timer(0.05, read)  # the buffer is full by then
    reader.start()
    plain.send(LARGE, time.monotonic() + 20)
    reader.join(20)
    assert received == LARGE


def test_a_send_buffer_that_stays_full(ends: tuple[PlainSocket, socket.socket]) -> None:
    """The server does not read: neither the first part nor a next call waits beyond its deadline."""
    plain, _ = ends
    for _ in range(2):  # the second time, not one byte is taken
        times_out(lambda: plain.send(LARGE, time.monotonic() + 0.02), 0.02)


def test_a_server_that_closes_while_we_send(ends: tuple[PlainSocket, socket.socket]) -> None:
    """The error comes at once, not at the deadline."""
    plain, theirs = ends
    closer = threading.Timer(0.05, theirs.close)
    closer.start()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        plain.send(LARGE, time.monotonic() + 20)
    closer.join()


def test_signals_do_not_extend_a_deadline(
    ends: tuple[PlainSocket, socket.socket], storm: Counter[str]
) -> None:
    """Each interrupts the wait, which goes on for the time that is left, and no longer."""
    plain, _ = ends
    times_out(lambda: plain.receive(bytearray(9), time.monotonic() + 0.3), 0.3)
    times_out(lambda: plain.send(LARGE, time.monotonic() + 0.3), 0.3)
    assert storm["signals"] > 5


def test_signals_do_not_extend_a_call(
    make_limiter: MakeLimiter, own: Server, storm: Counter[str]
) -> None:
    """The same for a whole call to a server that has stopped."""
    limiter = make_limiter(own.url, timeout=0.3).open()

    def fails() -> None:
        with pytest.raises(StoreUnavailable, match="no answer within the deadline"):
            limiter.hit("u")

    own.pause()
    try:
        assert timed(fails) < 20  # with the timeout begun anew by each signal it would not end
    finally:
        own.resume()
    assert storm["signals"]

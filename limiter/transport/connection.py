"""One connection to a server, for threads: made by redis-py, and then written and read without it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from socket import MSG_DONTWAIT
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from limiter.errors import StoreRefused, StoreUnavailable
from limiter.transport import redispy
from limiter.transport.replies import cause, translate

#: Seconds after its last command in which a connection is used without a check that it is open.
_AT_ONCE = 0.001

#: Bytes read at once; the reply of a script has fewer than 1,000.
_BUFFER = 16_384

_CLOSED = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class PlainSocket:
    """Sends and receives by a deadline, with as few system calls as possible.

    The socket blocks, and no system call on it may: Python would otherwise look before each one whether
    it will. A socket's own timeout (``SO_RCVTIMEO``) would begin again after every signal.
    """

    __slots__ = ("_poll", "_receive", "_send", "_socket")

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(None)
        self._socket = connected
        self._send, self._receive = connected.send, connected.recv_into
        self._poll = _poll_of(connected, _CLOSED)

    def is_quiet(self) -> bool:
        """Whether there is nothing to read."""
        return not self._poll(0)

    def send(self, command: bytes, deadline: float) -> None:
        """Send the whole command; TimeoutError if the server does not take it by ``deadline``."""
        try:
            sent = self._send(command, MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent < len(command):
            self._send_rest(command[sent:], deadline)

    def receive(self, buffer: bytearray, deadline: float) -> int:
        """Read what has come, and return its size; TimeoutError if nothing comes by ``deadline``."""
        left = deadline - monotonic()
        # ``poll`` rounds up to milliseconds. A reply that came in time is read even if we are late.
        while self._poll(left * 1000 if left > 0 else 0):
            try:
                return self._receive(buffer, 0, MSG_DONTWAIT)
            except BlockingIOError:  # there was nothing to read after all
                left = deadline - monotonic()
        raise TimeoutError

    def _send_rest(self, rest: bytes, deadline: float) -> None:
        """Send on whenever the socket's full buffer has room again."""
        has_room = _poll_of(self._socket, select.POLLOUT)
        while rest:
            left = deadline - monotonic()
            if left <= 0 or not has_room(left * 1000):
                raise TimeoutError
            with suppress(BlockingIOError):
                rest = rest[self._send(rest, MSG_DONTWAIT) :]


class TlsSocket:
    """As ``PlainSocket``, with Python's timeouts: a piece of TLS may need several reads and writes."""

    __slots__ = ("_milliseconds", "_poll", "_socket")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._milliseconds = 0
        self._poll = _poll_of(connected, _CLOSED)

    def is_quiet(self) -> bool:
        """As ``PlainSocket.is_quiet``."""
        return not self._poll(0)

    def send(self, command: bytes, deadline: float) -> None:
        """As ``PlainSocket.send``."""
        self._wait_until(deadline)
        self._socket.sendall(command)

    def receive(self, buffer: bytearray, deadline: float) -> int:
        """As ``PlainSocket.receive``."""
        self._wait_until(deadline)
        return self._socket.recv_into(buffer)

    def _wait_until(self, deadline: float) -> None:
        # In whole milliseconds most calls have the same timeout, and setting one is a system call.
        milliseconds = max(ceil((deadline - monotonic()) * 1000), 1)
        if milliseconds != self._milliseconds:
            self._socket.settimeout(milliseconds / 1000)
            self._milliseconds = milliseconds


def _poll_of(connected: socket.socket, events: int) -> Callable[[float], list[tuple[int, int]]]:
    """Make a function that waits for these events, up to N milliseconds, also if signals interrupt it."""
    poller = select.poll()
    poller.register(connected, events)
    return poller.poll


class Connection:
    """A connection that redis-py has made, written and read without redis-py.

    redis-py's work around each command took a twentieth of a decision's time. Its timeout also counts
    for each piece of a reply; ours counts for the whole reply.
    """

    __slots__ = (
        "_buffer",
        "_feed",
        "_gets",
        "_has_more",
        "_is_quiet",
        "_receive",
        "_redis_connection",
        "_send",
        "_where",
        "authenticated_at",
        "opened_at",
        "used_at",
    )

    def __init__(self, redis_connection: Any, where: str) -> None:
        """Connect, by redis-py (address, TLS, AUTH, HELLO)."""
        self.authenticated_at = monotonic()  # the credentials are asked for later than that
        connected = redispy.connected(redis_connection)
        own = (TlsSocket if redispy.is_tls(connected) else PlainSocket)(connected)
        self._is_quiet, self._send, self._receive = own.is_quiet, own.send, own.receive
        self._redis_connection = redis_connection
        self._buffer = bytearray(_BUFFER)
        reader = redispy.new_reader()
        self._feed, self._gets, self._has_more = reader.feed, reader.gets, reader.has_data
        self._where = where
        self.opened_at = self.used_at = monotonic()
        """``used_at``: when a command was last sent; if the connection is idle, the reply came."""

    def is_open(self) -> bool:
        """Whether there is nothing to read; if the server had closed the connection, there would be."""
        at_once = monotonic() - self.used_at < _AT_ONCE
        return (at_once or self._is_quiet()) and not self._has_more()

    def execute(self, command: bytes, deadline: float) -> Any:
        """Send one command and read its reply, by ``deadline``.

        If this raises anything but ResponseError, even an exception of a signal handler, the connection
        was closed. Do not pass it to ``Node.give``: its reply might reach the next call.

        Raises:
            redis.ResponseError: The server answered with an error; the connection stays good.
            StoreUnavailable: No reply came by the deadline, or the connection broke. The command may
                have run.
            StoreRefused: The answer is not Redis's protocol.

        """
        try:
            self._send(command, deadline)
            self.used_at = monotonic()
            reply = self._read(deadline)
            if type(reply) is list or type(reply) is bytes:
                return reply
            reply = self._read_on(reply, deadline)
        except TimeoutError as error:
            self.close()
            raise StoreUnavailable(f"{self._where}: no answer within the deadline") from error
        # MemoryError: the answer announces an array for which there is no memory. TypeError: a key of a map
        # is a list, and hiredis makes a dictionary of it.
        except (InvalidResponse, MemoryError, TypeError) as error:
            self.close()
            raise StoreRefused(
                f"{self._where} answered with something other than Redis's protocol: {error!r:.200}"
            ) from error
        except (RedisError, OSError) as error:
            self.close()
            raise translate(error, self._where) from cause(error)
        except BaseException:  # a signal handler's exception while the reply is due
            self.close()
            raise
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def _read(self, deadline: float) -> Any:
        """Read the socket once, and return the reply if it is complete (it mostly is)."""
        count = self._receive(self._buffer, deadline)
        if not count:
            raise ConnectionLost("the server closed the connection")
        self._feed(self._buffer, 0, count)  # behind the bytes left over before
        return self._gets(False)

    def _read_on(self, reply: Any, deadline: float) -> Any:
        """Read until the reply is complete, by ``deadline``."""
        while True:
            if reply is redispy.NOT_COMPLETE:
                if monotonic() >= deadline:
                    raise TimeoutError
                reply = self._read(deadline)
            elif isinstance(reply, redispy.Push):
                reply = self._gets(False)
            else:
                return reply

    def close(self) -> None:
        """Close the connection."""
        self._redis_connection.disconnect()

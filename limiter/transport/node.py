"""The connections to one server, for threads: made in the background, kept for the next call."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import ceil, inf
from socket import MSG_DONTWAIT
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable, anew
from limiter.threads import start_thread
from limiter.transport import forks, redispy
from limiter.transport.attempts import Attempts
from limiter.transport.credentials import Credentials
from limiter.transport.redirects import SEARCH_EVERY
from limiter.transport.replies import cause, translate
from limiter.transport.store import Address

#: Idle connections that a node keeps; if there are more, the one unused for longest is closed.
IDLE_KEPT = 16

#: Attempts to connect at the same time. Many TLS handshakes at once would all end too late.
MOST_CONNECTING = 32

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


class IdleLimit:
    """How many idle connections each node of a transport keeps: none, while the transport is closed."""

    __slots__ = ("most",)

    def __init__(self, most: int = IDLE_KEPT) -> None:
        self.most = most


class Node:
    """One server, its idle connections, and the callers that wait for one."""

    def __init__(
        self,
        connect: Callable[[], Any],
        where: str,
        connect_timeout: float,
        address: Address,
        credentials: Credentials | None = None,
        limit: IdleLimit | None = None,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._limit = limit or IdleLimit()
        self._connect = connect
        self._connect_timeout = connect_timeout
        self.where = where
        self._closed_at = -inf
        #: When a connection was last opened to find a new primary, and whether it led to a replica; None
        #: while that is not known.
        self._searched_at = -inf
        self._found_replica: bool | None = False
        self.after_fork()
        forks.remember(self)

    def take(self, deadline: float) -> Connection:
        """An open connection for the caller alone; the caller passes it to ``give``, or closes it.

        Raises:
            StoreUnavailable: There was no connection by ``deadline``.
            StoreRefused: The server refused the connection.

        """
        return self.ready() or self._wait(deadline)

    def give(self, connection: Connection) -> None:
        """Keep the connection for the next caller; close it if there are too many."""
        credentials = self._credentials
        if credentials is not None and connection.authenticated_at < credentials.changed_at:
            self._renew_apart(connection, credentials)
            return
        idle = self._idle
        idle.append(connection)
        if self._waiting:
            with self._changed:
                self._changed.notify_all()  # some of the callers may wait for a newer connection
        elif len(idle) > self._limit.most:
            with suppress(IndexError):  # other threads took the connections in between
                idle.pop(0).close()

    def replace(self, connection: Connection, deadline: float) -> Connection | None:
        """Give up a connection that answered READONLY: a newer one may lead to the new primary.

        As long as newer connections lead to a replica, too, only one is opened every ``SEARCH_EVERY``. The
        other callers get None, and their connections are kept.

        Raises:
            StoreUnavailable, StoreRefused: As for ``take``.

        """
        with self._changed:
            now, since = monotonic(), self._searched_at
            is_new = connection.opened_at >= since
            if is_new and self._found_replica is None:
                self._found_replica = True
            if is_new or self._found_replica:
                if now - since < SEARCH_EVERY:
                    newer = None if is_new else self._newest(since)
                    self.give(connection)
                    return newer
                self._searched_at = since = now
                self._found_replica = self._found_replica or None
        connection.close()
        return self._wait(deadline, since)

    def found_primary(self, connection: Connection) -> None:
        """Note that a connection which replaced another one leads to a primary."""
        self._found_replica = False
        self.drop_idle(connection.opened_at)

    def close(self) -> None:
        """Close the idle connections; those in use are kept when their call ends, if the limit permits."""
        with self._changed:
            self._closed_at = monotonic()
            self._changed.notify_all()  # callers that wait must begin another attempt
        self.drop_idle()
        if self._credentials is not None:
            self._credentials.forget(self)

    def leave(self) -> None:
        """As ``close``, for good: the node has left the store, and only calls under way still use it."""
        self._limit = IdleLimit(0)
        self.close()

    def drop_idle(self, used_before: float = inf) -> None:
        """Close the idle connections last used before that time: they may be broken, too."""
        for connection in list(self._idle):
            if connection.used_at < used_before:
                try:
                    self._idle.remove(connection)
                except ValueError:
                    continue  # another thread has just taken it
                connection.close()

    def distrust(self, connection: Connection) -> None:
        """After a failure of ``connection``, close the idle ones that have not been used since."""
        self.drop_idle(connection.used_at)

    @property
    def has_idle(self) -> bool:
        """Whether a connection is ready, so that the node need not be connected first."""
        return bool(self._idle)

    def renew(self) -> None:
        """Authenticate idle connections anew, if the credentials have changed; ``give`` does the others."""
        credentials = self._credentials
        for connection in list(self._idle):
            if credentials is not None and connection.authenticated_at < credentials.changed_at:
                try:
                    self._idle.remove(connection)
                except ValueError:
                    continue  # another thread has just taken it
                self._renew(connection, credentials)

    def ready(self) -> Connection | None:
        """The idle connection that was used last, if it is still open."""
        idle = self._idle
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread took it in between
                break
            if connection.is_open():
                return connection
            connection.close()
        return None

    def _renew_apart(self, connection: Connection, credentials: Credentials) -> None:
        """Authenticate a connection anew, in a thread of its own, and keep it."""
        try:
            start_thread(partial(self._renew, connection, credentials), self.where)
        except StoreUnavailable:
            connection.close()

    def _renew(self, connection: Connection, credentials: Credentials) -> None:
        began = monotonic()
        try:
            connection.execute(credentials.auth, began + self._connect_timeout)
        except Exception as error:
            connection.close()  # the next connection has the same credentials, and says what is wrong
            credentials.complain(error)
        else:
            connection.authenticated_at = began
            self.give(connection)

    def _newest(self, since: float) -> Connection | None:
        """As ``ready``, of the connections that were opened since that time."""
        for connection in reversed(list(self._idle)):
            if connection.opened_at >= since:
                try:
                    self._idle.remove(connection)
                except ValueError:
                    continue  # another thread has just taken it
                if connection.is_open():
                    return connection
                connection.close()
        return None

    def _wait(self, deadline: float, since: float = -inf) -> Connection:
        """Wait for a connection: a new one, or one that another caller passes to ``give``.

        It was opened at ``since`` or later.
        """
        arrived = monotonic()
        ready = self.ready if since == -inf else partial(self._newest, since)
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    if connection := ready():
                        return connection
                    # One caller for each failure: the other attempts may succeed. The cause of an earlier
                    # attempt's failure may be over by now.
                    for failed in self._failures:
                        if failed[0] >= arrived:
                            self._failures.remove(failed)
                            raise anew(failed[1])
                    pause = self._attempts.pause(deadline)
                    if not pause and self._is_due():
                        began = monotonic()
                        start_thread(partial(self._open_one, began), self.where)
                        self._connecting.add(began)
                    left = deadline - monotonic()
                    if left <= 0:
                        self._attempts.check()  # each attempt may take longer than a caller can wait
                        raise StoreUnavailable(f"{self.where}: no connection within the deadline")
                    self._changed.wait(min(left, pause or self._connect_timeout))
            finally:
                self._waiting -= 1
                if not self._waiting:
                    self._failures.clear()
                    while len(self._idle) > self._limit.most:
                        with suppress(IndexError):
                            self._idle.pop(0).close()

    def _is_due(self) -> bool:
        """Whether to begin another attempt to connect: each caller that waits should have one under way.

        At most ``MOST_CONNECTING`` are, and only one after a failure. An attempt older than
        ``connect_timeout`` does not count (a name server may be silent). While there is one, only one newer
        attempt runs at a time, so that there is one more thread for each ``connect_timeout`` that the
        oldest attempt takes.
        """
        since = max(self._closed_at, monotonic() - self._connect_timeout)
        count = sum(began > since for began in self._connecting)
        alone = count < len(self._connecting) or self._attempts.failure is not None
        return count < (1 if alone else min(self._waiting, MOST_CONNECTING))

    def _open_one(self, began: float) -> None:
        """Connect, in a thread of its own: it may take longer than any caller can wait."""
        connection = failure = None
        try:
            connection = Connection(self._connect(), self.where)
        except Exception as error:
            failure = translate(error, self.where)
            failure.__cause__ = cause(error)
        if self._credentials is not None:
            with suppress(StoreUnavailable):  # this process can start no more threads
                self._credentials.watch(self)
        with self._changed:
            self._connecting.discard(began)
            if failure is None:
                self._attempts.succeeded()
            else:
                self._attempts.failed(failure)
                self._failures.append((began, failure))
            if connection is not None and began > self._closed_at:
                self.give(connection)
            elif connection is not None:
                connection.close()  # the node was closed after this attempt began
            self._changed.notify_all()

    def after_fork(self) -> None:
        """Forget the parent's connections, and replace the locks: in a fork's child, they may be held."""
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        #: Number of callers that wait for a connection.
        self._waiting = 0
        #: Failed attempts that no caller has raised yet: when they began, and why they failed.
        self._failures: list[tuple[float, LimiterError]] = []
        #: When each attempt to connect began, of those under way.
        self._connecting: set[float] = set()
        self._attempts = Attempts()

"""The connections to one server, for threads: made in the background, kept for the next call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from limiter.errors import LimiterError, StoreUnavailable, anew
from limiter.threads import start_thread
from limiter.transport import forks
from limiter.transport.attempts import Attempts
from limiter.transport.connection import Connection
from limiter.transport.credentials import Credentials
from limiter.transport.redirects import SEARCH_EVERY
from limiter.transport.replies import cause, translate
from limiter.transport.store import Address

#: Idle connections that a node keeps; if there are more, the one unused for longest is closed.
IDLE_KEPT = 16

#: Attempts to connect at the same time. Many TLS handshakes at once would all end too late.
MOST_CONNECTING = 32


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

"""One event loop's connection to one server, made in the background."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from limiter.errors import LimiterError, StoreUnavailable, anew
from limiter.transport.async_connection import AsyncConnection, open_connection
from limiter.transport.attempts import Attempts
from limiter.transport.credentials import Credentials, check_later
from limiter.transport.redirects import SEARCH_EVERY
from limiter.transport.replies import cause, translate
from limiter.transport.store import Address, Store

Result = TypeVar("Result")


class ConnectionCloser:
    """Closes the connections of one event loop: when the loop closes, or when their transport is gone."""

    def __init__(self, loop: AbstractEventLoop, gone: Callable[[AbstractEventLoop], None]) -> None:
        """``gone`` is called when the loop is about to be closed."""
        self._loop = loop
        self._gone = gone
        self.connections: set[AsyncConnection] = set()
        self._watch: AsyncGenerator[None, None] | None = None

    async def add(self, connection: AsyncConnection) -> None:
        """Remember to close this connection, too."""
        self.connections.difference_update([old for old in self.connections if old.ended.done()])
        self.connections.add(connection)
        if self._watch is None:
            self._watch = _until_closed(self.connections, self._loop, self._gone)
            await self._watch.__anext__()

    async def close(self, seconds: float) -> None:
        """Close the connections when their calls have ended, after ``seconds`` at the latest."""
        _retire_all(self.connections)
        await _ended(self.connections, seconds)
        _fail_all(self.connections)
        self.connections.clear()
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.aclose()

    def drop(self) -> None:
        """As ``close``, but from any thread, without waiting, and also after the loop was closed."""
        connections = list(self.connections)
        with suppress(RuntimeError):  # no loop is running in this thread
            if asyncio.get_running_loop() is self._loop:
                _retire_all(connections)
                return
        try:
            self._loop.call_soon_threadsafe(_retire_all, connections)
        except RuntimeError:  # it was closed
            for connection in connections:
                connection.abandon()

    def __del__(self) -> None:
        """Close the connections: their transport is gone."""
        self.drop()
        self.connections.clear()
        if self._watch is not None:
            # With nothing left to close the generator ends at once; else the loop would need a task for it.
            with suppress(StopIteration, RuntimeError):
                self._watch.aclose().send(None)


async def _until_closed(
    connections: set[AsyncConnection],
    loop: AbstractEventLoop,
    gone: Callable[[AbstractEventLoop], None],
) -> AsyncGenerator[None, None]:
    """Close the connections when the loop shuts down its generators, its last step before it closes."""
    try:
        yield
    finally:
        if connections:
            gone(loop)
            _fail_all(connections)
            await _ended(connections, 1.0)


def _retire_all(connections: Iterable[AsyncConnection]) -> None:
    for connection in connections:
        connection.retire()


def _fail_all(connections: Iterable[AsyncConnection]) -> None:
    for connection in connections:
        connection.fail(StoreUnavailable("the connection was closed with its event loop"))


async def _ended(connections: Iterable[AsyncConnection], seconds: float) -> None:
    ends = [connection.ended for connection in connections if not connection.ended.done()]
    if ends:
        await asyncio.wait(ends, timeout=seconds)


class AsyncNode:
    """One server, its one connection, and the callers that wait for it."""

    def __init__(
        self,
        connect: Callable[[], Any],
        where: str,
        timeout: float,
        connect_timeout: float,
        address: Address,
        closer: ConnectionCloser,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self._credentials = credentials
        #: When the connection was authenticated, and the task that does it anew, if it is under way.
        self._authenticated_at = -inf
        self._renewing: asyncio.Task[None] | None = None
        self.where = where
        self._connect = connect
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._closer = closer
        self.connection: AsyncConnection | None = None
        """The last connection made; it may be closed by now."""
        self._connecting: asyncio.Task[LimiterError | None] | None = None
        #: How often the node was closed.
        self._closes = 0
        self._attempts = Attempts()
        #: When a connection was last opened to find a new primary.
        self._searched_at = -inf
        self._has_left = False

    def ready(self) -> AsyncConnection | None:
        """The connection, if a call may be sent on it."""
        connection = self.connection
        if connection is None or connection.is_ready():
            return connection
        self.connection = None
        return None

    async def take(self, deadline: float) -> AsyncConnection:
        """The connection; if there is none, wait until it is made. Use it before the next await.

        Raises:
            StoreUnavailable: There was no connection by ``deadline``.
            StoreRefused: The server refused the connection.

        """
        while (connection := self.ready()) is None:
            connecting = self.connecting
            if connecting is None and (pause := self._attempts.pause(deadline)):
                await asyncio.sleep(pause)
                continue
            if connecting is None:
                connecting = asyncio.get_running_loop().create_task(self._open())
                self._connecting = connecting
            left = deadline - monotonic()
            if left <= 0:
                self._attempts.check()  # each attempt may take longer than a caller can wait
                raise StoreUnavailable(f"{self.where}: no connection within the deadline")
            await asyncio.wait([connecting], timeout=left)
            if connecting.done() and not connecting.cancelled():
                failure = connecting.result()
                if failure is not None:
                    raise anew(failure)
        return connection

    async def replace(self, connection: AsyncConnection, deadline: float) -> AsyncConnection | None:
        """As ``Node.replace``: all calls share the newer connection."""
        if connection is self.connection:
            now = monotonic()
            if now - self._searched_at < SEARCH_EVERY:
                return None
            self._searched_at = now
            connection.retire()
        return await self.take(deadline)

    def close(self) -> None:
        """Close the connection when its calls have ended; cancel an attempt to connect."""
        self._closes += 1
        if self.connection is not None:
            self.connection.retire()
        for task in (self.connecting, under_way(self._renewing)):
            if task is not None:
                task.cancel()

    def leave(self) -> None:
        """As ``close``, for good: a connection for calls that still wait is closed after their timeout."""
        self._has_left = True
        self.close()

    @property
    def connecting(self) -> asyncio.Task[LimiterError | None] | None:
        """The task that is making a connection, if any."""
        return under_way(self._connecting)

    @property
    def has_idle(self) -> bool:
        """Whether a connection is ready, so that the node need not be connected first."""
        return self.ready() is not None

    async def _open(self) -> LimiterError | None:
        """Connect, in a task of its own: it may take longer than any caller can wait."""
        failure = await self._opened()
        if failure is None:
            self._attempts.succeeded()
        else:
            self._attempts.failed(failure)
        return failure

    async def _opened(self) -> LimiterError | None:
        began, closes = monotonic(), self._closes
        try:
            connection = await open_connection(
                self._connect(), self.where, self._timeout, self._connect_timeout
            )
            await self._closer.add(connection)
        except Exception as error:
            failure = translate(error, self.where)
            failure.__cause__ = cause(error)
            return failure
        self.connection = connection
        self._authenticated_at = began
        if closes != self._closes:  # the cancellation came when it was ready
            connection.retire()
        elif self._credentials is not None:
            check_later(self, connection)
        if self._has_left:
            asyncio.get_running_loop().call_later(self._timeout, connection.retire)
        return None

    async def renew(self, connection: AsyncConnection) -> None:
        """Ask the provider, and if the credentials have changed, authenticate the connection anew."""
        credentials, began = self._credentials, monotonic()
        if credentials is None or connection is not self.ready():
            return
        try:
            await credentials.get_credentials_async()
            if self._authenticated_at < credentials.changed_at and connection is self.ready():
                deadline = monotonic() + self._connect_timeout
                if isinstance(
                    reply := await connection.send(credentials.auth, deadline), Exception
                ):
                    # The next connection has the same credentials, and says what is wrong.
                    connection.retire()
                    raise reply
                self._authenticated_at = began
        except Exception as error:
            credentials.complain(error)
        check_later(self, connection)

    def begin_renewal(self, connection: AsyncConnection) -> None:
        """As ``renew``, in a task."""
        self._renewing = asyncio.get_running_loop().create_task(self.renew(connection))


class NodeMaker(NamedTuple):
    """Makes the nodes of one event loop."""

    store: Store
    timeout: float
    connect_timeout: float
    closer: ConnectionCloser

    def make(self, address: Address | None, store: Store | None = None) -> AsyncNode:
        """Make a node of the store, or of another one; without an address, the only one."""
        store = store or self.store
        where = store.where if address is None else store.named(address)
        connect = partial(store.connection, address, self.connect_timeout)
        return AsyncNode(
            connect,
            where,
            self.timeout,
            self.connect_timeout,
            address or store.addresses[0],
            self.closer,
            store.credentials,
        )


def under_way(task: asyncio.Task[Result] | None) -> asyncio.Task[Result] | None:
    """Return the task, unless it has ended.

    A task cannot clear its own variable when it ends: if it is cancelled early, it never begins; with
    ``asyncio.eager_task_factory`` it may end before the variable is set.
    """
    return None if task is None or task.done() else task

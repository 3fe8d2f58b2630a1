"""One server, as one event loop sees it: its connection, made beside the calls."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable, anew
from limiter.transport.async_connection import AsyncConnection, open_connection
from limiter.transport.replies import cause, translate
from limiter.transport.store import Address, Store

Result = TypeVar("Result")


class ConnectionCloser:
    """Closes the connections of one event loop: with the loop, or when no transport has them any more."""

    def __init__(self, loop: AbstractEventLoop, gone: Callable[[AbstractEventLoop], None]) -> None:
        """``gone`` is called when the loop is about to be closed."""
        self._loop = loop
        self._gone = gone
        self.connections: set[AsyncConnection] = set()
        self._watch: AsyncGenerator[None, None] | None = None

    async def add(self, connection: AsyncConnection) -> None:
        """Close this connection, too, in the end."""
        self.connections.difference_update([old for old in self.connections if old.ended.done()])
        self.connections.add(connection)
        if self._watch is None:
            self._watch = _until_closed(self.connections, self._loop, self._gone)
            await self._watch.__anext__()

    async def close(self, seconds: float) -> None:
        """Close the connections when their calls have ended; after ``seconds`` at the latest."""
        _retire_all(self.connections)
        await _ended(self.connections, seconds)
        _fail_all(self.connections)
        self.connections.clear()
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.aclose()

    def drop(self) -> None:
        """As ``close``, from any thread and without waiting; the loop may have been closed."""
        connections = list(self.connections)
        with suppress(RuntimeError):  # no loop is running here
            if asyncio.get_running_loop() is self._loop:
                _retire_all(connections)
                return
        try:
            self._loop.call_soon_threadsafe(_retire_all, connections)
        except RuntimeError:  # it was closed
            for connection in connections:
                connection.abandon()

    def __del__(self) -> None:
        """The transport that had the connections is gone."""
        self.drop()
        self.connections.clear()
        if self._watch is not None:
            # With nothing left to close it ends at once; else the loop would make a task of that.
            with suppress(StopIteration, RuntimeError):
                self._watch.aclose().send(None)


async def _until_closed(
    connections: set[AsyncConnection],
    loop: AbstractEventLoop,
    gone: Callable[[AbstractEventLoop], None],
) -> AsyncGenerator[None, None]:
    """Ends when the loop shuts its generators down, the last thing that it does before it is closed."""
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
    """One server: one connection, and callers that wait for it."""

    def __init__(
        self,
        connect: Callable[[], Any],
        where: str,
        timeout: float,
        connect_timeout: float,
        address: Address,
        closer: ConnectionCloser,
    ) -> None:
        self.address = address
        self.where = where
        self._connect = connect
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._closer = closer
        self.connection: AsyncConnection | None = None
        """The connection, which may have been closed."""
        self._connecting: asyncio.Task[LimiterError | None] | None = None
        #: Why the last attempt ended, where time will not mend that.
        self._refusal: StoreRefused | None = None

    def ready(self) -> AsyncConnection | None:
        """The connection, if there is one that a call may be sent on."""
        connection = self.connection
        if connection is None or connection.is_ready():
            return connection
        self.connection = None
        return None

    async def take(self, deadline: float) -> AsyncConnection:
        """The connection, made where there is none; the caller uses it before it awaits anything else.

        Raises:
            StoreUnavailable: There was none by ``deadline``.
            StoreRefused: The server refuses to connect us.

        """
        while (connection := self.ready()) is None:
            connecting = self.connecting
            if connecting is None:
                connecting = asyncio.get_running_loop().create_task(self._open())
                self._connecting = connecting
            left = deadline - monotonic()
            if left <= 0:
                if self._refusal is not None:  # attempts end after the deadline, and all of them so
                    raise anew(self._refusal)
                raise StoreUnavailable(f"{self.where}: no connection within the deadline")
            await asyncio.wait([connecting], timeout=left)
            if connecting.done() and not connecting.cancelled():
                failure = connecting.result()
                if failure is not None:
                    raise anew(failure)
        return connection

    def close(self) -> None:
        """Close the connection when its calls have ended; end an attempt to connect."""
        if self.connection is not None:
            self.connection.retire()
        if (connecting := self.connecting) is not None:
            connecting.cancel()

    @property
    def connecting(self) -> asyncio.Task[LimiterError | None] | None:
        """The task that makes a connection now."""
        return under_way(self._connecting)

    @property
    def has_idle(self) -> bool:
        """Whether a connection is ready: such a node answers at once, or fails within the deadline."""
        return self.ready() is not None

    async def _open(self) -> LimiterError | None:
        """In a task of its own: connecting may take longer than any caller can wait."""
        failure = await self._opened()
        self._refusal = failure if isinstance(failure, StoreRefused) else None
        return failure

    async def _opened(self) -> LimiterError | None:
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
        return None


def make_node(
    store: Store,
    timeout: float,
    connect_timeout: float,
    closer: ConnectionCloser,
    address: Address | None,
) -> AsyncNode:
    """A node of the store; without an address, the only one."""
    where = store.where if address is None else store.named(address)
    connect = partial(store.connection, address, connect_timeout)
    return AsyncNode(
        connect, where, timeout, connect_timeout, address or store.addresses[0], closer
    )


def under_way(task: asyncio.Task[Result] | None) -> asyncio.Task[Result] | None:
    """The task, unless it has ended.

    The task itself cannot note its end: one that was cancelled early never began, and one that began at
    once (``asyncio.eager_task_factory``) may have ended before its maker knew of it.
    """
    return None if task is None or task.done() else task

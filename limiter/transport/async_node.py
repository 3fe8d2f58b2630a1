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
from limiter.transport.async_lane import AsyncLane, open_lane
from limiter.transport.replies import cause, translate
from limiter.transport.store import Address, Store

Result = TypeVar("Result")


class Guard:
    """Closes the connections of one event loop with the loop, or when nobody needs them any more."""

    def __init__(self, loop: AbstractEventLoop, gone: Callable[[AbstractEventLoop], None]) -> None:
        """``gone`` is called when the loop is about to be closed."""
        self._loop = loop
        self._gone = gone
        self.lanes: set[AsyncLane] = set()
        self._watch: AsyncGenerator[None, None] | None = None

    async def add(self, lane: AsyncLane) -> None:
        """Look after this connection too."""
        self.lanes.difference_update([old for old in self.lanes if old.ended.done()])
        self.lanes.add(lane)
        if self._watch is None:
            self._watch = _until_closed(self.lanes, self._loop, self._gone)
            await self._watch.__anext__()

    async def close(self, seconds: float) -> None:
        """Hang up, where calls are under way when they have ended; wait for that so long."""
        _retire_all(self.lanes)
        await _ended(self.lanes, seconds)
        _fail_all(self.lanes)
        self.lanes.clear()
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.aclose()

    def drop(self) -> None:
        """As ``close``, from any thread, whatever became of the loop; wait for nothing."""
        lanes = list(self.lanes)
        with suppress(RuntimeError):  # no loop is running here
            if asyncio.get_running_loop() is self._loop:
                _retire_all(lanes)
                return
        try:
            self._loop.call_soon_threadsafe(_retire_all, lanes)
        except RuntimeError:  # it was closed
            for lane in lanes:
                lane.abandon()

    def __del__(self) -> None:
        """Whoever used the connections is gone."""
        self.drop()
        self.lanes.clear()
        if self._watch is not None:
            # With nothing left to close it ends at once; else the loop would make a task of that.
            with suppress(StopIteration, RuntimeError):
                self._watch.aclose().send(None)


async def _until_closed(
    lanes: set[AsyncLane], loop: AbstractEventLoop, gone: Callable[[AbstractEventLoop], None]
) -> AsyncGenerator[None, None]:
    """Ends when the loop shuts its generators down, the last thing that it does before it is closed."""
    try:
        yield
    finally:
        if lanes:
            gone(loop)
            _fail_all(lanes)
            await _ended(lanes, 1.0)


def _retire_all(lanes: Iterable[AsyncLane]) -> None:
    for lane in lanes:
        lane.retire()


def _fail_all(lanes: Iterable[AsyncLane]) -> None:
    for lane in lanes:
        lane.fail(StoreUnavailable("the connection was closed with its event loop"))


async def _ended(lanes: Iterable[AsyncLane], seconds: float) -> None:
    ends = [lane.ended for lane in lanes if not lane.ended.done()]
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
        guard: Guard,
    ) -> None:
        self.address = address
        self.where = where
        self._connect = connect
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._guard = guard
        self.lane: AsyncLane | None = None
        """The connection, which may have been closed."""
        self._connecting: asyncio.Task[LimiterError | None] | None = None
        #: Why the last attempt ended, where time will not mend that.
        self._refusal: StoreRefused | None = None

    def ready(self) -> AsyncLane | None:
        """The connection, if there is one that a call may be sent on."""
        lane = self.lane
        if lane is None or lane.is_ready():
            return lane
        self.lane = None
        return None

    async def take(self, deadline: float) -> AsyncLane:
        """The connection, made where there is none; nothing else may be awaited before it is used.

        Raises:
            StoreUnavailable: There was none by ``deadline``.
            StoreRefused: The server does not let us in.

        """
        while (lane := self.ready()) is None:
            connecting = self.connecting
            if connecting is None:
                connecting = asyncio.get_running_loop().create_task(self._open())
                self._connecting = connecting
            left = deadline - monotonic()
            if left <= 0:
                if self._refusal is not None:  # no attempt ends within the deadline, but all end so
                    raise anew(self._refusal)
                raise StoreUnavailable(f"{self.where}: no connection within the deadline")
            await asyncio.wait([connecting], timeout=left)
            if connecting.done() and not connecting.cancelled():
                failure = connecting.result()
                if failure is not None:
                    raise anew(failure)
        return lane

    def close(self) -> None:
        """Hang up, where calls are under way when they have ended; connect no further."""
        if self.lane is not None:
            self.lane.retire()
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
            lane = await open_lane(
                self._connect(), self.where, self._timeout, self._connect_timeout
            )
            await self._guard.add(lane)
        except Exception as error:
            failure = translate(error, self.where)
            failure.__cause__ = cause(error)
            return failure
        self.lane = lane
        return None


def make_node(
    store: Store, timeout: float, connect_timeout: float, guard: Guard, address: Address | None
) -> AsyncNode:
    """A node of the store; without an address, the only one."""
    where = store.where if address is None else store.named(address)
    connect = partial(store.connection, address, connect_timeout)
    return AsyncNode(connect, where, timeout, connect_timeout, address or store.addresses[0], guard)


def under_way(task: asyncio.Task[Result] | None) -> asyncio.Task[Result] | None:
    """The task, unless it has ended.

    That is for whoever looks to see, not for the task to say: one that was cancelled early never
    began, and one that began at once (``asyncio.eager_task_factory``) may have ended before its
    maker knew of it.
    """
    return None if task is None or task.done() else task

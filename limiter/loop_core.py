"""How the limiter for coroutines runs its flows: in the awaiting task, or in background tasks."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import cached_property, partial
from math import inf
from time import monotonic
from typing import Any, TypeVar

from limiter.core import Core
from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Await, Flow, Pause
from limiter.lines import Lines, Waiter
from limiter.memory.transport import MEMORY, AsyncMemoryTransport
from limiter.prepaid import Terms
from limiter.prepaid_subjects import PrepaidSubjects, no_turn
from limiter.transport import AsyncTransport, connect_async
from limiter.transport.forks import remember

_Result = TypeVar("_Result")


class LoopCore(Core["AsyncTransport | AsyncMemoryTransport"]):
    """A limiter's core whose flows run in the awaiting task, or in background tasks."""

    @classmethod
    def connect(
        cls, store: object, timeout: float, connect_timeout: float
    ) -> AsyncTransport | AsyncMemoryTransport:
        """As ``Core.connect``."""
        if store == MEMORY:
            return AsyncMemoryTransport()
        return connect_async(store, timeout, connect_timeout)

    @cached_property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """The background tasks: an event loop itself keeps only weak references to tasks."""
        return set()

    @cached_property
    def _lines(self) -> dict[AbstractEventLoop, Lines]:
        """The lines of each event loop."""
        return {}

    @property
    def lines(self) -> Lines:
        """As ``Core.lines``."""
        loop = asyncio.get_running_loop()
        lines = self._lines.get(loop)
        if lines is None:
            for closed in [known for known in list(self._lines) if known.is_closed()]:
                self._lines.pop(closed, None)
            lines = self._lines[loop] = Lines(nullcontext)  # one thread runs all tasks of a loop
        return lines

    def new_waiter(self, deadline: float) -> Waiter:
        """As ``Core.new_waiter``."""
        return WaitingTask(deadline)

    def prepay(self, terms: Terms) -> PrepaidSubjects:
        """As ``Core.prepay``."""
        prepaid = super().prepay(terms)
        remember(prepaid)
        return prepaid

    async def take(self, prepaid: PrepaidSubjects, key: str, cost: int) -> Decision | None:
        """As ``ThreadCore.take``; a task takes the units, so that they stay if its caller is cancelled."""
        deadline = monotonic() + self.store.timeout
        loop = asyncio.get_running_loop()
        try:
            while prepaid.takes(key, cost):
                subject = prepaid.subject(key)
                turn: Turn | None = subject.turn
                if turn is None or turn.task.done() or turn.loop.is_closed():
                    task = self._task(prepaid.take_flow(subject, cost, deadline))
                    subject.turn = turn = Turn(loop, task, deadline)
                    task.add_done_callback(partial(turn.serve, prepaid, key))
                    return await asyncio.shield(task)
                if turn.loop is not loop:
                    return None  # another loop takes units: this hit does not wait for it
                served: asyncio.Future[Decision | None] = loop.create_future()
                turn.waiting.append((served, cost))
                if turn.deadline > deadline:  # most often the other take began, and ends, earlier
                    await asyncio.wait((served,), timeout=deadline - monotonic())
                    if not served.done():
                        served.cancel()
                        self._raise_late()
                decision = await served
                if decision is not None:
                    return decision
                if monotonic() >= deadline:
                    self._raise_late()
        except StoreUnavailable as error:
            return self.fallback(error, self.plan, "hit", key, cost, None, None)
        return None

    def _raise_late(self) -> None:
        """Raise the error of a caller that waited in vain for prepaid units."""
        error = no_turn(self.store.transport.where, self.store.timeout)
        self.note(error)
        raise error

    def run_beside(
        self, flow: Flow[None], interrupted: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """As ``Core.run_beside``."""
        # Those of a loop that was closed before they ended would stay for ever.
        self.tasks.difference_update(
            [old for old in list(self.tasks) if old.get_loop().is_closed()]
        )
        task = self._task(flow)
        if interrupted is not None:
            task.add_done_callback(partial(_report_interruption, interrupted))
        return _canceller(task)

    async def drive(self, flow: Flow[_Result]) -> _Result:
        """Run every step of a flow, and return its result."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Await):
                    try:
                        awaited = await step.call
                    except LimiterError as error:
                        step = flow.throw(error)
                    else:
                        step = flow.send(awaited)
                    continue
                if isinstance(step, Pause):
                    if step.sleeper is None:
                        await asyncio.sleep(step.seconds)
                    else:
                        await step.sleeper.sleep(step.seconds)
                    step = next(flow)
                    continue
                try:
                    try:
                        reply = await self.transport.run(step.call, step.deadline)
                    finally:
                        self.ended(step.call)
                except LimiterError as error:
                    self.note(error)
                    step = flow.throw(error)
                else:
                    self.outage.answered()
                    step = flow.send(reply)
        except StopIteration as done:
            result: _Result = done.value
            return result
        finally:
            flow.close()  # if it was cancelled, it refunds what it has charged

    async def surely(self, flow: Flow[_Result]) -> _Result:
        """As ``drive``, but in a task of its own, which ends even if the caller is cancelled."""
        return await asyncio.shield(self._task(flow))

    def _task(self, flow: Flow[_Result]) -> asyncio.Task[_Result]:
        """Drive a flow in a background task."""
        task = asyncio.get_running_loop().create_task(self.drive(flow))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class WaitingTask(Waiter):
    """A task that may have to wait."""

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Sleep for this time, or until another caller wakes this one."""
        timer = None if seconds == inf else self._loop.call_later(seconds, self._awake.set)
        try:
            await self._awake.wait()
        finally:
            self._awake.clear()
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """As ``Waiter.wake``; another thread may call it, too."""
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._awake.set)


class Turn:
    """A task that takes prepaid units of a subject, and the callers of its loop that wait for them."""

    def __init__(
        self, loop: AbstractEventLoop, task: asyncio.Task[Decision], deadline: float
    ) -> None:
        self.loop = loop
        self.task = task
        self.deadline = deadline
        self.waiting: list[tuple[asyncio.Future[Decision | None], int]] = []

    def serve(self, prepaid: PrepaidSubjects, key: str, task: asyncio.Task[Decision]) -> None:
        """Give the units to the callers in their order; each for whom too few are left goes on alone."""
        if not task.cancelled():
            task.exception()  # or the loop would report it if the task's own caller was cancelled
        for served, cost in self.waiting:
            if not served.done():
                served.set_result(prepaid.spend(key, cost))


def _report_interruption(interrupted: Callable[[str], None], task: asyncio.Task[None]) -> None:
    """Report what ended a task early, one turn of the loop later.

    If the loop is ending, it cancels the body, too, which then releases the lease first.
    """
    if task.cancelled():
        task.get_loop().call_soon(interrupted, "its renewal was cancelled")
    elif (error := task.exception()) is not None:
        task.get_loop().call_soon(interrupted, f"its renewal failed: {error!r:.200}")


def _canceller(task: asyncio.Task[None]) -> Callable[[], None]:
    """Make a function that cancels the task, except from the task itself."""

    def cancel() -> None:
        with suppress(RuntimeError):  # no loop is running here, or the task's loop was closed
            if task is asyncio.current_task():
                return
        with suppress(RuntimeError):
            task.get_loop().call_soon_threadsafe(task.cancel)

    return cancel

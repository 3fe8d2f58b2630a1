"""One way to call a limiter, for threads or for coroutines, and a clock for its calls."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    LeakyBucket,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    core,
    leases,
    lines,
    loop_core,
    testing,
    thread_core,
)
from limiter.policies import Policy

#: A moment of 2026, so that numbers are as large as in production.
NOW_US = 1_790_000_000_000_000

#: A deadline for tests that measure no time, on a busy machine.
PATIENCE = 10.0

#: One of each algorithm that a call may hit, all with the same numbers.
RATES: list[Policy] = [
    kind(10, 60)
    for kind in (FixedWindow, SlidingLog, SlidingWindow, TokenBucket, GCRA, LeakyBucket)
]
#: A policy with two places, and one whose limit no test reaches.
PLACES, PLENTY = Concurrency(2, lease=60), FixedWindow(1_000_000, "day")


def by_algorithm(policy: Policy) -> str:
    """A policy's name among the parameters of a test."""
    return policy.algorithm


def lefts(limiter: Any, subject: str) -> list[int]:
    """The units that each policy has left."""
    return [one.remaining for one in limiter.peek(subject).each]


#: The name of a task that makes a call of the test; other tasks run in the background.
OURS = "ours"


class Loop:
    """An event loop in its own thread, for as long as the tests run."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        #: What the loop reported of tasks and callbacks that failed without a caller.
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Run the coroutine in a task with the name ``OURS``, and return its result."""

        async def named() -> Any:
            asyncio.current_task().set_name(OURS)  # type: ignore[union-attr]
            return await call

        return asyncio.run_coroutine_threadsafe(named(), self.loop).result(30)

    def close(self) -> None:
        """Cancel all tasks, and close the loop."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.loop.shutdown_asyncgens()

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class InLoop:
    """An ``AsyncLimiter``, or its lease or reservation, called as the ones for threads are."""

    def __init__(self, inner: Any, loop: Loop) -> None:
        vars(self).update(inner=inner, loop=loop)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return self._blocking(found) if inspect.ismethod(found) else found

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.inner, name, value)

    def __enter__(self) -> InLoop:
        self.loop.run(self.inner.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self.loop.run(self.inner.__aexit__(*error))

    def _blocking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            result = method(*args, **more)
            if inspect.iscoroutine(result):
                return self.loop.run(result)
            return InLoop(result, self.loop) if hasattr(result, "__aenter__") else result

        return call


def set_time(limiter: Any, now_us: int) -> None:
    """As ``limiter.testing.set_time``, also of an ``InLoop``."""
    testing.set_time(getattr(limiter, "inner", limiter), now_us)


class Time:
    """The clock of a limiter and of its sleeps: only sleeping moves it."""

    def __init__(self, limiter: Any, patch: pytest.MonkeyPatch) -> None:
        self.limiter = limiter
        self.passed_us = 0
        #: The length of each sleep, in seconds.
        self.slept: list[float] = []
        #: The subject that another caller hits after each of the first ``visits`` sleeps.
        self.rival, self.visits = "", 0

        def sleep(seconds: float) -> None:
            if self.sleep(seconds):
                limiter.hit(self.rival)

        real = asyncio.sleep

        async def asleep(seconds: float) -> None:
            if asyncio.current_task().get_name() != OURS:  # type: ignore[union-attr]
                await real(seconds)
            elif self.sleep(seconds):
                await limiter.inner.hit(self.rival)

        patch.setattr(thread_core, "sleep", sleep)
        patch.setattr(thread_core.WaitingThread, "sleep", lambda _, seconds: sleep(seconds))
        patch.setattr(asyncio, "sleep", asleep)
        patch.setattr(loop_core.WaitingTask, "sleep", lambda _, seconds: asleep(seconds))
        for flows in (core, leases, lines):
            patch.setattr(flows, "monotonic", lambda: self.passed_us / 1e6)

    @property
    def passed_us(self) -> int:
        """Microseconds since the beginning."""
        return self._passed_us

    @passed_us.setter
    def passed_us(self, passed_us: int) -> None:
        self._passed_us = passed_us
        set_time(self.limiter, NOW_US + passed_us)

    def sleep(self, seconds: float) -> bool:
        """Let the time pass; return whether another caller hits then."""
        self.slept.append(seconds)
        self.passed_us += round(seconds * 1e6)
        return len(self.slept) <= self.visits

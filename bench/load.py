"""Calls of a limiter that go on all the time, as in production, and which of them were decided."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

from bench.sections import Failed
from limiter import AsyncLimiter, FixedWindow, Limiter, StoreUnavailable
from limiter.policies import Policy

#: The classes whose calls are measured; the second one's are made in an event loop.
KINDS = ("Limiter", "AsyncLimiter")

#: A limit that no load reaches.
PLENTY = (FixedWindow(10**9, per="365 days"),)

#: Seconds to wait for a decision.
_PATIENCE = 30.0
#: Seconds between two looks at the outcomes.
_LOOK_AGAIN = 0.002


class Outcome(NamedTuple):
    """One call: when it began and ended, and the error if the store did not decide it."""

    began: float
    ended: float
    error: StoreUnavailable | None


class Load:
    """Callers that call a limiter of one kind, each again ``pause`` seconds after its last call.

    ``call`` gets the limiter, and makes one call of it.
    """

    def __init__(
        self,
        kind: str,
        store: Any,
        call: Callable[[Any], Any],
        *,
        policies: tuple[Policy, ...] = PLENTY,
        callers: int = 1,
        pause: float = 0.005,
        **settings: Any,
    ) -> None:
        self.outcomes: list[Outcome] = []
        """Every call that has ended, in the order of their ends."""
        self._call = call
        self._callers = callers
        self._pause = pause
        self._ended = threading.Event()
        self._stack = ExitStack()
        settings |= {"store": store}
        if kind == "Limiter":
            limiter = Limiter(policies, **settings)
            self._stack.callback(limiter.close)
            self._works = [lambda: self._in_thread(limiter)] * callers
        else:
            self._works = [lambda: asyncio.run(self._in_loop(AsyncLimiter(policies, **settings)))]

    def __enter__(self) -> Load:
        threads = [threading.Thread(target=work, daemon=True) for work in self._works]
        for thread in threads:
            thread.start()
            self._stack.callback(thread.join)
        self._stack.callback(self._ended.set)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def decided_after(self, event: float) -> float:
        """Return the seconds from an event until the first decision of a call that began after it.

        Raises:
            Failed: There was none within 30 seconds.

        """
        looked_at, deadline = 0, time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            outcomes = self.outcomes[looked_at:]
            looked_at += len(outcomes)
            for outcome in outcomes:
                if outcome.began >= event and outcome.error is None:
                    return outcome.ended - event
            time.sleep(_LOOK_AGAIN)  # no event signals a call
        error = self.outcomes[-1].error if self.outcomes else "no call has ended"
        raise Failed(f"no call was decided for {_PATIENCE:.0f} s: {error}")

    def until_decided(self) -> None:
        """Wait until a call is decided."""
        self.decided_after(time.monotonic())

    def _in_thread(self, limiter: Limiter) -> None:
        while not self._ended.is_set():
            began, error = time.monotonic(), None
            try:
                self._call(limiter)
            except StoreUnavailable as failure:
                error = failure
            self._note(began, error)
            if self._pause:
                self._ended.wait(self._pause)

    async def _in_loop(self, limiter: AsyncLimiter) -> None:
        async def caller() -> None:
            while not self._ended.is_set():
                began, error = time.monotonic(), None
                try:
                    await self._call(limiter)
                except StoreUnavailable as failure:
                    error = failure
                self._note(began, error)
                await asyncio.sleep(self._pause)

        await asyncio.gather(*(caller() for _ in range(self._callers)))
        await limiter.close()

    def _note(self, began: float, error: StoreUnavailable | None) -> None:
        self.outcomes.append(Outcome(began, time.monotonic(), error))

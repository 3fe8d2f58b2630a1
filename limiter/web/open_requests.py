"""What requests in an event loop end: leases to release, charges to settle, also if they are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from limiter.web.by_response import Head
from limiter.web.guard import AsyncGuard
from limiter.web.limiter_calls import core_of
from limiter.web.settling import due, settling_flow
from limiter.web.verdict import Verdict

#: Seconds that pending releases and settlements may take when the server stops.
_STOP_TIMEOUT = 2.0


class OpenRequests:
    """The leases that requests hold, by the verdicts that gave them, and what is under way at their end."""

    def __init__(self) -> None:
        self._requests: dict[Verdict, AsyncGuard] = {}
        #: The releases under way.
        self._releases: dict[Verdict, asyncio.Task[Any]] = {}
        #: All tasks under way; an event loop does not keep its tasks alive.
        self._tasks: set[asyncio.Task[Any]] = set()

    def hold(self, guard: AsyncGuard, verdict: Verdict) -> None:
        """Hold the leases of an allowed request."""
        if verdict.leases:
            self._requests[verdict] = guard

    def begin_release(self, verdict: Verdict) -> None:
        """Begin to release them, in a task of its own: cancelling the request does not stop that."""
        guard = self._requests.pop(verdict, None)
        if guard is not None:
            task = self._releases[verdict] = self._task(guard.leave(verdict))
            task.add_done_callback(lambda _: self._releases.pop(verdict, None))

    async def release(self, verdict: Verdict) -> None:
        """Release them, and wait until that is done."""
        self.begin_release(verdict)
        if verdict in self._releases:
            await asyncio.shield(self._releases[verdict])

    def begin_settling(
        self, verdicts: Iterable[Verdict], status: int, fields: Iterable[tuple[Any, Any]]
    ) -> None:
        """Begin to settle the true cost of a request, in the background of its response."""
        for verdict in verdicts:
            if verdict.settles and (settlements := due(verdict, Head(status, fields))):
                core = core_of(settlements[0].result.rule.limiter)
                self._task(core.drive(settling_flow(settlements)))

    async def end_all(self) -> None:
        """Release all leases, and wait for a bounded time until all is done."""
        for verdict in list(self._requests):
            self.begin_release(verdict)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_TIMEOUT)

    def _task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

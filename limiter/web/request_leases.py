"""The leases of requests in an event loop: each is released once, also if its request is cancelled."""

from __future__ import annotations

import asyncio

from limiter.web.guard import AsyncGuard
from limiter.web.verdict import Verdict

#: Seconds that pending releases may take when the server stops.
_STOP_TIMEOUT = 2.0


class RequestLeases:
    """The leases that requests hold, by the verdicts that gave them."""

    def __init__(self) -> None:
        self._requests: dict[Verdict, AsyncGuard] = {}
        #: The releases under way; an event loop does not keep its tasks alive.
        self._tasks: dict[Verdict, asyncio.Task[None]] = {}

    def hold(self, guard: AsyncGuard, verdict: Verdict) -> None:
        """Hold the leases of an allowed request."""
        if verdict.leases:
            self._requests[verdict] = guard

    def begin_release(self, verdict: Verdict) -> None:
        """Begin to release them, in a task of its own: cancelling the request does not stop that."""
        guard = self._requests.pop(verdict, None)
        if guard is not None:
            task = asyncio.get_running_loop().create_task(guard.leave(verdict))
            self._tasks[verdict] = task
            task.add_done_callback(lambda _: self._tasks.pop(verdict, None))

    async def release(self, verdict: Verdict) -> None:
        """Release them, and wait until that is done."""
        self.begin_release(verdict)
        if verdict in self._tasks:
            await asyncio.shield(self._tasks[verdict])

    async def release_all(self) -> None:
        """Release all leases, and wait until that is done, for a bounded time."""
        for verdict in list(self._requests):
            self.begin_release(verdict)
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_STOP_TIMEOUT)

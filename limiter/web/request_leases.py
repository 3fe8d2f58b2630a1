"""The leases of requests in an event loop: each is released once, also if its request is cancelled."""

from __future__ import annotations

import asyncio

from limiter.web.guard import AsyncGuard
from limiter.web.verdict import Verdict

#: Seconds that pending releases may take when the server stops.
_STOP_TIMEOUT = 2.0


class RequestLeases:
    """The leases of one request."""

    def __init__(self, guard: AsyncGuard, verdict: Verdict, held: HeldLeases) -> None:
        self._guard = guard
        self._verdict = verdict
        self._held = held
        self._task: asyncio.Task[None] | None = None

    def begin_release(self) -> None:
        """Begin to release them, in a task of its own: cancelling the request does not stop that."""
        if self._task is None and self._verdict.leases:
            self._task = asyncio.get_running_loop().create_task(self._guard.leave(self._verdict))
            self._held.begin_release(self, self._task)

    async def release(self) -> None:
        """Release them, and wait until that is done."""
        self.begin_release()
        if self._task is not None and not self._task.done():
            await asyncio.shield(self._task)


class HeldLeases:
    """The leases of all requests."""

    def __init__(self) -> None:
        self._requests: set[RequestLeases] = set()
        #: An event loop does not keep its tasks alive.
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, guard: AsyncGuard, verdict: Verdict) -> RequestLeases:
        """Return the leases of an allowed request."""
        leases = RequestLeases(guard, verdict, self)
        if verdict.leases:
            self._requests.add(leases)
        return leases

    def begin_release(self, leases: RequestLeases, task: asyncio.Task[None]) -> None:
        """Keep the task that releases one request's leases."""
        self._requests.discard(leases)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def release(self) -> None:
        """Release all leases, and wait until that is done, for a bounded time."""
        for leases in list(self._requests):
            leases.begin_release()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_TIMEOUT)

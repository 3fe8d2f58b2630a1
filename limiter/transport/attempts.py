"""When a server may be connected again after an attempt that failed."""

from __future__ import annotations

from math import inf
from time import monotonic

from limiter.errors import LimiterError, anew

#: Seconds from a failed attempt to the next one; doubled for each attempt that fails, up to the most. An
#: attempt costs a millisecond or more (TLS), and callers that get no decision may ask all the time.
FIRST_PAUSE = 0.02
MOST_PAUSE = 0.08


class Attempts:
    """The attempts to connect to one server, of threads or of an event loop."""

    __slots__ = ("_next_at", "_pause", "failure")

    def __init__(self) -> None:
        self.failure: LimiterError | None = None
        """Why the last attempt failed, if it did."""
        self._pause = 0.0
        self._next_at = -inf

    def pause(self, deadline: float) -> float:
        """Seconds until the next attempt may begin, 0 if it may begin now.

        Raises:
            StoreUnavailable, StoreRefused: Why the last attempt failed; the next is after ``deadline``.

        """
        pause = self._next_at - monotonic()
        if pause > 0 and self._next_at >= deadline:
            self.check()
        return max(pause, 0.0)

    def check(self) -> None:
        """Raise the last failure, if the last attempt failed."""
        if self.failure is not None:
            raise anew(self.failure)

    def succeeded(self) -> None:
        """Note a connection: the next attempt may begin at once."""
        self.failure, self._pause, self._next_at = None, 0.0, -inf

    def failed(self, failure: LimiterError) -> None:
        """Note a failed attempt. If several were under way at the same time, they count as one."""
        self.failure, now = failure, monotonic()
        if now >= self._next_at:
            self._pause = min(max(self._pause * 2, FIRST_PAUSE), MOST_PAUSE)
            self._next_at = now + self._pause

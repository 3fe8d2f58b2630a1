"""Log when a store stops deciding, and when it decides again."""

from __future__ import annotations

import logging
from time import monotonic

from limiter.errors import StoreUnavailable
from limiter.log_throttle import LogThrottle

log = logging.getLogger("limiter.outage")

#: Seconds without a failure after which an outage counts as over. While one node of a cluster is down,
#: the others answer between its failures.
QUIET = 1.0


class Outage:
    """The failures of one store, counted for all limiters that share it.

    Threads and event loops may share it. It has no lock, for the same reason as ``LogThrottle``: a count
    may be wrong by a few simultaneous calls.
    """

    __slots__ = ("_calls", "_last", "_throttle", "_where", "since")

    def __init__(self, where: str) -> None:
        """``where`` is the store, for messages."""
        self._where = where
        self.since: float | None = None
        """When the outage began, by ``time.monotonic``; None while the store decides."""
        self._calls = 0
        self._last = 0.0
        self._throttle = LogThrottle()

    def failed(self, error: StoreUnavailable, instead: str) -> None:
        """Record a call without a decision; ``instead`` is what happens in its place, for the log."""
        self._last = now = monotonic()
        if self.since is None:
            self.since, self._calls = now, 0
        self._calls += 1
        left_out = self._throttle.passes("away")
        if left_out is not None:
            note = f" ({left_out} calls failed since the last such line)" if left_out else ""
            log.warning("no decision from %s; %s%s", error, instead, note)

    def answered(self) -> None:
        """Record a decision; a fast hit calls this only while ``since`` is set."""
        since, last = self.since, self._last
        if since is None or monotonic() - last < QUIET:
            return
        self.since = None
        if self._throttle.passes("back") is not None:
            log.warning(
                "%s decides again, after %.1f s in which %d calls failed",
                self._where,
                monotonic() - since,
                self._calls,
            )

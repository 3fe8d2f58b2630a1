"""What the log says when a store stops to decide, and when it decides again."""

from __future__ import annotations

import logging
from time import monotonic

from limiter.errors import StoreUnavailable
from limiter.log_throttle import LogThrottle

log = logging.getLogger("limiter.outage")

#: Seconds without a failure after which the store counts as back: while one node of a cluster is away,
#: the others go on to answer.
QUIET = 1.0


class Outage:
    """The failures of one store, as all limiters see them that share it.

    Threads and event loops may share it. It has no lock, as ``LogThrottle`` has none: a count may be off
    by the few calls that came at one instant.
    """

    __slots__ = ("_calls", "_last", "_throttle", "_where", "since")

    def __init__(self, where: str) -> None:
        """``where`` is the store, for messages."""
        self._where = where
        self.since: float | None = None
        """When it began, as ``time.monotonic`` counts; None while the store decides."""
        self._calls = 0
        self._last = 0.0
        self._throttle = LogThrottle()

    def failed(self, error: StoreUnavailable, instead: str) -> None:
        """A call found no decision; ``instead`` says what happens in its place."""
        self._last = now = monotonic()
        if self.since is None:
            self.since, self._calls = now, 0
        self._calls += 1
        left_out = self._throttle.passes("away")
        if left_out is not None:
            more = f" ({left_out} calls failed since the last such line)" if left_out else ""
            log.warning("no decision from %s; %s%s", error, instead, more)

    def answered(self) -> None:
        """A call found a decision; the shortest way of a hit looks at ``since`` before it calls this."""
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

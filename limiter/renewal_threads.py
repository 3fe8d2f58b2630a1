"""Threads that run flows in the background: renewals of leases, and late releases and refunds."""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import monotonic

from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Flow, Pause
from limiter.log_throttle import log_seldom
from limiter.threads import start_thread

log = logging.getLogger("limiter")

#: While one thread waits for a store that does not answer, another thread renews the next lease. If all
#: threads wait, leases that are due meanwhile may be lost.
_MOST_THREADS = 8
#: Idle threads kept while any flow is left, so that a new lease seldom needs a new thread.
_MOST_FREE = 2

#: Dropped flows that may stay in the queue, in addition to the number of flows that go on.
_MOST_DROPPED = 64


class RenewalThreads:
    """Resume each flow when its pause is over; the threads end when no flow is left.

    ``advance`` runs a flow up to its next pause, and returns the pause.
    """

    def __init__(self, advance: Callable[[Flow[None]], Pause]) -> None:
        self._advance = advance
        self._numbers = count()
        self.after_fork()

    def after_fork(self) -> None:
        """Begin without flows and threads: the child of a fork has none of its parent's."""
        self._changed = threading.Condition()
        #: When each flow goes on, the soonest first; some entries are of dropped flows.
        self._due: list[tuple[float, int, Flow[None]]] = []
        #: The flows that go on.
        self._flows: set[Flow[None]] = set()
        self._threads = self._free = 0

    def add(self, flow: Flow[None]) -> None:
        """Begin a flow; its first step is a pause.

        Raises:
            StoreUnavailable: This process can start no more threads; the flow was closed.

        """
        self._flows.add(flow)
        try:
            self._schedule(flow, self._advance(flow).seconds)
            with self._changed:
                self._start_if_none_is_free()
        except BaseException:  # also if the caller is interrupted: it cannot drop the flow itself
            self.drop(flow)
            with suppress(ValueError):  # a thread runs it, and ends it at its next pause
                flow.close()
            raise

    def drop(self, flow: Flow[None]) -> None:
        """End a flow at its pause."""
        with self._changed:
            self._flows.discard(flow)
            if not self._flows:  # the threads end now, not when the last pause is over
                self._due.clear()
                self._changed.notify_all()
            elif len(self._due) > 2 * len(self._flows) + _MOST_DROPPED:
                # In place: a signal handler may drop a flow while its thread schedules another one.
                self._due[:] = [entry for entry in self._due if entry[2] in self._flows]
                heapq.heapify(self._due)
                self._changed.notify()

    def _resume(self, flow: Flow[None]) -> None:
        """Run a flow up to its next pause, or to its end."""
        try:
            self._schedule(flow, self._advance(flow).seconds)
        except StopIteration:
            self._flows.discard(flow)
        except (
            BaseException
        ) as error:  # a fault in the code: the thread must still renew other leases
            self._flows.discard(flow)
            with suppress(BaseException):  # the flow reports to the holder
                flow.throw(LimiterError(f"its renewal failed: {error!r:.200}"))
            with suppress(BaseException):  # the application's log handler may fail
                log_seldom(log, logging.ERROR, "a lease is no longer renewed", exc_info=True)

    def _schedule(self, flow: Flow[None], pause: float) -> None:
        """Resume the flow after the pause."""
        with self._changed:
            heapq.heappush(self._due, (monotonic() + pause, next(self._numbers), flow))
            self._changed.notify()

    def _start_if_none_is_free(self) -> None:
        """Start a thread for the flow that is due next, if all threads are busy."""
        if not self._due or self._free > 0 or self._threads >= _MOST_THREADS:
            return
        try:
            start_thread(self._work, "no thread could renew a lease")
        except StoreUnavailable:
            if not self._threads:
                raise

    def _work(self) -> None:
        """Resume flows until enough other threads are idle."""
        with self._changed:
            self._threads += 1
            self._free += 1
        while (flow := self._next()) is not None:
            self._resume(flow)
            with self._changed:
                self._free += 1

    def _next(self) -> Flow[None] | None:
        """Wait for the next flow that is due; None if enough other threads wait, or no flow is left."""
        with self._changed:
            while self._due and self._free <= _MOST_FREE:
                due, _, flow = self._due[0]
                if flow not in self._flows:
                    heapq.heappop(self._due)
                elif (left := due - monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    heapq.heappop(self._due)
                    self._free -= 1
                    self._start_if_none_is_free()
                    self._changed.notify()  # another thread waits for the next flow
                    return flow
            self._free -= 1
            self._threads -= 1
            return None

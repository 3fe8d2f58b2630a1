"""Threads that run the flows nobody waits for, as renewals of leases: one is free, so that none is late."""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import monotonic

from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Flow
from limiter.log_throttle import log_seldom
from limiter.threads import start_thread

log = logging.getLogger("limiter")

#: A store that does not answer about one lease must not let the others end: while somebody waits for
#: it another thread is free, up to so many. A lease that none of them comes to before its end is lost.
_MOST_THREADS = 8
#: So many stay free while anything is to come, so that not each lease begins a thread.
_MOST_FREE = 2

#: So many flows that were dropped may be due still, beside as many as go on.
_MOST_DROPPED = 64


class RenewalThreads:
    """Wakes each flow when its pause is over; threads live for as long as there are any.

    ``advance`` runs a flow up to its next pause, and returns how long that is.
    """

    def __init__(self, advance: Callable[[Flow[None]], float]) -> None:
        self._advance = advance
        self._numbers = count()
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew: a child holds none of its parent's leases, and has none of its threads."""
        # Entered by itself: whoever is interrupted at the end of ``Condition.__enter__``, which is
        # Python's own code, would keep it for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._due: list[tuple[float, int, Flow[None]]] = []
        #: Those that go on; of the ones that were dropped, some are due still.
        self._flows: set[Flow[None]] = set()
        self._threads = self._free = 0

    def add(self, flow: Flow[None]) -> None:
        """Begin a flow; its first step is a pause.

        Raises:
            StoreUnavailable: This process gets no more threads; as after whatever interrupts us, the
                flow was closed.

        """
        self._flows.add(flow)
        try:
            self._line_up(flow, self._advance(flow))
            with self._lock:
                self._see_to_it()
        except BaseException:  # perhaps our caller was interrupted, who is to know
            self.drop(flow)
            with suppress(ValueError):  # a thread is about to end it
                flow.close()
            raise

    def drop(self, flow: Flow[None]) -> None:
        """Let a flow go on no more, which need not be kept until its pause is over."""
        with self._lock:
            self._flows.discard(flow)
            if not self._flows:  # the threads need not wait for anybody
                self._due.clear()
                self._changed.notify_all()
            elif len(self._due) > 2 * len(self._flows) + _MOST_DROPPED:
                due = [one for one in self._due if one[2] in self._flows]
                heapq.heapify(due)
                # In place: a signal's handler may drop something while its thread lines something up.
                self._due[:] = due
                self._changed.notify()

    def _go_on(self, flow: Flow[None]) -> None:
        """Run it up to its next pause; whatever comes of that, others are to be renewed."""
        try:
            self._line_up(flow, self._advance(flow))
        except StopIteration:
            self._flows.discard(flow)
        except BaseException as error:
            self._flows.discard(flow)
            # Who holds it is told, as of any other refusal; a flow that has ended tells nobody.
            with suppress(BaseException):
                flow.throw(LimiterError(f"its renewal failed: {error!r:.200}"))
            with suppress(BaseException):
                flow.close()
            with suppress(BaseException):  # it may be the log itself that failed
                log_seldom(log, logging.ERROR, "a lease is renewed no more", exc_info=True)

    def _line_up(self, flow: Flow[None], pause: float) -> None:
        """Remember when it is to go on."""
        with self._lock:
            heapq.heappush(self._due, (monotonic() + pause, next(self._numbers), flow))
            self._changed.notify()

    def _see_to_it(self) -> None:
        """Have somebody free for what is due next."""
        if not self._due or self._free > 0 or self._threads >= _MOST_THREADS:
            return
        try:
            start_thread(self._keep, "nobody could renew a lease")
        except StoreUnavailable:
            if not self._threads:
                raise

    def _keep(self) -> None:
        with self._lock:
            # Here, since whoever begins a thread may be interrupted before it could count it. One
            # that was begun too many finds enough others, and ends.
            self._threads += 1
            self._free += 1
        while (flow := self._next()) is not None:
            self._go_on(flow)
            with self._lock:
                self._free += 1

    def _next(self) -> Flow[None] | None:
        """Wait for the next flow that is due; None where enough others do, or nothing is to come."""
        with self._lock:
            while self._due and self._free <= _MOST_FREE:
                due, _, flow = self._due[0]
                if flow not in self._flows:
                    heapq.heappop(self._due)
                elif (left := due - monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    heapq.heappop(self._due)
                    self._free -= 1
                    self._see_to_it()
                    self._changed.notify()  # somebody else is to see what is next
                    return flow
            self._free -= 1
            self._threads -= 1
            return None

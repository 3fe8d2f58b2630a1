"""A thread that runs the flows nobody waits for, the renewal of leases; more while it falls behind."""

from __future__ import annotations

import heapq
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import monotonic

from limiter.errors import StoreUnavailable
from limiter.flows import Flow

log = logging.getLogger("limiter")

#: A flow that begins so many seconds late gets another thread to help, up to so many: a store that
#: does not answer about one lease must not let the others end.
_LATE = 0.1
_MOST_THREADS = 8

#: So many flows that were dropped may be due still, beside as many as go on.
_MOST_DROPPED = 64


class Keeper:
    """Wakes each flow when its pause is over; a thread lives for as long as there are any.

    ``advance`` runs a flow up to its next pause, and returns how long that is.
    """

    def __init__(self, advance: Callable[[Flow[None]], float]) -> None:
        self._advance = advance
        self._numbers = count()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Flow[None]]] = []
        #: Those that go on; of the ones that were dropped, some are due still.
        self._flows: set[Flow[None]] = set()
        self._threads = 0

    def add(self, flow: Flow[None]) -> None:
        """Begin a flow; its first step is a pause.

        Raises:
            StoreUnavailable: This process gets no more threads.

        """
        if self._process != os.getpid():
            self._begin()  # a fork's child holds none of its parent's leases, and not its thread
        self._flows.add(flow)
        try:
            self._put(flow)
        except RuntimeError as error:
            self._flows.discard(flow)
            raise StoreUnavailable(f"nobody could renew a lease: {error}") from error

    def drop(self, flow: Flow[None]) -> None:
        """Let a flow go on no more, which need not be kept until its pause is over."""
        with self._changed:
            self._flows.discard(flow)
            if not self._flows:  # the threads need not wait for anybody
                self._due.clear()
                self._changed.notify_all()
            elif len(self._due) > 2 * len(self._flows) + _MOST_DROPPED:
                self._due = [one for one in self._due if one[2] in self._flows]
                heapq.heapify(self._due)
                self._changed.notify()

    def _put(self, flow: Flow[None]) -> None:
        """Run it up to its next pause, and remember when that is over."""
        try:
            due = monotonic() + self._advance(flow)
        except StopIteration:
            self._flows.discard(flow)
            return
        except BaseException:  # whatever it is, others are to be renewed
            self._flows.discard(flow)
            log.exception("a lease is renewed no more")
            return
        with self._changed:
            heapq.heappush(self._due, (due, next(self._numbers), flow))
            if not self._threads:
                self._start()
            self._changed.notify()

    def _start(self) -> None:
        threading.Thread(target=self._keep, daemon=True).start()
        self._threads += 1

    def _keep(self) -> None:
        while True:
            with self._changed:
                while self._due and (left := self._due[0][0] - monotonic()) > 0:
                    if self._threads > 1:  # nobody is late any more: one will do
                        self._threads -= 1
                        return
                    self._changed.wait(left)
                if not self._due:
                    self._threads -= 1
                    return
                due, _, flow = heapq.heappop(self._due)
                if flow not in self._flows:
                    continue
                if monotonic() - due > _LATE and self._threads < _MOST_THREADS:
                    with suppress(RuntimeError):  # this process gets no more threads
                        self._start()
            self._put(flow)

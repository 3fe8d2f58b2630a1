"""How the limiter for threads runs its flows: in the calling thread, or in background threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from time import monotonic, sleep
from typing import Any, TypeVar

from limiter.core import Core
from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow, Pause
from limiter.lines import Lines, Waiter
from limiter.memory.transport import MEMORY, MemoryTransport
from limiter.prepaid import Terms
from limiter.prepaid_subjects import PrepaidSubjects, no_turn
from limiter.renewal_threads import RenewalThreads
from limiter.transport import Transport, connect
from limiter.transport.forks import remember

_Result = TypeVar("_Result")


class ThreadCore(Core["Transport | MemoryTransport"]):
    """A limiter's core whose flows run in the calling thread, or in background threads."""

    @classmethod
    def connect(
        cls, store: object, timeout: float, connect_timeout: float
    ) -> Transport | MemoryTransport:
        """As ``Core.connect``."""
        return MemoryTransport() if store == MEMORY else connect(store, timeout, connect_timeout)

    @cached_property
    def renewal_threads(self) -> RenewalThreads:
        """The threads that run flows in the background."""
        threads = RenewalThreads(self._advance)
        remember(threads)
        return threads

    def new_turn(self) -> Any:
        """As ``Core.new_turn``: a lock that does not stop a signal handler of the thread that holds it."""
        return threading.RLock()

    @cached_property
    def lines(self) -> Lines:
        """As ``Core.lines``; a lock that does not stop a signal handler of the thread that holds it."""
        lines = Lines(threading.RLock)
        remember(lines)
        return lines

    def new_waiter(self, deadline: float) -> Waiter:
        """As ``Core.new_waiter``."""
        return WaitingThread(deadline)

    def prepay(self, terms: Terms) -> PrepaidSubjects:
        """As ``Core.prepay``."""
        prepaid = super().prepay(terms)
        remember(prepaid)
        return prepaid

    def take(self, prepaid: PrepaidSubjects, key: str, cost: int) -> Decision | None:
        """Hit, and take units in advance; None: this hit takes none.

        Only one caller takes units of a subject at a time; others wait for them until their deadline.
        """
        if not prepaid.takes(key, cost):
            return None
        deadline = monotonic() + self.store.timeout
        subject = prepaid.subject(key)
        turn = subject.turn
        try:
            if not turn.acquire(timeout=self.store.timeout):
                # A signal handler may have ended the other call before it could release its turn.
                subject.turn = self.new_turn()
                error = no_turn(self.store.transport.where, self.store.timeout)
                self.note(error)
                raise error
            try:
                return self.drive(prepaid.take_flow(subject, cost, deadline))
            finally:
                turn.release()
        except StoreUnavailable as error:
            return self.fallback(error, self.plan, "hit", key, cost, None, None)

    def run_beside(
        self, flow: Flow[None], interrupted: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """As ``Core.run_beside``."""
        threads = self.renewal_threads
        threads.add(flow)
        return partial(threads.drop, flow)

    def drive(self, flow: Flow[_Result]) -> _Result:
        """Run every step of a flow, and return its result."""
        try:
            while True:
                pause = self._advance(flow)
                if pause.sleeper is None:
                    sleep(pause.seconds)
                else:
                    pause.sleeper.sleep(pause.seconds)
        except StopIteration as done:
            result: _Result = done.value
            return result
        finally:
            flow.close()  # if it was interrupted, it refunds what it has charged

    def _advance(self, flow: Flow[Any]) -> Pause:
        """Run a flow up to its next pause, and return that; StopIteration at the end."""
        step = next(flow)
        while not isinstance(step, Pause):
            assert isinstance(step, Ask)  # noqa: S101 (a thread cannot run an ``Await``)
            try:
                try:
                    reply = self.transport.run(step.call, step.deadline)
                finally:
                    self.ended(step.call)
            except LimiterError as error:
                self.note(error)
                step = flow.throw(error)
            else:
                self.outage.answered()
                step = flow.send(reply)
        return step


class WaitingThread(Waiter):
    """A thread that may have to wait: it sleeps until its lock is released."""

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self.thread = threading.get_ident()
        self._awake = threading.Lock()
        self._awake.acquire()

    def sleep(self, seconds: float) -> None:
        """Sleep for this time, or until another caller wakes this one."""
        self._awake.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        """As ``Waiter.wake``."""
        with suppress(RuntimeError):  # it is awake already
            self._awake.release()

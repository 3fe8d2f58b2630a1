"""Threads as greenlets, one at a time: the seed chooses which goes on.

A thread gives way where it waits, where it takes a lock, where it uses a socket, and now and then where it
reads the clock. So one thread of the system runs all of them, and a seed always leads to the same order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import greenlet

from tests.simulation.world import Stuck, World

Condition = Callable[[], bool]


class SimulatedThread:
    """One thread: what it waits for, and until when."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], None], number: int) -> None:
        self.number = number
        self.ready: Condition | None = None
        self.deadline: float | None = None
        self.greenlet = greenlet.greenlet(lambda: scheduler.execute(self, work), scheduler.main)


class Scheduler:
    """Runs the threads of one schedule."""

    def __init__(self, world: World, gives_way: float) -> None:
        """``gives_way`` is how likely a thread lets others go first where it need not wait."""
        self._world = world
        self._gives_way = gives_way
        self.main = greenlet.getcurrent()
        self.threads: list[SimulatedThread] = []
        self._current: SimulatedThread | None = None
        self.errors: list[BaseException] = []
        """What threads have raised."""

    @property
    def current(self) -> int:
        """The number of the running thread; 0 outside of all threads."""
        return self._current.number if self._current else 0

    def start(self, work: Callable[[], None]) -> None:
        """Begin a thread."""
        thread = SimulatedThread(self, work, self._world.number())
        self.threads.append(thread)
        self.give_way()

    def execute(self, thread: SimulatedThread, work: Callable[[], None]) -> None:
        """Run a thread's work."""
        try:
            work()
        except BaseException as error:
            self.errors.append(error)
        self.threads.remove(thread)

    def wait(self, ready: Condition, seconds: float | None = None) -> bool:
        """Let others run until ``ready`` is true, or for this many seconds; return whether it is true."""
        thread = self._current
        if thread is None:
            return ready()
        thread.ready = ready
        thread.deadline = None if seconds is None else self._world.now + seconds
        self.main.switch()
        return ready()

    def give_way(self) -> None:
        """Perhaps let others run."""
        if self._current is not None and self._world.chance(self._gives_way):
            self._current.ready = None
            self.main.switch()

    def run(self, until: float | None = None) -> None:
        """Run all threads to their ends, or up to a time.

        Raises:
            Stuck: None of them can ever go on.

        """
        world = self._world
        while self.threads or until is not None:
            world.run_until(world.now)
            able = [each for each in self.threads if _is_able(each, world.now)]
            if able:
                thread = able[world.random.randrange(len(able))] if len(able) > 1 else able[0]
                self._current, thread.ready = thread, None
                thread.greenlet.switch()
                self._current = None
                continue
            times = [each.deadline for each in self.threads if each.deadline is not None]
            times += [when for when in (world.next_at, until) if when is not None]
            if not times:
                raise Stuck("no thread will ever go on")
            if until is not None and min(times) >= until:
                world.run_until(until)
                return
            world.now = max(world.now, min(times))


def _is_able(thread: SimulatedThread, now: float) -> bool:
    if thread.ready is None or thread.ready():
        return True
    return thread.deadline is not None and thread.deadline <= now


class SimulatedRLock:
    """As ``threading.RLock``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._owner: int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.RLock.acquire``."""
        scheduler = self._scheduler
        scheduler.give_way()
        own = scheduler.current
        if self._owner not in (None, own):
            seconds = None if timeout < 0 else timeout
            if not blocking or not scheduler.wait(lambda: self._owner is None, seconds):
                return False
        self._owner = own
        self._count += 1
        return True

    def release(self) -> None:
        """As ``threading.RLock.release``."""
        if self._owner != self._scheduler.current:
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._scheduler.give_way()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SimulatedLock(SimulatedRLock):
    """As ``threading.Lock``: another thread may release it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.Lock.acquire``."""
        scheduler = self._scheduler
        scheduler.give_way()
        if self._count:
            seconds = None if timeout < 0 else timeout
            if not blocking or not scheduler.wait(lambda: not self._count, seconds):
                return False
        self._count = 1
        return True

    def release(self) -> None:
        """As ``threading.Lock.release``."""
        if not self._count:
            raise RuntimeError("release unlocked lock")
        self._count = 0


class SimulatedCondition(SimulatedRLock):
    """As ``threading.Condition``."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._waiting: deque[_Notified] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """As ``threading.Condition.wait``."""
        notified = _Notified()
        self._waiting.append(notified)
        owner, count = self._owner, self._count
        self._owner, self._count = None, 0
        try:
            woken = self._scheduler.wait(lambda: notified.is_true, timeout)
        finally:
            self._scheduler.wait(lambda: self._owner is None)
            self._owner, self._count = owner, count
            if not notified.is_true:
                self._waiting.remove(notified)
        return woken

    def notify_all(self) -> None:
        """As ``threading.Condition.notify_all``."""
        while self._waiting:
            self._waiting.popleft().is_true = True


class _Notified:
    """Whether a waiting thread was notified."""

    is_true = False


class SimulatedThreading:
    """What the library finds in the place of the module ``threading``."""

    TIMEOUT_MAX = threading.TIMEOUT_MAX

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def Condition(self) -> SimulatedCondition:  # noqa: N802 (as in threading)
        """As ``threading.Condition``."""
        return SimulatedCondition(self._scheduler)

    def RLock(self) -> SimulatedRLock:  # noqa: N802 (as in threading)
        """As ``threading.RLock``."""
        return SimulatedRLock(self._scheduler)

    def Lock(self) -> SimulatedLock:  # noqa: N802 (as in threading)
        """As ``threading.Lock``."""
        return SimulatedLock(self._scheduler)

    def Thread(self, target: Callable[[], None], daemon: bool) -> Any:  # noqa: N802 (as in threading)
        """As ``threading.Thread``."""
        return _Begun(self._scheduler, target)

    def get_ident(self) -> int:
        """As ``threading.get_ident``."""
        return self._scheduler.current


class _Begun:
    """A thread to start."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._work = work

    def start(self) -> None:
        """As ``threading.Thread.start``."""
        self._scheduler.start(self._work)

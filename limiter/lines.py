"""The lines of callers that wait for one subject in one process: they pass in the order of their arrival.

The first in a line tries, and sleeps until its next try may pass. The others sleep until they are first, or
until their deadline. So a denied try is repeated once for a line, not once for each caller.

* If no other caller waits for a subject, a first try is not delayed: such callers try side by side.
* A caller that arrives behind others asks without taking. If it cannot pass in time, it is denied at once.
* A refund, a reset or a release in this process ends the sleep of the first in line, which tries at once.
* A caller that leaves wakes the next one, also if it gave up or was interrupted.

Other processes, and calls that do not wait, stand in no line. This module makes no call to a store, and
does not know whether a caller is a thread or a task.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import count
from math import inf
from operator import attrgetter
from time import monotonic
from typing import Any, Protocol

from limiter.decision import Decision, RateLimited
from limiter.errors import StoreUnavailable
from limiter.flows import Flow, Pause
from limiter.keys import Key
from limiter.plan import Cost, Plan

#: Seconds between two tries to take a lease, at most: another process may release one at any time.
_ASK_EVERY = 1.0
#: The first in line tries as often as all would without a line, but at most this many times as often.
_MOST_ASKS = 10

#: A sleep is longer than needed by up to this part, at random: else the first callers of several processes,
#: which wait for the same moment, would all try at once.
_JITTER = 0.05

_arrivals = count()
_by_arrival = attrgetter("arrival")


class Waiter:
    """A caller that may have to wait.

    Attributes:
        deadline: When it gives up, by ``time.monotonic``.
        arrival: Its number; a caller that arrives later has a larger one.
        thread: The thread that runs it, if that runs nothing else meanwhile; None for a task.
        line: The line in which it stands.

    """

    thread: int | None = None

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.arrival = next(_arrivals)
        self.line: Line | None = None

    @property
    def is_first(self) -> bool:
        """Whether no other caller stands before it."""
        return self.line is None or self.line[:1] in ([], [self])

    def wake(self) -> None:
        """End its sleep, or the next one if it does not sleep now."""
        raise NotImplementedError

    def withdraw(self) -> None:
        """Make it give up."""
        self.deadline = -inf
        self.wake()


class Line(list[Waiter]):
    """The callers that wait for a subject, in their order.

    Attributes:
        keys: The keys of the subject's state.
        denial: The last denial of a caller that was first.

    """

    def __init__(self, keys: Sequence[bytes], denial: Decision) -> None:
        super().__init__()
        self.keys = keys
        self.denial = denial


class Lines:
    """The lines of one limiter, by key: of all threads, or of all tasks of one event loop.

    ``new_guard`` makes what a caller holds while it changes a line.
    """

    def __init__(self, new_guard: Callable[[], AbstractContextManager[Any]]) -> None:
        self._new_guard = new_guard
        self._by_key: dict[bytes, Line] = {}
        self._guard = new_guard()

    def after_fork(self) -> None:
        """Begin without lines: the child of a fork has none of its parent's other threads."""
        lines, self._by_key, self._guard = self._by_key, {}, self._new_guard()
        for line in lines.values():
            line.clear()

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def join(self, waiter: Waiter, keys: Sequence[bytes], denial: Decision | None = None) -> None:
        """Stand in the line of these keys; a caller that was denied begins a line if there is none."""
        with self._guard:
            line = self._by_key.get(keys[0])
            if line is None:
                if denial is None:
                    return
                line = Line(keys, denial)
                self._by_key.update(dict.fromkeys(keys, line))
            place = bisect(line, waiter.arrival, key=_by_arrival)
            if waiter.thread is not None:
                # In a signal handler: the call that it interrupted cannot go on before this one ends.
                threads = [other.thread for other in line]
                with suppress(ValueError):
                    place = threads.index(waiter.thread)
            waiter.line = line  # first: if this is interrupted here, ``leave`` finds the line
            line.insert(place, waiter)

    def leave(self, waiter: Waiter) -> None:
        """Leave the line, if there is one, and wake the next caller; call it again if it is interrupted."""
        line = waiter.line
        if line is None:
            return
        with self._guard:
            was_first = waiter.is_first or waiter not in line
            with suppress(ValueError):
                line.remove(waiter)
            if not line:
                for key in line.keys:
                    if self._by_key.get(key) is line:
                        del self._by_key[key]
            elif was_first:
                line[0].wake()
        waiter.line = None

    def denied(self, waiter: Waiter, decision: Decision, until: float) -> None:
        """Note the denial of the first in line, and wake those that cannot wait until it ends."""
        line = waiter.line
        if line is not None:
            line.denial = decision
            for other in list(line):
                if other.deadline < until and other is not waiter:
                    other.wake()

    def wake(self, keys: Sequence[bytes]) -> None:
        """Wake the first in line of each of these keys: there may be room now."""
        if self._by_key:
            with self._guard:
                for line in filter(None, map(self._by_key.get, keys)):
                    line[0].wake()

    def wake_all(self, waiter: Waiter) -> None:
        """Wake all callers in the line: without the store, none needs to wait for the others."""
        for other in list(waiter.line or ()):
            other.wake()


class Owner(Protocol):
    """The part of a limiter's core that is used here."""

    @property
    def lines(self) -> Lines:
        """The lines of callers here."""

    def ask_flow(
        self, plan: Plan, mode: str, key: Key, cost: Cost, tag: Key | None
    ) -> Flow[Decision]:
        """Decide in one round trip."""


def line_flow(
    core: Owner,
    waiter: Waiter,
    plan: Plan,
    key: Key,
    cost: Cost,
    tag: Key | None,
    try_flow: Callable[[], Flow[Decision]],
) -> Flow[Decision]:
    """Try until the store admits, in line with other callers; return the decision.

    Raises:
        RateLimited: It cannot be admitted before the waiter's deadline; or the decision is degraded. That
            ends the wait, since the store may have run the call, and it is not sent again.

    """
    lines = core.lines
    has_just_come = True
    try:
        if lines and waiter.deadline > monotonic():
            lines.join(waiter, _keys(plan, key, tag))
        while True:
            tries = waiter.is_first
            if tries:
                decision = yield from try_flow()
            else:
                decision = yield from core.ask_flow(plan, "peek", key, cost, tag)
            if decision.degraded:
                lines.wake_all(waiter)
            if tries and decision.allowed:
                return decision
            if decision.degraded:
                if tries:
                    raise RateLimited(decision)
                lines.leave(waiter)  # it has only asked: it tries now
                continue
            left = waiter.deadline - monotonic()
            wait = _sure_wait(decision)
            if left <= 0 or wait > left:
                if decision.allowed and waiter.line is not None:
                    # There is room for this caller's cost, but not for the cost of one before it.
                    decision = waiter.line.denial
                raise RateLimited(decision)
            if waiter.line is None:
                lines.join(waiter, _keys(plan, key, tag), decision)
            if tries:
                lines.denied(waiter, decision, monotonic() + wait)
                left = _pause(decision, left, plan, len(waiter.line or ()))
            elif decision.allowed and has_just_come:
                lines.wake(_keys(plan, key, tag))
            has_just_come = False
            yield Pause(left, waiter)
    except StoreUnavailable:
        lines.wake_all(waiter)
        raise
    finally:
        try:
            lines.leave(waiter)
        except BaseException:  # interrupted, perhaps before it had left
            lines.leave(waiter)
            raise


def _keys(plan: Plan, key: Key, tag: Key | None) -> tuple[bytes, ...]:
    return plan.keys_of(plan.state(key, tag)[0])


def _sure_wait(decision: Decision) -> float:
    """Seconds for which the rates deny: unlike a lease, no holder can release them earlier."""
    waits = [each.retry_after for each in decision.each if not each.policy.leases]
    return max(waits, default=0.0)


def _pause(decision: Decision, left: float, plan: Plan, length: int) -> float:
    """Seconds until the next try of the first in a line of this length."""
    seconds = decision.retry_after
    # A little longer, at random, but not beyond the time that is left.
    seconds = max(seconds, min(seconds * (1 + _JITTER * random.random()), left))
    if plan.leases:
        seconds = min(seconds, _ASK_EVERY / max(1, min(length, _MOST_ASKS)), left)
    return seconds

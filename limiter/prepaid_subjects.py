"""The prepaid units of a limiter's subjects: which hits spend them, take more, or return what is left.

The rules are those of ``prepaid``. The round trips are flows, which a limiter runs in a thread or a task.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, Protocol

from limiter.call import Call, Reply
from limiter.decision import Decision, PrepaidDecision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow, Pause
from limiter.generations import LONGEST_KEY, Generations
from limiter.keys import Key
from limiter.plan import Plan
from limiter.prepaid import PrepaidUnits, Terms

#: Subjects in each of two generations, at about 0.7 kB each, and 8 bytes for each unit.
_MOST_SUBJECTS = 1024
#: Seconds between two looks for expired units, at least.
_LOOK_EVERY = 0.01
#: A flow that is this many seconds late has lost its event loop: another one takes over.
_LATE = 1.0


class Owner(Protocol):
    """The part of a limiter's core that is used here."""

    plan: Plan
    timeout: float

    def run_beside(self, flow: Flow[None]) -> Callable[[], None]:
        """Run a flow in the background."""

    def not_settled(self, what: str, error: LimiterError) -> None:
        """Log and count a change that did not reach the store."""

    def cut_off(self, what: str, process: int) -> None:
        """Count a change whose flow was closed."""


class Subject:
    """One subject's prepaid units.

    Attributes:
        key: The subject.
        units: Those of its last call.
        turn: What a caller holds while it takes units: a lock of threads, a task of coroutines.
        mark: Replaced when the subject is reset: then a call under way must not leave units.
        call: The last call that took units; the next one most often takes as many.
        size_of_call: Its cost, what it must take at least, and its hold.

    """

    __slots__ = ("call", "key", "mark", "size_of_call", "turn", "units")

    call: Call

    def __init__(self, key: str, turn: Any) -> None:
        self.key = key
        self.turn = turn
        self.size_of_call = (0, 0, 0)
        self.mark = object()
        self.units = PrepaidUnits(key)


class PrepaidSubjects:
    """The subjects of one limiter that have prepaid units, or may get them.

    Threads share it without a lock, except for the turn of each subject. If a subject is forgotten, its
    units are returned when they expire.
    """

    def __init__(self, core: Owner, terms: Terms, new_turn: Callable[[], Any]) -> None:
        self._core = core
        self._terms = terms
        self._policies = terms.policies
        self._new_turn = new_turn
        self.after_fork()

    def after_fork(self) -> None:
        """Begin without units: those of the parent stay the parent's."""
        self._subjects: Generations[str, Subject] = Generations(_MOST_SUBJECTS)
        #: Units of which some were left, until they expire.
        self._out: set[PrepaidUnits] = set()
        #: When the flow that watches them goes on; -inf: there is none.
        self._goes_on = -inf

    def subject(self, key: str) -> Subject:
        """The subject of a key; it is made if there is none."""
        subject = self._subjects.recall(key)
        if subject is None:
            subject = self._subjects.setdefault(key, Subject(key, self._new_turn()))
            self._subjects.keep(key, subject)
        return subject

    # --- hits ---

    def spend(self, key: str, cost: int) -> PrepaidDecision | None:
        """Spend units that are here; None if there are not enough."""
        subject = self._subjects.get(key)
        if subject is None:
            return None
        units = subject.units
        if cost == 1:
            try:
                left = units.unspent.pop()
            except IndexError:
                return None
        elif cost < 1 or (left := units.spend(cost)) < 0:
            return None
        # Read the clock when the units are out: the process may have been stopped until now.
        now = monotonic()
        if now >= units.until:
            units.put_back(list(range(left, left + cost)))
            return None
        return PrepaidDecision(self._policies, units, cost, left, now)

    def takes(self, key: str, cost: int) -> bool:
        """Whether a hit for which not enough units are here takes some; if not, it is as any other."""
        if not 1 <= cost <= self._core.plan.most_cost or len(key) > LONGEST_KEY:
            return False
        units, now = self.subject(key).units, monotonic()
        if units.unspent and now < units.until:
            return True
        return self._terms.size(units, cost, now) > cost

    def note(self, key: Key, reply: Reply) -> None:
        """Note a hit that took no units in advance: after it, the next one may take some."""
        subject = self._subjects.get(key) if type(key) is str else None
        if subject is not None and not (units := subject.units).unspent:
            units.note(reply, monotonic())

    def take_flow(self, subject: Subject, cost: int, deadline: float) -> Flow[Decision]:
        """Hit, and take units in advance; the caller has the subject's turn.

        Units that are here are spent first.
        """
        spent = self.spend(subject.key, cost)
        if spent is not None:
            return spent
        terms, units, mark = self._terms, subject.units, subject.mark
        began = monotonic()
        own = units.take_out(cost - 1) if began < units.until else []
        lacking = cost - len(own)
        size = terms.size(units, lacking, began)
        hold_us = terms.hold_us if size > lacking else 0
        passed = False
        try:
            if subject.size_of_call != (size, lacking, hold_us):
                subject.call = self._core.plan.call(
                    "hit", subject.key, size, lacking, hold_us=hold_us
                )
                subject.size_of_call = (size, lacking, hold_us)
            reply = yield Ask(subject.call, deadline)
            passed = reply[0] > 0
        finally:
            if not passed:
                if subject.mark is mark:
                    units.put_back(own)
                units.begin_again()
        if not passed:
            return Decision(terms.policies, terms.with_own(reply, len(own)))
        came = monotonic()
        left = int(reply[0]) - lacking
        taken = terms.received(subject.key, reply, began, came, left)
        decision = Decision(terms.policies, taken.reply_of(cost, left, came))
        if not units.unspent:
            self._out.discard(units)
        if left:
            self._out.add(taken)
            self._watch()
        subject.units = taken
        if subject.mark is not mark:
            taken.take_out()
        return decision

    # --- other calls ---

    def with_own(self, key: Key, cost: int, reply: Reply) -> Reply:
        """The reply to a peek, as a hit would be decided with the units that are here."""
        subject = self._subjects.get(key) if type(key) is str else None
        if subject is None or monotonic() >= subject.units.until:
            return reply
        return self._terms.with_own(reply, len(subject.units.unspent), cost)

    def drop(self, key: Key) -> None:
        """Forget the units of a subject that is reset; a return would reach units of later calls."""
        state = self._core.plan.state
        # Another type may be another spelling: b"u" and "u" are one subject, and two texts never are.
        is_same = key.__eq__ if type(key) is str else lambda other: state(other) == state(key)
        for subject in self._subjects.both():
            if is_same(subject.key):
                subject.mark = object()  # first, so that a call under way sees it or is seen here
                subject.units.take_out()
                subject.units = PrepaidUnits(subject.key)
        for units in list(self._out):
            if is_same(units.key):
                units.take_out()

    # --- returns ---

    def return_flow(self) -> Flow[None]:
        """Return all units, since the limiter is closed."""
        deadline = monotonic() + self._core.timeout
        for units in list(self._out):
            if monotonic() < deadline:
                self._out.discard(units)
                yield from self._return_flow(units, deadline)

    def _watch(self) -> None:
        """Have units returned when they expire."""
        now = monotonic()
        if now > self._goes_on + self._core.timeout + _LATE:
            self._goes_on = now
            with suppress(StoreUnavailable):  # no thread could be started; the flow was closed
                self._core.run_beside(self._watch_flow())

    def _watch_flow(self) -> Flow[None]:
        """Return expired units, until none are out."""
        pause = _LOOK_EVERY
        try:
            while pause:
                self._goes_on = monotonic() + pause
                yield Pause(pause)
                now = monotonic()
                for units in [units for units in list(self._out) if units.until <= now]:
                    self._out.discard(units)
                    self._goes_on = monotonic()
                    yield from self._return_flow(units, self._goes_on + self._core.timeout)
                ends = [units.until for units in list(self._out)]
                pause = max(_LOOK_EVERY, min(ends) - monotonic()) if ends else 0.0
        finally:
            self._goes_on = -inf
        if self._out:  # another thread left some just now
            self._watch()

    def _return_flow(self, units: PrepaidUnits, deadline: float) -> Flow[None]:
        """Return what is left of some units, if that can reach no other units; otherwise let it lapse."""
        left = len(units.take_out())
        units.total -= left
        if not left or monotonic() > units.return_by:
            return
        process = os.getpid()
        try:
            yield Ask(self._core.plan.call("refund", units.key, left), deadline)
        except LimiterError as error:
            self._core.not_settled("a return of prepaid units", error)
        except GeneratorExit:
            self._core.cut_off("a return of prepaid units", process)
            raise


def no_turn(where: str, timeout: float) -> StoreUnavailable:
    """The error of a caller that waited in vain for another one to take units."""
    return StoreUnavailable(
        f"{where} did not decide within {timeout:g} s: another call takes prepaid units of this subject, "
        f"and has no reply yet"
    )

"""The prepaid units of a limiter's subjects: which hits spend them, take more, or return what is left.

The rules are those of ``prepaid``. The round trips are flows, which a limiter runs in a thread or in a task.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any

from limiter.call import SERVER_CLOCK, Reply
from limiter.decision import Decision, SpentDecision
from limiter.errors import LimiterError
from limiter.flows import Ask, Flow, Pause
from limiter.keys import Key
from limiter.prepaid import PrepaidUnits, Terms, with_units

if TYPE_CHECKING:
    from limiter.core import Core

#: Subjects in each of two generations.
_MOST_SUBJECTS = 1024
#: Characters of a key; a longer one has no prepaid units, so that no client fills the memory.
_LONGEST = 256
#: Seconds between two looks for expired units, at least.
_LOOK_EVERY = 0.01


class Subject:
    """One subject's prepaid units.

    Attributes:
        key: The subject.
        units: Those of its last call.
        turn: What a caller that takes units holds meanwhile: a lock for threads, a task for coroutines.
        mark: Replaced when the subject is reset: then a call under way must not leave units.

    """

    __slots__ = ("key", "mark", "turn", "units")

    def __init__(self, key: str, turn: Any) -> None:
        self.key = key
        self.turn = turn
        self.drop()

    def drop(self) -> None:
        """Forget the units, and those of a call under way."""
        self.mark = object()
        self.units = PrepaidUnits(self.key)


class PrepaidSubjects:
    """The subjects of one limiter that have prepaid units, or may get them.

    There are two generations, as in ``CallCache``. The units of a subject that was forgotten are returned.
    """

    def __init__(self, core: Core[Any], terms: Terms, new_turn: Callable[[], Any]) -> None:
        self._core = core
        self._terms = terms
        self._new_turn = new_turn
        self.after_fork()

    def after_fork(self) -> None:
        """Begin without units: those of the parent are the parent's."""
        self._younger: dict[str, Subject] = {}
        self._older: dict[str, Subject] = {}
        #: Units that some hit left, until they expire.
        self._out: list[PrepaidUnits] = []
        self._is_watched = False

    # --- hits ---

    def subject(self, key: str) -> Subject:
        """The subject of a key, kept unless the key is long."""
        subject = self._younger.get(key)
        if subject is None:
            subject = self._older.get(key) or Subject(key, self._new_turn())
            if len(key) <= _LONGEST:
                if len(self._younger) >= _MOST_SUBJECTS:
                    self._older = dict(self._younger)
                    self._younger.clear()
                subject = self._younger.setdefault(key, subject)
        return subject

    def spend(self, key: str, cost: int) -> Decision | None:
        """Spend units that were taken in advance; None if there are not enough."""
        subject = self._younger.get(key) or self._older.get(key)
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
        # Read the clock when the units are ours: the process may have been stopped before.
        now = monotonic()
        if now >= units.until:
            units.put_back(list(range(left, left + cost)))
            return None
        return SpentDecision(self._terms.policies, units.reply_of(cost, left, now))

    def takes(self, key: str, cost: int) -> bool:
        """Whether a hit without enough units here should take some; otherwise it is as any other hit."""
        if cost < 1 or self._core.now_us != SERVER_CLOCK or len(key) > _LONGEST:
            return False
        units, now = self.subject(key).units, monotonic()
        return bool(units.unspent and now < units.until) or (
            self._terms.size(units, cost, now) > cost
        )

    def note(self, key: str, cost: int, reply: Reply) -> None:
        """Note a hit that took no units in advance: the next one may take some."""
        subject = self._younger.get(key)
        if subject is not None and not (units := subject.units).unspent:
            units.note(cost, reply, monotonic())

    def take_flow(self, subject: Subject, cost: int, deadline: float) -> Flow[Decision]:
        """Hit, and take units in advance; the caller has the subject's turn.

        Units that are left here are spent first.
        """
        decision = self.spend(subject.key, cost)
        if decision is not None:
            return decision
        core, terms, units, mark = self._core, self._terms, subject.units, subject.mark
        began = monotonic()
        spent = units.drain() if began < units.until else []
        units.put_back(spent[cost - 1 :])
        del spent[cost - 1 :]
        lacking = cost - len(spent)
        size = terms.size(units, lacking, began)
        hold_us = terms.hold_us if size > lacking else 0
        call = core.plan.call("hit", subject.key, size, lacking, hold_us=hold_us)
        passed = False
        try:
            reply = yield Ask(call, deadline)
            passed = reply[0] > 0
        finally:
            if not passed:
                units.put_back(spent)
                units.begin_again()
        if not passed:
            return Decision(terms.policies, with_units(reply, len(units.unspent)))
        came = monotonic()
        left = int(reply[0]) - lacking
        taken = terms.received(subject.key, reply, began, came, left)
        numbers = taken.reply_of(cost, left, came)
        if left:
            self._out.append(taken)
            self._watch()
        subject.units = taken
        if subject.mark is not mark:
            taken.drain()
        return Decision(terms.policies, numbers)

    # --- other calls ---

    def with_own(self, key: Key, cost: int, reply: Reply) -> Reply:
        """The reply to a peek, as ``hit`` would decide with the units that are here."""
        subject = self._known(key)
        if subject is None or monotonic() >= subject.units.until:
            return reply
        return with_units(reply, len(subject.units.unspent), cost)

    def drop(self, state: bytes) -> None:
        """Forget the units of a subject that is reset; they are not returned, since the reset does that."""
        for subject in [*self._younger.values(), *self._older.values()]:
            if self._core.plan.state(subject.key)[0] == state:
                units = subject.units
                subject.drop()
                units.drain()

    def _known(self, key: Key) -> Subject | None:
        if type(key) is not str:
            return None
        return self._younger.get(key) or self._older.get(key)

    # --- returns ---

    def return_flow(self) -> Flow[None]:
        """Return all units, when the limiter is closed."""
        deadline = monotonic() + self._core.timeout
        while self._out and monotonic() < deadline:
            yield from self._return_flow(self._out.pop(0), deadline)

    def _watch(self) -> None:
        """Have units returned when they expire."""
        if not self._is_watched:
            self._is_watched = True
            try:
                self._core.run_beside(self._watch_flow())
            except LimiterError:  # no thread could be started: the units expire in the store
                self._is_watched = False

    def _watch_flow(self) -> Flow[None]:
        try:
            while self._out:
                now = monotonic()
                soonest = min([units.until for units in self._out])
                yield Pause(max(_LOOK_EVERY, soonest - now))
                now = monotonic()
                for units in [units for units in self._out if units.until <= now]:
                    self._out.remove(units)
                    yield from self._return_flow(units, monotonic() + self._core.timeout)
        finally:
            self._is_watched = False

    def _return_flow(self, units: PrepaidUnits, deadline: float) -> Flow[None]:
        """Return what is left of some units, if that cannot reach other units; otherwise let it lapse."""
        left = len(units.drain())
        units.total -= left
        if left and monotonic() <= units.return_by:
            try:
                yield Ask(self._core.plan.call("refund", units.key, left), deadline)
            except LimiterError as error:
                self._core.not_settled("a return of prepaid units", error)

"""Several subjects: what their decisions are together, and how they are decided where no one call can."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow, Pause
from limiter.keys import Key
from limiter.plan import JointCall, Part, Plan

if TYPE_CHECKING:
    from limiter.base import Base


class Decisions(list[Decision]):
    """What ``hit_all`` decided, in the order of its items. True when all are allowed."""

    def __bool__(self) -> bool:
        return all(self)


class _Charge(NamedTuple):
    """What was taken from one part, and the mode of the call that gives it back."""

    place: int
    mode: str
    plan: Plan
    key: Key
    cost: int


class InTurn:
    """Parts that are charged one after the other, since their slots differ.

    What is charged is noted until all of them have room. Where one has none, or the store fails, it is
    given back at once; where the caller is gone, or the time is over, beside the calls. Whatever is on
    its way back is noted no more: nothing is given back twice.
    """

    def __init__(
        self,
        limiter: Base[Any],
        parts: Sequence[Part],
        tag: Key | None,
        lease: str,
        deadline: float | None,
    ) -> None:
        self._limiter = limiter
        self._parts = parts
        self._tag = tag
        self._lease = lease
        self._deadline = monotonic() + limiter.timeout if deadline is None else deadline
        self._charges: list[_Charge] = []
        self._process = os.getpid()

    def deciding(self, mode: str) -> Flow[list[Decision]]:
        """Charge all parts, or none."""
        decisions: list[Decision] = []
        try:
            for place, part in enumerate(self._parts):
                decision = yield from self._asking(part, mode, self._lease)
                decisions.append(decision)
                if not (decision.allowed or part.shadow):
                    return (yield from self._denying(decisions))
                self._charges += self._charged(place, part, decision)
            self._charges.clear()
            return decisions
        except LimiterError:
            yield from self._giving_back()
            raise
        finally:
            if self._charges:
                with suppress(StoreUnavailable):  # nobody can: it was counted
                    self._limiter._beside(self._giving_back_later())

    def _denying(self, decisions: list[Decision]) -> Flow[list[Decision]]:
        """Give back what was charged before a denial, and say how things stand then."""
        places = {charge.place for charge in self._charges}
        places -= yield from self._giving_back()
        for place in sorted(places):
            decisions[place] = decisions[place].given_back()
            with suppress(LimiterError):
                decisions[place] = yield from self._asking(self._parts[place], "peek", "")
        for later in self._parts[len(decisions) :]:
            try:
                decisions.append((yield from self._asking(later, "peek", "")))
            except StoreUnavailable:  # it was not going to be charged anyway
                decisions.append(Decision.without_store(later.plan.policies, allowed=False))
        return decisions

    def _asking(self, part: Part, mode: str, lease: str) -> Flow[Decision]:
        """One part alone."""
        limiter = self._limiter
        call = JointCall([part], self._tag).call(mode, limiter._now_us, lease)
        return Decision(part.plan.policies, (yield Ask(call, self._deadline)))

    def _charged(self, place: int, part: Part, decision: Decision) -> Iterator[_Charge]:
        """What was taken: in the shadows by each policy of a part for itself, else all of it or nothing."""
        limiter, taken = self._limiter, [part] if part.cost else []
        if not decision.allowed:
            taken = [
                part._replace(plan=Plan((one.policy,), part.plan.keys), cost=one.granted)
                for one in decision.each
                if one.granted
            ]
        for one in taken:
            for mode, plan in limiter._undoing(one.plan):
                yield _Charge(place, mode, plan, one.key, one.cost)

    def _giving_back(self) -> Flow[set[int]]:
        """Give back what was charged while there is time; the places where something stays charged."""
        limiter, kept = self._limiter, set()
        while self._charges and monotonic() < self._deadline:
            place, mode, plan, key, cost = self._charges.pop(0)
            call = plan.call(mode, key, cost, None, self._tag, limiter._now_us, self._lease)
            try:
                yield Ask(call, self._deadline)
            except LimiterError as error:
                limiter._not_settled("a give-back", error)
                kept.add(place)
            except GeneratorExit:
                limiter._cut_off("a give-back", self._process)
                raise
        return kept | {charge.place for charge in self._charges}

    def _giving_back_later(self) -> Flow[None]:
        """Give back what a call took that could not do it; what stays charged all the same is counted."""
        try:
            yield Pause(0.0)
            self._deadline = monotonic() + self._limiter.timeout
            yield from self._giving_back()
        finally:
            for _ in self._charges:
                self._limiter._cut_off("a give-back", self._process, "there was no time")

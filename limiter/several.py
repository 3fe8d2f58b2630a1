"""Charge several subjects, all or none: in one call if possible, otherwise one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from limiter.core import Core
from limiter.decision import Decision
from limiter.denials import DenialCache, hit_flow
from limiter.errors import InvalidKey, LimiterError, StoreUnavailable, shown
from limiter.flows import Ask, Flow, Pause
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.local import decide_shares
from limiter.plan import Cost, JointCall, Part, Plan

#: One subject of ``hit_all``: its key, its cost, and optionally its own limits.
Item = tuple[Key, Cost] | tuple[Key, Cost, Limits]


class Decisions(list[Decision]):
    """The decisions of ``hit_all``, in the order of its items. True if all are allowed."""

    def __bool__(self) -> bool:
        return all(self)


def hit_all_flow(
    core: Core[Any], items: Iterable[Item], limits: Limits | None, tag: Key | None
) -> Flow[Decisions]:
    """As ``Limiter.hit_all``."""
    try:
        listed = list(items)
    except TypeError:
        raise InvalidKey(
            f"hit_all was given {shown(items)}: accepted is a list of tuples of key and cost"
        ) from None
    parts = [_part(core, item, limits) for item in listed]
    if not parts:
        return Decisions()
    _check_apart(parts, tag)
    try:
        return Decisions((yield from decide_flow(core, parts, tag, denials=core.denials)))
    except StoreUnavailable:
        if core.on_error == "raise":
            raise
    if core.share is None:
        return Decisions(core.without_store(part.plan) for part in parts)
    return Decisions(decide_shares([core.share] * len(parts), parts, tag, core.now_us))


def decide_flow(
    core: Core[Any],
    parts: Sequence[Part],
    tag: Key | None = None,
    mode: str = "hit",
    lease: str = "",
    deadline: float | None = None,
    denials: DenialCache | None = None,
) -> Flow[list[Decision]]:
    """Decide all parts in one script call, or one after the other if their slots differ.

    Several parts may have the same subject if their policies' fields differ. ``denials`` caches the
    denials of script calls that hit.
    """
    if mode == "hit":
        for part in parts:
            part.plan.check_mode(mode)  # a lease needs the mode that releases it
    joint = JointCall(parts, tag)
    if not core.transport.one_slot(joint.tags):
        return (yield from SequentialHit(core, parts, tag, lease, deadline).decide_flow(mode))
    call = joint.call(mode, core.now_us, lease)
    kind, reply = yield from hit_flow(denials if mode == "hit" else None, call, deadline)
    replies = joint.split(reply)
    return [kind(part.plan.policies, reply) for part, reply in zip(parts, replies, strict=True)]


def decide_without_store(
    owners: Sequence[Core[Any]], parts: Sequence[Part], mode: str, lease: str
) -> list[Decision]:
    """Decide each part by its owner's ``on_error``, after the store did not.

    The owners share one store. Owners with ``local`` decide in one joint call, which charges nothing if
    another owner denies. ``raise`` denies here.
    """
    decisions = [owner.without_store(part.plan) for owner, part in zip(owners, parts, strict=True)]
    local = [place for place, owner in enumerate(owners) if owner.share is not None]
    if local:
        denied = any(
            not (decisions[place].allowed or part.shadow or place in local)
            for place, part in enumerate(parts)
        )
        shares = [share for owner in owners if (share := owner.share) is not None]
        local_parts = [parts[place] for place in local]
        now_us, mode = owners[0].now_us, "peek" if denied else mode
        decided = decide_shares(shares, local_parts, None, now_us, mode, lease)
        for place, decision in zip(local, decided, strict=True):
            decisions[place] = decision
    return decisions


def _part(core: Core[Any], item: Item, limits: Limits | None) -> Part:
    if not isinstance(item, tuple) or len(item) not in (2, 3):
        raise InvalidKey(
            f"hit_all was given {shown(item)}: accepted are tuples of key and cost, and optionally the "
            f"subject's own limits"
        )
    plan = core.plan_for(item[2] if len(item) == 3 else limits)
    plan.check_mode("hit")
    cost, _ = plan.checked(item[1])
    return Part(plan, item[0], cost)


def _check_apart(parts: list[Part], tag: Key | None) -> None:
    """Refuse a subject that is named twice.

    Raises:
        InvalidKey: The message names the subject's key.

    """
    seen: set[tuple[bytes, bytes]] = set()
    for part in parts:
        state = part.plan.state(part.key, tag)
        if state in seen:
            raise InvalidKey(
                f"key {part.key!r} stands for a subject that is named twice: name it once, with "
                f"the sum of its costs"
            )
        seen.add(state)


class _Charge(NamedTuple):
    """A charge of one part, and the mode of the call that refunds or releases it."""

    place: int
    mode: str
    plan: Plan
    key: Key
    cost: Cost


class SequentialHit:
    """Charges parts one after the other, since their slots differ.

    Each charge is noted until all parts have room. If a part has no room, or the store fails, the charges
    are refunded at once. If the caller is interrupted, or the deadline is over, they are refunded in the
    background. A charge is removed from the notes before its refund is sent: none is refunded twice.
    """

    def __init__(
        self,
        core: Core[Any],
        parts: Sequence[Part],
        tag: Key | None,
        lease: str,
        deadline: float | None,
    ) -> None:
        self._core = core
        self._parts = parts
        self._tag = tag
        self._lease = lease
        self._deadline = monotonic() + core.timeout if deadline is None else deadline
        self._charges: list[_Charge] = []
        self._process = os.getpid()

    def decide_flow(self, mode: str) -> Flow[list[Decision]]:
        """Charge all parts, or none."""
        decisions: list[Decision] = []
        try:
            for place, part in enumerate(self._parts):
                decision = yield from self._ask_flow(part, mode, self._lease)
                decisions.append(decision)
                if not (decision.allowed or part.shadow):
                    return (yield from self._deny_flow(decisions))
                self._charges += self._charged(place, part, decision)
            self._charges.clear()
            return decisions
        except LimiterError:
            yield from self._refund_flow()
            raise
        finally:
            if self._charges:
                with suppress(StoreUnavailable):  # it cannot be run, and has counted the charges
                    self._core.run_beside(self._refund_later_flow())

    def _deny_flow(self, decisions: list[Decision]) -> Flow[list[Decision]]:
        """Refund the charges before a denial, and return decisions about the state after that."""
        places = {charge.place for charge in self._charges}
        places -= yield from self._refund_flow()
        for place in sorted(places):
            decisions[place] = decisions[place].given_back()
            with suppress(LimiterError):
                decisions[place] = yield from self._ask_flow(self._parts[place], "peek", "")
        for later in self._parts[len(decisions) :]:
            try:
                decisions.append((yield from self._ask_flow(later, "peek", "")))
            except StoreUnavailable:  # the call is denied anyway
                decisions.append(Decision.without_store(later.plan.policies, allowed=False))
        return decisions

    def _ask_flow(self, part: Part, mode: str, lease: str) -> Flow[Decision]:
        """Decide one part alone."""
        call = JointCall([part], self._tag).call(mode, self._core.now_us, lease)
        return Decision(part.plan.policies, (yield Ask(call, self._deadline)))

    def _charged(self, place: int, part: Part, decision: Decision) -> Iterator[_Charge]:
        """The charges of a part: all or nothing; in shadow mode, each policy that had room."""
        taken = [part] if part.cost else []
        if not decision.allowed:
            taken = [
                part._replace(plan=Plan((each.policy,), part.plan.keys), cost=each.granted)
                for each in decision.each
                if each.granted
            ]
        for plan, key, cost, _ in taken:
            if plan.of_rates is not None:
                yield _Charge(place, "refund", plan.of_rates, key, cost)
            if plan.leases:
                yield _Charge(place, "release", plan.of_leases, key, cost)

    def _refund_flow(self) -> Flow[set[int]]:
        """Refund the charges until the deadline; return the places of the parts that stay charged."""
        core, kept = self._core, set()
        while self._charges and monotonic() < self._deadline:
            place, mode, plan, key, cost = self._charges.pop(0)
            call = plan.call(mode, key, cost, None, self._tag, core.now_us, self._lease)
            try:
                yield Ask(call, self._deadline)
            except LimiterError as error:
                core.not_settled("a refund", error)
                kept.add(place)
            except GeneratorExit:
                core.cut_off("a refund", self._process)
                raise
        return kept | {charge.place for charge in self._charges}

    def _refund_later_flow(self) -> Flow[None]:
        """Refund the charges of a call that ended before it could; count those that stay charged."""
        try:
            yield Pause(0.0)
            self._deadline = monotonic() + self._core.timeout
            yield from self._refund_flow()
        finally:
            for _ in self._charges:
                self._core.cut_off("a refund", self._process, "there was no time")

"""Charge several subjects, all or none: in one call if possible, otherwise one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from limiter.changes import Change, Changes, change_flow
from limiter.core import Core
from limiter.decision import Decision
from limiter.denials import DenialCache, hit_flow
from limiter.errors import InvalidCost, InvalidKey, LimiterError, StoreUnavailable, shown
from limiter.flows import Ask, Flow
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.local import decide_shares
from limiter.plan import Cost, JointCall, Part

#: One subject of ``hit_all`` or ``reserve_all``: its key, its cost, and optionally its own limits.
Item = tuple[Key, Cost] | tuple[Key, Cost, Limits]


class Decisions(list[Decision]):
    """The decisions about several subjects, in the order of the items. True if all are allowed."""

    def __bool__(self) -> bool:
        return all(self)

    @property
    def deciding(self) -> Decision:
        """The denied one with the largest ``retry_after``, else the one with the smallest ``remaining``."""
        return max(self, key=lambda decision: (decision.retry_after, -decision.remaining))


def hit_all_flow(
    core: Core[Any], items: Iterable[Item], limits: Limits | None, tag: Key | None
) -> Flow[Decisions]:
    """As ``Limiter.hit_all``."""
    return take_flow(core, parts_of(core, checked_items("hit_all", items), limits, tag), tag)


def checked_items(call: str, items: Iterable[Item]) -> list[Item]:
    """Return the items of ``call`` as a list, if they have the form of items.

    Raises:
        InvalidKey: They have not; the message names the wrong value.

    """
    expected = "expected a list of tuples of key and cost, and optionally the subject's own limits"
    try:
        listed = list(items)
    except TypeError:
        raise InvalidKey(f"{call} was given {shown(items)}: {expected}") from None
    for item in listed:
        if not isinstance(item, tuple) or len(item) not in (2, 3):
            raise InvalidKey(f"{call} was given {shown(item)} in the list: {expected}")
    return listed


def parts_of(
    core: Core[Any], items: list[Item], limits: Limits | None, tag: Key | None, least: int = 0
) -> list[Part]:
    """Check the keys, costs and limits of items, and return their parts; a cost is ``least`` or more.

    Raises:
        InvalidKey, InvalidCost, InvalidPolicy: One of them is wrong, or a subject is named twice.

    """
    parts = []
    for place, item in enumerate(items):
        plan = core.plan_for(item[2] if len(item) == 3 else limits)
        plan.check_mode("hit")
        try:
            cost, _ = plan.checked(item[1], least=least)
        except InvalidCost as error:
            if len(items) == 1:
                raise
            raise InvalidCost(f"items[{place}].{error}") from None
        parts.append(Part(plan, item[0], cost))
    _check_apart(parts, tag)
    return parts


def take_flow(core: Core[Any], parts: Sequence[Part], tag: Key | None) -> Flow[Decisions]:
    """Charge all parts or none; if the store does not decide, ``on_error`` does."""
    if not parts:
        return Decisions()
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


class SequentialHit:
    """Charges parts one after the other, since their slots differ.

    The refund of each charge is noted until all parts have room. If a part has no room, or the store fails,
    the charges are refunded at once. If the caller is interrupted, or the deadline is over, they are
    refunded in the background.
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
        self._refunds = Changes(core, "a refund", partial(change_flow, core, tag, lease))

    def decide_flow(self, mode: str) -> Flow[list[Decision]]:
        """Charge all parts, or none."""
        decisions: list[Decision] = []
        try:
            for place, part in enumerate(self._parts):
                decision = yield from self._ask_flow(part, mode, self._lease)
                decisions.append(decision)
                if not (decision.allowed or part.shadow):
                    return (yield from self._deny_flow(decisions))
                self._note(place, decision)
            self._refunds.left.clear()
            return decisions
        except LimiterError:
            yield from self._refunds.make_flow(self._deadline)
            raise
        finally:
            self._refunds.finish()

    def _deny_flow(self, decisions: list[Decision]) -> Flow[list[Decision]]:
        """Refund the charges before a denial, and return decisions about the state after that."""
        charged = [change.place for change in self._refunds.left]
        kept = yield from self._refunds.make_flow(self._deadline)
        for place in sorted({*charged} - {change.place for change in kept}):
            decisions[place] = decisions[place].refunded()
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

    def _note(self, place: int, decision: Decision) -> None:
        """Note how to undo a charge: all of the part's, or in shadow mode that of each policy with room."""
        part = self._parts[place]
        granted = decision.grants
        rates = part.rates(granted)
        if rates is not None:
            self._refunds.left.append(Change("refund", [rates], place))
        if any(
            units
            for units, policy in zip(granted, part.plan.policies, strict=True)
            if policy.leases
        ):
            leases = Part(part.plan.of_leases, part.key, part.cost)
            self._refunds.left.append(Change("release", [leases], place))

"""A reservation: costs taken in advance, and settled when the true costs are known."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from limiter.changes import Changes, change_flow, changes_of
from limiter.core import Core
from limiter.decision import Decision, RateLimited
from limiter.entered import Entered
from limiter.errors import InvalidCost, InvalidKey, InvalidSetting, shown
from limiter.flows import Flow
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.plan import Cost, Part, whole
from limiter.several import Decisions, Item, checked_items, parts_of, take_flow

_Own = TypeVar("_Own", bound="ReservedCosts")


class ReservedCosts(Entered):
    """Costs taken in advance, of one subject or several; ``client.Reservation`` describes it."""

    decisions: Decisions

    @property
    def decision(self) -> Decision:
        """The only decision, or the one with the smallest ``remaining``; an AttributeError before."""
        return self.decisions.deciding

    def __init__(
        self,
        core: Core[Any],
        items: list[Item],
        limits: Limits | None,
        tag: Key | None,
        is_list: bool = True,
    ) -> None:
        super().__init__()
        self.settled = False
        self._core = core
        self._parts = parts_of(core, items, limits, tag, least=1)
        self._costs = [item[1] for item in items]
        """The costs in the form in which they were given, which is also that of the true costs."""
        self._tag = tag
        self._is_list = is_list
        """Whether the true costs are a list, or the only one itself."""

    @classmethod
    def of_all(
        cls: type[_Own],
        core: Core[Any],
        items: Iterable[Item],
        limits: Limits | None,
        tag: Key | None,
    ) -> _Own:
        """Check the arguments of ``reserve_all``, and make its reservation; nothing is taken yet."""
        listed = checked_items("reserve_all", items)
        if not listed:
            raise InvalidKey("reserve_all was given []: expected a list of at least one item")
        return cls(core, listed, limits, tag)

    def reserve_flow(self) -> Flow[None]:
        """Take the costs."""
        core, parts, tag = self._core, self._parts, self._tag
        if len(parts) == 1:  # a hit, which may spend prepaid units
            ((plan, key, cost, _),) = parts
            decisions = Decisions([(yield from core.ask_flow(plan, "hit", key, cost, tag))])
        else:
            decisions = yield from take_flow(core, parts, tag)
        if not decisions:
            raise RateLimited(decisions.deciding, decisions)
        self.decisions = decisions
        self.settled = False
        self._process = os.getpid()

    def settle_flow(self, actual: Cost | Sequence[Cost]) -> Flow[None]:
        """Refund the unused part of the costs, and charge the excess, once.

        Raises:
            InvalidCost: ``actual`` has another form than the costs, or a number is wrong.

        """
        actuals = self._checked(actual)
        if not hasattr(self, "decisions"):
            raise InvalidSetting("nothing is reserved yet: settle in the body of the with")
        yield from self._settle_flow(actuals)

    def refund_flow(self) -> Flow[None]:
        """Refund all of it, unless it is settled."""
        yield from self._settle_flow([part.plan.each_cost(0) for part in self._parts])

    def _settle_flow(self, actuals: list[tuple[int, ...]]) -> Flow[None]:
        if self.settled:
            return
        self.settled = True
        yield from settle_flow(self._core, self._parts, self.decisions, actuals, self._tag)

    def _checked(self, actual: Any) -> list[tuple[int, ...]]:
        """Check the true costs; return a number for each policy of each subject."""
        if not self._is_list:
            return [_checked_actual("actual", actual, self._costs[0], self._parts[0])]
        if not isinstance(actual, (list, tuple)) or len(actual) != len(self._parts):
            expected = f"expected a list of {len(self._parts)} costs, one for each item"
            raise InvalidCost.of("actual", shown(actual), expected)
        return [
            _checked_actual(f"actual[{place}]", each, cost, part)
            for place, (each, cost, part) in enumerate(
                zip(actual, self._costs, self._parts, strict=True)
            )
        ]


def settle_flow(
    core: Core[Any],
    parts: Sequence[Part],
    decisions: Sequence[Decision],
    actuals: Sequence[Sequence[int]],
    tag: Key | None = None,
) -> Flow[bool]:
    """Charge or refund the difference between what was granted and the true costs, one for each policy.

    A policy that was charged nothing is left alone. That is so if ``on_error`` admitted the call without
    counting it, or if the policy had no room in shadow mode. Nothing is raised: what does not reach the
    store is logged, and counted in ``unsettled``; the result is whether all has reached it.
    """
    listed: dict[str, list[Part]] = {"refund": [], "settle": []}
    for part, decision, actual in zip(parts, decisions, actuals, strict=True):
        granted = decision.grants
        if not granted:
            continue
        excess = [cost - units if units else 0 for cost, units in zip(actual, granted, strict=True)]
        for mode, costs in (
            ("refund", [max(0, -cost) for cost in excess]),
            ("settle", [max(0, cost) for cost in excess]),
        ):
            change = part.rates(costs)
            if change is None:
                continue
            if not decision.degraded:
                listed[mode].append(change)
            elif core.share is not None:
                core.share.change(change.plan, mode, change.key, change.cost, tag, core.now_us)
    changes = Changes(core, "a settlement", partial(change_flow, core, tag, ""))
    for mode, changed in listed.items():
        changes.left += changes_of(core, mode, changed, tag)
    try:
        return not (yield from changes.make_flow(monotonic() + core.store.timeout))
    finally:
        changes.finish()


def _checked_actual(what: str, actual: Any, cost: Cost, part: Part) -> tuple[int, ...]:
    """Check a true cost, which has the form of the reserved one; return a number for each policy."""
    if not isinstance(cost, tuple):
        return part.plan.each_cost(whole(what, actual))
    if not isinstance(actual, tuple) or len(actual) != len(cost):
        expected = f"expected a tuple of {len(cost)} numbers, as the reserved cost is {cost}"
        raise InvalidCost.of(what, shown(actual), expected)
    return tuple(whole(f"{what}[{place}]", each) for place, each in enumerate(actual))

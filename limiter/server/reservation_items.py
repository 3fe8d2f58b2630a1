"""Reads the items of a reservation from a body: a policy, a subject of it, and a cost each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from limiter import InvalidCost
from limiter.server import bodies
from limiter.server.bodies import Subject
from limiter.server.checks import charged_check_of, check_of
from limiter.server.one_policy import AnyPolicies
from limiter.server.responses import abort
from limiter.web.guard import AsyncGuard
from limiter.web.reservation_calls import Part, part_of_true_cost, part_without_cost
from limiter.web.rules import Check, Rule

MOST_ITEMS = 20


class Item(NamedTuple):
    """One subject of a reservation."""

    rule: Rule
    part: Part
    is_exempt: bool = False
    error: InvalidCost | None = None
    """Why the limits never admit the cost, which a rule in shadow mode lets pass."""

    @property
    def is_decided(self) -> bool:
        """Whether there is a decision about the item."""
        return not self.is_exempt and self.error is None


def to_reserve(policies: AnyPolicies, body: dict[str, Any]) -> list[Item]:
    """Return the items that a body reserves; abort if one is invalid, or can never pass."""
    return _items(policies, body, 1, _reserved)


def to_settle(policies: AnyPolicies, body: dict[str, Any]) -> list[Item]:
    """Return the items that a body settles at their costs; abort if one is invalid."""
    return _items(policies, body, 0, _settled)


def to_cancel(policies: AnyPolicies, body: dict[str, Any]) -> list[Item]:
    """Return the items that a body settles at 0; abort if one is invalid."""
    return _items(policies, body, None, _settled)


def _items(
    policies: AnyPolicies,
    body: dict[str, Any],
    least: int | None,
    make: Callable[[AsyncGuard, Subject, int], Item],
) -> list[Item]:
    """Return the items of a body, with costs from ``least``, or without any.

    Abort if an item is invalid, or if two have one subject.
    """
    listed = body.get("items")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_ITEMS:
        abort(422, f"items is no list of 1 to {MOST_ITEMS}.")
    accepted = ["policy", *bodies.OF_SUBJECT, *([] if least is None else ["cost"])]
    items: list[Item] = []
    places: dict[bytes, int] = {}
    for place, value in enumerate(listed):
        name = f"items[{place}]"
        item = bodies.members(value, accepted, name)
        with bodies.inside(name):
            guard = _guard(policies, item)
            subject = bodies.subject(item, guard)
            earlier = places.setdefault(subject.state, place)
            if earlier != place:
                abort(422, f"key is the subject of items[{earlier}]: expected one item for it.")
            items.append(make(guard, subject, 0 if least is None else bodies.cost(item, least)))
    return items


def _guard(policies: AnyPolicies, item: dict[str, Any]) -> AsyncGuard:
    """Return the guard of the policy that an item names; abort unless it counts units."""
    if "policy" not in item:
        abort(422, "policy is missing: expected a policy's name.")
    name = item["policy"]
    guard = policies.guard_for(name) if isinstance(name, str) else None
    if guard is None:
        abort(422, "policy is no policy's name.")
    if guard.counts_leases:
        abort(422, "policy counts leases: use /v1/hold.")
    return guard


def _reserved(guard: AsyncGuard, subject: Subject, cost: int) -> Item:
    """Make the item that charges a cost; abort if it can never pass."""
    check = check_of(guard, subject, cost)
    if check is None:
        return _exempt(guard, subject)
    try:
        return Item(check.rule, check.part())
    except InvalidCost as error:
        part = part_without_cost(check)
        if not check.rule.shadow:
            most = part.plan.most_cost
            abort(422, f"cost is more than {most}, the most that this policy ever admits at once.")
        return Item(check.rule, part, error=error)


def _settled(guard: AsyncGuard, subject: Subject, cost: int) -> Item:
    """Make the item that settles at a cost."""
    check = charged_check_of(guard, subject, cost)
    if check is None:
        return _exempt(guard, subject)
    return Item(check.rule, part_of_true_cost(check))


def _exempt(guard: AsyncGuard, subject: Subject) -> Item:
    """Make the item of an exempt subject.

    It takes nothing, but has a place in the record. So all calls find the same record, also if the policy
    file exempts a subject, or no longer exempts it, in between.
    """
    (rule,) = guard.rules
    return Item(rule, part_without_cost(Check(rule, subject.key, 0, None)), is_exempt=True)

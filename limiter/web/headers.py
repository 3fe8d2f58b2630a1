"""Decisions as HTTP fields: the syntax of draft-ietf-httpapi-ratelimit-headers-11, and older forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from limiter.decision import Decision
from limiter.policies import Policy

#: Header forms by name: the syntax of the draft's version 11, its three fields of version 6, what many
#: services send, and nothing.
FORMS = ("draft-11", "draft-06", "x-ratelimit", "none")

_SECOND_US = 1_000_000

Field = tuple[str, str]


class Spoken(NamedTuple):
    """One limiter's decision, under its name, in the form that was chosen for it."""

    decision: Decision
    name: str
    form: str = "draft-11"


def fields(decision: Decision, limiter_name: str, form: str = "draft-11") -> list[Field]:
    """Return what one limiter's decision says, and Retry-After when a limit denied."""
    return of_all([Spoken(decision, limiter_name, form)])


def of_all(spoken: Sequence[Spoken]) -> list[Field]:
    """Return the fields of several limiters' decisions about one request.

    A decision that no limit made (the store failed, and a fallback without numbers answered) has
    no fields: there is nothing true to say. The older forms know one limit; they get that of the
    limiter that is nearest to denying.
    """
    counted = [one for one in spoken if one.decision.each]
    found: list[Field] = []
    drafts = [one for one in counted if one.form == "draft-11"]
    if drafts:
        policies, states = zip(*map(_draft, drafts), strict=True)
        found += [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
    for form, prefix in (("draft-06", "RateLimit"), ("x-ratelimit", "X-RateLimit")):
        older = [one.decision for one in counted if one.form == form]
        if older:
            found += _three(prefix, min(older, key=_nearness))
    waits = [one.decision.retry_after for one in counted if not one.decision.allowed]
    if waits and any(one.form != "none" for one in counted):
        found.append(("Retry-After", str(max(1, math.ceil(max(waits))))))
    return found


def _draft(one: Spoken) -> Field:
    """One limiter's items of the two lists."""
    decisions = one.decision.each
    policies = tuple(each.policy for each in decisions)
    states = map(_state, names(policies, one.name), decisions)
    return _policies(policies, one.name), ", ".join(states)


def _nearness(decision: Decision) -> tuple[float, int]:
    """Those that deny first, the longest wait before the others; then who has least left."""
    return -decision.retry_after, decision.remaining


def _three(prefix: str, decision: Decision) -> list[Field]:
    """Limit, what remains, and seconds until it is whole again (not an epoch)."""
    return [
        (f"{prefix}-Limit", str(decision.limit)),
        (f"{prefix}-Remaining", str(decision.remaining)),
        (f"{prefix}-Reset", str(math.ceil(decision.reset_after))),
    ]


def names(policies: Sequence[Policy], limiter_name: str) -> list[str]:
    """Name each policy: by its own name, else by the limiter's, counted if there are several."""
    unnamed = sum(policy.name is None for policy in policies)
    found = []
    count = 0
    for policy in policies:
        if policy.name is not None:
            found.append(policy.name)
            continue
        count += 1
        found.append(limiter_name if unnamed == 1 else f"{limiter_name}.{count}")
    return found


def window_us(policy: Policy) -> int:
    """Return how long all that can be had at once takes to come back, rounded up."""
    return -(-policy.capacity * policy.period_us // policy.limit)


@lru_cache(maxsize=1024)
def _policies(policies: tuple[Policy, ...], limiter_name: str) -> str:
    items = []
    for name, policy in zip(names(policies, limiter_name), policies, strict=True):
        item = f'"{name}";q={policy.capacity}'
        if policy.leases:
            item += ';qu="concurrent-requests"'
        elif window := _window(policy):
            item += f";w={window}"
        items.append(item)
    return ", ".join(items)


def _window(policy: Policy) -> int | None:
    """Return whole seconds, or none: the syntax has no fractions, and 1 would be a lie."""
    exact_us = window_us(policy)
    return -(-exact_us // _SECOND_US) if exact_us >= _SECOND_US else None


def _state(name: str, decision: Decision) -> str:
    item = f'"{name}";r={decision.remaining}'
    if decision.policy.leases:  # when somebody gives a lease back, nobody knows
        return item
    seconds = math.ceil(decision.reset_after if decision.allowed else decision.retry_after)
    window = _window(decision.policy)
    if window is not None:
        seconds = min(seconds, window)
    return f"{item};t={seconds}"

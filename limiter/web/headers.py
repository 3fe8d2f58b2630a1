"""Decisions as HTTP fields: the syntax of draft-ietf-httpapi-ratelimit-headers-11, and older forms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from limiter.decision import Decision
from limiter.policies import Policy

#: Header forms by name: the syntax of the draft's version 11, its three fields of version 6, what many
#: services send, and nothing.
FORMS = ("draft-11", "draft-06", "x-ratelimit", "none")

_SECOND_US = 1_000_000

_OLDER = (("draft-06", "RateLimit"), ("x-ratelimit", "X-RateLimit"))

Field = tuple[str, str]


class NamedDecision(NamedTuple):
    """One limiter's decision, under its name, in the form that was chosen for it."""

    decision: Decision
    name: str
    form: str = "draft-11"


def fields(decision: Decision, limiter_name: str, form: str = "draft-11") -> list[Field]:
    """Return what one limiter's decision says, and Retry-After when a limit denied."""
    return of_all([NamedDecision(decision, limiter_name, form)])


def of_all(decisions: Sequence[NamedDecision]) -> list[Field]:
    """Return the fields of several limiters' decisions about one request.

    Where one denied, Retry-After is among them in each form, also in the one that says nothing else.
    A decision that no limit made (the store failed, and a fallback without numbers answered) has
    no fields: there is nothing true to say. The older forms know one limit; they get that of the
    limiter that is nearest to denying.
    """
    found: list[Field] = []
    policies: list[str] = []
    states: list[str] = []
    waits: list[int] = []
    older: list[NamedDecision] = []
    for one in decisions:
        numbers = one.decision.numbers
        waits += [wait for _, _, wait, _ in numbers if wait]
        if not numbers or one.form == "none":
            continue
        if one.form == "draft-11":
            text, heads = _policies(tuple([row[0] for row in numbers]), one.name)
            policies.append(text)
            states += map(_state, heads, numbers)
        else:
            older.append(one)
    if policies:
        found += [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
    for form, prefix in _OLDER if older else ():
        of_form = [one.decision for one in older if one.form == form]
        if of_form:
            found += _three(prefix, min(of_form, key=_nearness))
    if waits:
        found.append(("Retry-After", str(-(-max(waits) // _SECOND_US))))
    return found


def _nearness(decision: Decision) -> tuple[float, int]:
    """Those that deny first, the longest wait before the others; then who has least left."""
    return -decision.retry_after, decision.remaining


def _three(prefix: str, decision: Decision) -> list[Field]:
    """Of the policy that decided: limit, what remains, and seconds until it is whole (not an epoch)."""
    decided = next(row for row in decision.numbers if row[0] == decision.policy)
    policy, remaining, _, reset_us = decided
    return [
        (f"{prefix}-Limit", str(policy.capacity)),
        (f"{prefix}-Remaining", str(remaining)),
        (f"{prefix}-Reset", str(-(-reset_us // _SECOND_US))),
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


class _Head(NamedTuple):
    """What is said of a policy's state but for the numbers that change."""

    name: str
    window: int | None
    leases: bool


@lru_cache(maxsize=1024)
def _policies(policies: tuple[Policy, ...], limiter_name: str) -> tuple[str, list[_Head]]:
    """The items of one limiter in RateLimit-Policy, and what its items in RateLimit begin with."""
    items, heads = [], []
    for name, policy in zip(names(policies, limiter_name), policies, strict=True):
        item, window = f'"{name}";q={policy.capacity}', _window(policy)
        if policy.leases:
            item += ';qu="concurrent-requests"'
        elif window:
            item += f";w={window}"
        items.append(item)
        heads.append(_Head(f'"{name}";r=', window, policy.leases))
    return ", ".join(items), heads


def _window(policy: Policy) -> int | None:
    """Return whole seconds, or none: the syntax has no fractions, and 1 would be a lie."""
    exact_us = window_us(policy)
    return -(-exact_us // _SECOND_US) if exact_us >= _SECOND_US else None


def _state(head: _Head, numbers: tuple[Policy, int, int, int]) -> str:
    name, window, leases = head
    _, remaining, retry_us, reset_us = numbers
    if leases:  # it is not known when a lease will be released
        return f"{name}{remaining}"
    seconds = -(-(retry_us or reset_us) // _SECOND_US)
    if window is not None and seconds > window:
        seconds = window
    return f"{name}{remaining};t={seconds}"

"""Decisions as header fields, as of draft-ietf-httpapi-ratelimit-headers-11, and in older forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

from limiter.decision import Decision
from limiter.policies import Policy

#: Names of header forms: the draft's version 11, the three fields of its version 6, the ``X-RateLimit``
#: fields that many services send, and no fields but Retry-After.
FORMS = ("draft-11", "draft-06", "x-ratelimit", "none")

_SECOND_US = 1_000_000

_OLDER = (("draft-06", "RateLimit"), ("x-ratelimit", "X-RateLimit"))

Field = tuple[str, str]


class NamedDecision(NamedTuple):
    """One limiter's decision, with the limiter's name, its header form, and what it counts."""

    decision: Decision
    name: str
    form: str = "draft-11"
    unit: str = "requests"


def fields(
    decision: Decision, limiter_name: str, form: str = "draft-11", unit: str = "requests"
) -> list[Field]:
    """Return the fields of one limiter's decision, with Retry-After if a limit denied."""
    return of_all([NamedDecision(decision, limiter_name, form, unit)])


def of_all(decisions: Sequence[NamedDecision]) -> list[Field]:
    """Return the fields of several limiters' decisions about one request.

    If one denied, Retry-After is among them in every form, also in ``none``. A decision without numbers
    (the store failed, and ``allow`` or ``deny`` answered) has no fields. The older forms show one limit:
    that of the limiter that is nearest to denying.
    """
    rendered: list[Field] = []
    policies: list[str] = []
    states: list[str] = []
    longest_us = 0
    older: list[NamedDecision] = []
    for named in decisions:
        decision, name, form, unit = named
        numbers = decision.numbers
        for row in numbers:
            if row[2] > longest_us:
                longest_us = row[2]
        if not numbers or form == "none":
            continue
        if form == "draft-11":
            text, heads = _policies(tuple([row[0] for row in numbers]), name, unit)
            policies.append(text)
            states += map(_state, heads, numbers)
        else:
            older.append(named)
    if policies:
        rendered += [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
    for form, prefix in _OLDER if older else ():
        of_form = [named.decision for named in older if named.form == form]
        if of_form:
            rendered += _older_fields(prefix, min(of_form, key=_nearness))
    if longest_us:
        rendered.append(_retry_after(longest_us))
    return rendered


def _retry_after(wait_us: int) -> Field:
    return "Retry-After", str(-(-wait_us // _SECOND_US))


def writer(
    policies: tuple[Policy, ...], limiter_name: str, form: str, unit: str
) -> Callable[[Decision], list[Field]]:
    """Return a function that writes the fields of one limiter's decisions, if the store decided."""
    if form != "draft-11":
        return lambda decision: fields(decision, limiter_name, form, unit)
    text, heads = _policies(policies, limiter_name, unit)
    policy_field = ("RateLimit-Policy", text)

    def write_one(decision: Decision) -> list[Field]:
        (row,) = decision.numbers
        written = [policy_field, ("RateLimit", _state(heads[0], row))]
        if row[2]:
            written.append(_retry_after(row[2]))
        return written

    def write(decision: Decision) -> list[Field]:
        numbers = decision.numbers
        written = [policy_field, ("RateLimit", ", ".join(map(_state, heads, numbers)))]
        if not decision.allowed:
            written.append(_retry_after(max(row[2] for row in numbers)))
        return written

    return write_one if len(policies) == 1 else write


def _nearness(decision: Decision) -> tuple[float, int]:
    """Sort key: the decision with the longest wait first, then the one with the fewest units left."""
    return -decision.retry_after, decision.remaining


def _older_fields(prefix: str, decision: Decision) -> list[Field]:
    """Limit, remaining units, and seconds until the reset (no Unix time) of the policy that decided."""
    decided = next(row for row in decision.numbers if row[0] == decision.policy)
    policy, remaining, _, reset_us = decided
    return [
        (f"{prefix}-Limit", str(policy.capacity)),
        (f"{prefix}-Remaining", str(remaining)),
        (f"{prefix}-Reset", str(-(-reset_us // _SECOND_US))),
    ]


def names(policies: Sequence[Policy], limiter_name: str) -> list[str]:
    """Name each policy: by its own name, else by the limiter's, counted if there are several."""
    is_alone = sum(policy.name is None for policy in policies) == 1
    numbers = count(1)
    return [
        policy.name or (limiter_name if is_alone else f"{limiter_name}.{next(numbers)}")
        for policy in policies
    ]


class _Head(NamedTuple):
    """The parts of a policy's RateLimit item that do not change from call to call."""

    name: str
    window: int | None
    leases: bool


@lru_cache(maxsize=1024)
def _policies(
    policies: tuple[Policy, ...], limiter_name: str, unit: str
) -> tuple[str, list[_Head]]:
    """Return one limiter's items of RateLimit-Policy, and the heads of its items of RateLimit.

    The draft has no name for other units than requests, bytes and concurrent requests.
    """
    items, heads = [], []
    for name, policy in zip(names(policies, limiter_name), policies, strict=True):
        item, window = f'"{name}";q={policy.capacity}', _window(policy)
        if policy.leases:
            item += ';qu="concurrent-requests"'
        elif unit == "bytes":
            item += ';qu="content-bytes"'
        if window and not policy.leases:
            item += f";w={window}"
        items.append(item)
        heads.append(_Head(f'"{name}";r=', window, policy.leases))
    return ", ".join(items), heads


def _window(policy: Policy) -> int | None:
    """Return how many seconds the policy takes to restore its whole capacity, rounded up.

    None below one second: the syntax has no fractions, and 1 would be wrong.
    """
    exact_us = -(-policy.capacity * policy.period_us // policy.limit)
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

"""A decision as HTTP fields, in the syntax of draft-ietf-httpapi-ratelimit-headers-11."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from limiter.decision import Decision
from limiter.policies import Policy

_SECOND_US = 1_000_000


def fields(decision: Decision, limiter_name: str) -> list[tuple[str, str]]:
    """Return RateLimit-Policy and RateLimit, and Retry-After when a limit denied.

    A decision that no limit made (the store failed, and a fallback without numbers answered) has
    no fields: there is nothing true to say.
    """
    policies = tuple(one.policy for one in decision.each)
    if not policies:
        return []
    found = [
        ("RateLimit-Policy", _policies(policies, limiter_name)),
        ("RateLimit", ", ".join(map(_state, names(policies, limiter_name), decision.each))),
    ]
    if not decision.allowed:
        found.append(("Retry-After", str(max(1, math.ceil(decision.retry_after)))))
    return found


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
        window = _window(policy)
        items.append(f'"{name}";q={policy.capacity}' + (f";w={window}" if window else ""))
    return ", ".join(items)


def _window(policy: Policy) -> int | None:
    """Return whole seconds, or none: the syntax has no fractions, and 1 would be a lie."""
    exact_us = window_us(policy)
    return -(-exact_us // _SECOND_US) if exact_us >= _SECOND_US else None


def _state(name: str, decision: Decision) -> str:
    seconds = math.ceil(decision.reset_after if decision.allowed else decision.retry_after)
    window = _window(decision.policy)
    if window is not None:
        seconds = min(seconds, window)
    return f'"{name}";r={decision.remaining};t={seconds}'

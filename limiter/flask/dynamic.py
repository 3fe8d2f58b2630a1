"""Limits that a function returns for each request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from flask import request

from limiter.client import Limiter
from limiter.errors import InvalidPolicy
from limiter.flask.limits import ViewRule
from limiter.flask.request_state import RequestState
from limiter.grammar import Limits
from limiter.policies import Policy

#: How many limiters are kept for one limit of one route.
MOST_KEPT = 64


def dynamic_rule(rule: ViewRule, make: Callable[[Limits], Limiter]) -> ViewRule:
    """Return the rule of a limit that is a function; it applies the amount of the current request.

    It raises InvalidPolicy if the amount is not a limit.
    """

    @lru_cache(MOST_KEPT)
    def with_limits(limits: Limits) -> ViewRule:
        return replace(rule, limiter=make(limits))

    def current() -> ViewRule:
        amount = RequestState.of(request).amounts[rule.limit]
        return with_limits(amount if isinstance(amount, (str, Policy)) else _policies(amount))

    return replace(rule, by_amount=current)


def _policies(amount: object) -> tuple[Policy, ...]:
    if isinstance(amount, Iterable):
        return tuple(amount)
    raise InvalidPolicy.of(
        "limits", repr(amount), "expected a limit string, a policy, several policies, or None"
    )

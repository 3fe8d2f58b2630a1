"""Limits that a function returns for each request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from threading import Lock
from typing import Any

from flask import request

from limiter.errors import InvalidPolicy
from limiter.flask.limits import ViewRule
from limiter.flask.request_state import RequestState
from limiter.grammar import Limits
from limiter.policies import Policy
from limiter.web.rules import Rule

#: How many limiters are kept for one limit of one route.
MOST_KEPT = 64


class RulesByAmount:
    """The rules of one dynamic limit: one for each amount that its function returned lately."""

    def __init__(self, limiter: Callable[[Limits], Any]) -> None:
        self._limiter = limiter
        self._rules: dict[object, Rule] = {}
        self._changing = Lock()

    def __call__(self, dynamic: ViewRule) -> Rule:
        """The rule for the amount of the current request.

        Raises:
            InvalidPolicy: The amount is not a limit.

        """
        amount = RequestState.of(request.environ).amounts[dynamic.limit]
        if not isinstance(amount, (str, Policy)):
            amount = _policies(amount)
        rule = self._rules.get(amount)
        if rule is None:
            rule = replace(dynamic, limiter=self._limiter(amount), rule_by_amount=None)
            with self._changing:
                while len(self._rules) >= MOST_KEPT:
                    self._rules.pop(next(iter(self._rules)))
                self._rules[amount] = rule
        return rule


def _policies(amount: object) -> tuple[Policy, ...]:
    if isinstance(amount, Iterable):
        return tuple(amount)
    raise InvalidPolicy.of(
        "limits", repr(amount), "accepted are a limit string, a policy, several policies, and None"
    )

"""Limits that a function says for each request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from threading import Lock
from typing import Any

from flask import request

from limiter.base import Limits
from limiter.errors import InvalidPolicy
from limiter.flask.limits import ViewRule
from limiter.flask.request_state import RequestState
from limiter.policies import Policy
from limiter.web.rules import Rule

#: So many limiters are kept for one limit of one route.
MOST_KEPT = 64


class ByAmount:
    """The rules of one limit for what its function has said lately, each with its limiter."""

    def __init__(self, rule: ViewRule, limiter: Callable[[Limits], Any]) -> None:
        self._rule = rule
        self._limiter = limiter
        self._rules: dict[object, Rule] = {}
        self._changing = Lock()

    def __call__(self) -> Rule:
        """The rule for what was said of the current request.

        Raises:
            InvalidPolicy: It makes no sense.

        """
        amount = RequestState.of(request.environ).amounts[self._rule.limit]
        if not isinstance(amount, (str, Policy)):
            amount = _policies(amount)
        found = self._rules.get(amount)
        if found is None:
            found = replace(self._rule, limiter=self._limiter(amount), make=None)
            with self._changing:
                while len(self._rules) >= MOST_KEPT:
                    self._rules.pop(next(iter(self._rules)))
                self._rules[amount] = found
        return found


def _policies(amount: object) -> tuple[Policy, ...]:
    if isinstance(amount, Iterable):
        return tuple(amount)
    raise InvalidPolicy.of(
        "limits", repr(amount), "accepted are a limit string, a policy, several policies, and None"
    )

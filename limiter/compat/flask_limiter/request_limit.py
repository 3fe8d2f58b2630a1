"""The decision of a limit in the current request, with Flask-Limiter's names."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from flask import request

from limiter.decision import Decision
from limiter.flask.limits import ViewRule
from limiter.flask.refusals import denying
from limiter.flask.request_state import RequestState
from limiter.keys import Key
from limiter.policies import Policy
from limiter.web.guard import Result, Verdict

_DAY = 86_400
_UNITS = {
    "year": 365 * _DAY,
    "month": 30 * _DAY,
    "day": _DAY,
    "hour": 3_600,
    "minute": 60,
    "second": 1,
}


class Amount(NamedTuple):
    """A limit as Flask-Limiter describes it: ``amount`` in every ``multiples`` of a ``unit``."""

    amount: int
    multiples: float
    unit: str

    @classmethod
    def of(cls, policy: Policy) -> Amount:
        """The amount of a policy."""
        seconds = policy.period_us / 1e6
        for unit, lasts in _UNITS.items():
            if seconds % lasts == 0:
                return cls(policy.limit, int(seconds // lasts), unit)
        return cls(policy.limit, seconds, "second")

    def get_expiry(self) -> int:
        """Seconds that the window lasts."""
        return math.ceil(self.multiples * _UNITS[self.unit])

    def __str__(self) -> str:
        return f"{self.amount} per {self.multiples} {self.unit}"


class Window(NamedTuple):
    """The state of a limit."""

    reset_time: int
    """When the whole limit is free again, in seconds since 1970."""
    remaining: int


class RequestLimit:
    """One limit and its decision.

    Attributes:
        limit: The limit.
        key: The name of its count.
        breached: Whether it denied.
        shared: Whether several routes share it.
        remaining: Units that are left.
        reset_at: When the whole limit is free again, in seconds since 1970.

    """

    def __init__(self, rule: ViewRule, subject: Key, decision: Decision) -> None:
        self.limit = Amount.of(decision.policy)
        self.key = f"{rule.limiter.name}/{subject!r}"
        self.request_args = [subject, rule.limiter.name]
        self.breached = not decision.allowed
        self.shared = rule.limit.scope is not None or rule.called == "application"
        self.remaining = decision.remaining
        decided_at = decision.decided_at + RequestState.of(request).clock_ahead
        self.reset_at = math.ceil(decided_at + decision.reset_after)
        self.rule = rule
        self.retry_after = decision.retry_after

    @property
    def window(self) -> Window:
        """When the whole limit is free again, and how many units are left."""
        return Window(self.reset_at, self.remaining)


def note_clock(_: object, verdict: Verdict) -> None:
    """Record how far this process's clock is ahead, since readers compare ``reset_at`` with it."""
    for result in verdict.results:
        if result.decision.decided_at:
            ahead = time.time() - result.decision.decided_at
            RequestState.of(request).clock_ahead = ahead


def request_limits(verdict: Verdict) -> list[RequestLimit]:
    """All limits that were checked, in their order."""
    return [limit for result in verdict.results for limit in _limits_of(result)]


def deciding(verdict: Verdict) -> RequestLimit | None:
    """The limit that denied for the longest time; else the one with the least left."""
    breached = [
        limit for result in denying(verdict) for limit in _limits_of(result) if limit.breached
    ]
    return min(
        breached or request_limits(verdict),
        key=lambda limit: (-limit.retry_after, limit.remaining),
        default=None,
    )


def _limits_of(result: Result) -> list[RequestLimit]:
    rule = result.rule
    if not isinstance(rule, ViewRule):
        return []
    return [RequestLimit(rule, result.part.key, decision) for decision in result.decision.each]

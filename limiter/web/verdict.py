"""Makes the verdict about a request, from its rules' decisions or from an error.

It calls no store: ``guard`` and the service obtain the decisions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

from limiter.decision import Decision
from limiter.errors import InvalidCost, LimiterError, StoreUnavailable
from limiter.leases import HeldLease
from limiter.log_throttle import log_seldom
from limiter.plan import Part, Plan
from limiter.web import headers, problems
from limiter.web.identity import Unidentified
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.request import Request
from limiter.web.rules import Rule

log = logging.getLogger("limiter.web")


class Result(NamedTuple):
    """One rule's decision about a request."""

    rule: Rule
    decision: Decision
    part: Part
    """The rule's part of the call to the store; if it is settled later, no class bounds it."""

    @property
    def denies(self) -> bool:
        """Whether the rule denies the request; in shadow mode it never does."""
        return not (self.decision.allowed or self.rule.shadow)


@dataclass(eq=False)
class Verdict:
    """Whether a request is allowed, the response's header fields, and the body of a refusal.

    Attributes:
        status: 200 (allowed), 429 (a limit denies, or the client has begun too many subjects), 503 (the
            store did not decide, and the fallback denies), 413 (the cost exceeds what the limit ever
            admits at once) or 400 (the caller cannot be identified).
        results: The decision of each rule that applies to the request.
        fields: Header fields for the response, also of an allowed request.
        body: A refusal as ``application/problem+json``; else empty.
        error: Why the store did not decide, or was not called.
        shadowed: Rules in shadow mode that could not be evaluated, and why: without shadow mode they
            would have refused.
        settles: Whether the response may show the true cost of the request to one of the rules.
        settled: Ids of the parts whose true cost was settled.

    """

    status: int = 200
    results: tuple[Result, ...] = ()
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""
    error: LimiterError | None = None
    shadowed: list[tuple[Rule, LimiterError]] = field(default_factory=list, init=False)
    leases: list[tuple[Any, HeldLease]] = field(default_factory=list, init=False)
    settles: bool = field(default=False, init=False)
    settled: frozenset[int] = field(default=frozenset(), init=False)

    @classmethod
    def of_results(
        cls,
        results: tuple[Result, ...],
        request: Request,
        error: LimiterError | None = None,
        fields: list[tuple[str, str]] | None = None,
    ) -> Verdict:
        """Make the verdict of rules' decisions; ``error`` is why the store did not make them.

        ``fields`` are the decisions' header fields, if they were written already.
        """
        denied = []
        for result in results:
            if result.decision.degraded and error is None:
                error = StoreUnavailable("the store did not decide")
            if result.denies:
                denied.append(result)
        if fields is None:
            fields = header_fields(results)
        if not denied:
            return cls(200, results, fields, error=error)
        by_limits = [
            (result.decision, result.rule.name, result.rule.unit)
            for result in denied
            if result.decision.numbers
        ]
        if not by_limits:  # a fallback denied, and no limit
            return cls(503, results, body=problems.reduced_capacity(request.path), error=error)
        body = problems.quota_exceeded(by_limits, request.path)
        return cls(429, results, fields, body, error)

    @classmethod
    def of_hit(cls, result: Result, plan: Plan, request: Request) -> Verdict:
        """As ``of_results``, for one rule that is not in shadow mode; ``plan`` is that of the call."""
        rule, decision, _ = result
        if decision.degraded:
            return cls.of_results((result,), request)
        texts = _texts(plan, rule.name, rule.form, rule.unit)
        fields = texts.write(decision)
        if decision.allowed:
            return cls(200, (result,), fields)
        if texts.denial is None:
            body = problems.quota_exceeded([(decision, rule.name, rule.unit)], request.path)
        else:
            body = texts.denial.about(request.path)
        return cls(429, (result,), fields, body)

    @classmethod
    def of_error(cls, error: LimiterError, request: Request, in_shadow: bool = False) -> Verdict:
        """Refuse a request that no rule decided; with ``in_shadow``, a store's error lets it pass."""
        if isinstance(error, Unidentified):
            return cls(400, body=problems.unidentified(error, request.path), error=error)
        if isinstance(error, InvalidCost):
            return cls(413, body=problems.too_large(request.path), error=error)
        if isinstance(error, TooManyNewSubjects):
            wait = [("Retry-After", str(max(1, ceil(error.retry_after))))]
            body = problems.too_many_new_subjects(error.policy, str(error), request.path)
            return cls(429, fields=wait, body=body, error=error)
        # The store answered, but not with a decision: operators must see that, and no request may pass.
        name = type(error).__name__
        log_seldom(log, logging.ERROR, "%s: %s", name, error, kind=name)
        if in_shadow:
            return cls(error=error)
        return cls(503, body=problems.reduced_capacity(request.path), error=error)

    def refund(self, refunded: Iterable[Result]) -> None:
        """Show these results, and the header fields, as they are after a refund of what was granted."""
        ids = set(map(id, refunded))
        self.results = tuple(
            each._replace(decision=each.decision.refunded()) if id(each) in ids else each
            for each in self.results
        )
        self.fields = header_fields(self.results)

    @property
    def allowed(self) -> bool:
        """Whether the request is allowed."""
        return self.status == 200

    @property
    def delay(self) -> float:
        """Seconds to wait before going on, if a leaky bucket queues the request; 0 in shadow mode."""
        deciding = (result.decision for result in self.results if not result.rule.shadow)
        return max((decision.delay for decision in deciding), default=0.0)

    def __bool__(self) -> bool:
        return self.allowed


class _Texts(NamedTuple):
    """What responses say about a limiter's decisions, as far as it is the same for all of them."""

    write: Callable[[Decision], list[headers.Field]]
    denial: problems.Problem | None
    """The problem of a denial; None if several policies may deny."""


@lru_cache(maxsize=1024)
def _texts(plan: Plan, name: str, form: str, unit: str) -> _Texts:
    """Prepare the texts of a limiter; its call template is found faster than its policies."""
    write = headers.writer(plan.policies, name, form, unit)
    policies = plan.policies
    return _Texts(
        write, problems.denied_by(policies[0], name, unit) if len(policies) == 1 else None
    )


#: Called with every request and its verdict, also after errors: for counters and logs.
Observer = Callable[[Request, Verdict], object]


def header_fields(results: Iterable[Result]) -> list[tuple[str, str]]:
    """Return the header fields of several rules' results, without rules in shadow mode."""
    return headers.of_all(
        [
            headers.NamedDecision(
                result.decision, result.rule.name, result.rule.form, result.rule.unit
            )
            for result in results
            if not result.rule.shadow
        ]
    )

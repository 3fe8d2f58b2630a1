"""``/v1/check/<policy>`` decides about subjects of a body, and ``/v1/refund/<policy>`` refunds."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

from flask import Blueprint, Response, abort, request
from werkzeug.exceptions import HTTPException

from limiter import InvalidCost, InvalidPolicy, LimiterError, StoreUnavailable
from limiter.web.guard import Guard
from limiter.web.headers import Field
from limiter.web.request import Request, from_wsgi
from limiter.web.rules import Check
from limiter.web.subjects import Key
from limiter.web.verdict import Result, Verdict
from service import bodies, logs
from service.one_policy import AnyPolicies
from service.recorder import Recorder

MOST_CHECKS = 100
#: Seconds after which a batch stops calling a store that did not answer the last check.
BATCH_TIMEOUT = 0.5

_MEMBERS = ("key", "cost", "peek")
TOO_LARGE = "The cost is more than this policy ever admits at once."
#: The store failed in the middle of a call that changes something.
UNSURE = "The store did not answer, but may have done it."

#: A status, a body for JSON, and header fields.
CheckResult = tuple[int, dict[str, Any], list[Field]]


def blueprint(policies: AnyPolicies, recorder: Recorder) -> Blueprint:
    """Make the routes, for these policies."""
    routes = Blueprint("checks", __name__)

    @routes.post("/v1/check/<policy>")
    def check(policy: str) -> Response:
        """Decide about a subject, or about each subject of a batch, in order and independently."""
        guard = guard_of(policies, policy)
        if guard.counts_leases:
            abort(422, "This policy counts leases: use /v1/hold.")
        body = bodies.read([*_MEMBERS, "checks"])
        if "checks" not in body:
            status, result, fields = _Checks(guard, recorder).decide(body)
            return bodies.json_response(result, status, fields)
        items = bodies.members(body, ["checks"])["checks"]
        if not isinstance(items, list) or not 1 <= len(items) <= MOST_CHECKS:
            abort(422, f"checks is no list of 1 to {MOST_CHECKS}.")
        checks = _Checks(guard, recorder)
        results = [checks.decide_in_batch(item) for item in items]
        return bodies.json_response(
            {"results": [{"status": status, **result} for status, result, _ in results]}
        )

    @routes.post("/v1/refund/<policy>")
    def refund(policy: str) -> Response:
        """Refund a cost for work that was not done, up to what was used."""
        guard = guard_of(policies, policy)
        body = bodies.read(["key", "cost"])
        subject, cost = bodies.subject(body, guard), bodies.cost(body)
        check = check_of(guard, subject, cost)
        if check is not None:
            _refund(check, cost)
        return bodies.json_response({"refunded": check is not None})

    return routes


def _refund(check: Check, cost: int) -> None:
    try:
        check.rule.limiter.refund(check.key, cost, limits=check.limits)
    except InvalidPolicy:
        abort(422, "This policy counts leases: release one by DELETE /v1/hold.")
    except InvalidCost:
        abort(422, TOO_LARGE)
    except LimiterError:
        abort(503, UNSURE)
    logs.changed("a charge was refunded", check.rule.name, check.key, cost)


def guard_of(policies: AnyPolicies, name: str) -> Guard:
    """Return the policy's guard; abort if there is no policy of that name."""
    guard = policies.guard_for(name)
    if guard is None:
        abort(404, "There is no such policy.")
    return guard


def check_of(guard: Guard, subject: Key, cost: int) -> Check | None:
    """Return a policy's check of a subject that a body names; None for an exempt subject."""
    (rule,) = guard.rules
    return rule.about(subject, cost).check(own_request(), guard.trusted)


class _Checks:
    """The checks of one request; a batch waits for a store that does not answer only for a bounded time."""

    def __init__(self, guard: Guard, recorder: Recorder) -> None:
        self._guard = guard
        self._recorder = recorder
        self._deadline = monotonic() + BATCH_TIMEOUT
        self._unavailable: StoreUnavailable | None = None

    def decide_in_batch(self, item: Any) -> CheckResult:
        """Return the result for an item of a batch; a problem if the item is invalid."""
        try:
            return self.decide(bodies.members(item, _MEMBERS))
        except HTTPException as error:
            status = error.code or 500
            return status, bodies.problem(status, error.description or ""), []

    def decide(self, item: dict[str, Any]) -> CheckResult:
        """Return the result for a subject; abort if the item is invalid."""
        subject, cost = bodies.subject(item, self._guard), bodies.cost(item)
        decide = self._peek if bodies.flag(item, "peek") else self._hit
        verdict = decide(subject, cost, self._unavailable if monotonic() > self._deadline else None)
        error = verdict.error
        self._unavailable = error if isinstance(error, StoreUnavailable) else None
        if verdict.status == 413:
            return 422, bodies.problem(422, TOO_LARGE), []
        return result_of(verdict)

    def _hit(self, subject: Key, cost: int, error: StoreUnavailable | None) -> Verdict:
        (rule,) = self._guard.rules
        guard = Guard([rule.about(subject, cost)], self._guard.trusted)
        return self._recorder.enter(guard, own_request(), error)

    def _peek(self, subject: Key, cost: int, error: LimiterError | None) -> Verdict:
        """Return the verdict that a check would get now; nothing is taken, and no metric changes."""
        check = check_of(self._guard, subject, cost)
        if check is None:
            return Verdict()
        rule = check.rule
        if error is None:
            try:
                part = check.part()
                decision = rule.limiter.peek(check.key, check.cost, limits=check.limits)
                return Verdict.of_results((Result(rule, decision, part),), own_request())
            except LimiterError as failure:
                error = failure
        return Verdict(error=error) if rule.shadow else Verdict.of_error(error, own_request())


def result_of(verdict: Verdict, **members: Any) -> CheckResult:
    """Return a verdict about one subject; ``members`` are added if it is allowed."""
    decision = verdict.results[0].decision.to_dict() if verdict.results else None
    body = {"allowed": True, **members} if verdict.allowed else json.loads(verdict.body)
    return verdict.status, {**body, "decision": decision}, verdict.fields


def own_request() -> Request:
    """Return the service's own request: its path names the problem, and its fields the trace."""
    return from_wsgi(request.environ)

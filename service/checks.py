"""``POST /v1/check/<policy>``: decides about subjects that the body names, up to 100 in one request."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

from flask import Blueprint, Response, abort, request
from werkzeug.exceptions import HTTPException

from limiter import InvalidCost, LimiterError, StoreUnavailable
from limiter.policyfile import Policies
from limiter.web.guard import Guard
from limiter.web.headers import Field
from limiter.web.request import Request, from_wsgi
from limiter.web.rules import Check
from limiter.web.subjects import Key
from limiter.web.verdict import Result, Verdict
from service import bodies
from service.one_policy import OnePolicy
from service.recorder import Recorder

MOST_CHECKS = 100
#: Seconds after which a batch stops calling a store that did not answer the last check.
BATCH_TIMEOUT = 0.5

_MEMBERS = ("key", "cost", "peek")
_UNDECIDED = "The store does not decide right now."
_TOO_LARGE = "The cost is more than this policy ever admits at once."

#: A status, a body for JSON, and header fields.
CheckResult = tuple[int, dict[str, Any], list[Field]]


def blueprint(policies: Policies | OnePolicy, recorder: Recorder) -> Blueprint:
    """Make the route, for these policies."""
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

    return routes


def guard_of(policies: Policies | OnePolicy, name: str) -> Guard:
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
        peek = bodies.flag(item, "peek")
        error = self._unavailable if monotonic() > self._deadline else None
        if not peek:
            return self._hit(subject, cost, error)
        return self._undecided(error) if error is not None else self._peek(subject, cost)

    def _hit(self, subject: Key, cost: int, error: StoreUnavailable | None) -> CheckResult:
        (rule,) = self._guard.rules
        guard = Guard([rule.about(subject, cost)], self._guard.trusted)
        return self._result(self._recorder.enter(guard, own_request(), error))

    def _peek(self, subject: Key, cost: int) -> CheckResult:
        """Return the result that a check would get now; nothing is taken, and no metric changes."""
        check = check_of(self._guard, subject, cost)
        if check is None:
            return 200, {"allowed": True, "decision": None}, []
        rule = check.rule
        try:
            part = check.part()
            decision = rule.limiter.peek(check.key, check.cost, limits=check.limits)
        except LimiterError as error:
            self._unavailable = error if isinstance(error, StoreUnavailable) else None
            return self._undecided(error)
        return self._result(Verdict.of_results([Result(rule, decision, part)], own_request()))

    def _result(self, verdict: Verdict) -> CheckResult:
        error = verdict.error
        self._unavailable = error if isinstance(error, StoreUnavailable) else None
        decision = verdict.results[0].decision.to_dict() if verdict.results else None
        if verdict.allowed:
            return 200, {"allowed": True, "decision": decision}, verdict.fields
        if verdict.status == 413:
            return 422, bodies.problem(422, _TOO_LARGE), []
        return verdict.status, {**json.loads(verdict.body), "decision": decision}, verdict.fields

    def _undecided(self, error: LimiterError) -> CheckResult:
        """Return the result of a peek that failed; shadow mode allows it."""
        if self._guard.rules[0].shadow:
            return 200, {"allowed": True, "decision": None}, []
        cost = isinstance(error, InvalidCost)
        return abort(422, _TOO_LARGE) if cost else abort(503, _UNDECIDED)


def own_request() -> Request:
    """Return the service's own request: its path names the problem, and its fields the trace."""
    return from_wsgi(request.environ)

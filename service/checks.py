"""``POST /v1/check/<policy>``: a decision for whoever names a subject, one or up to 100 at a time."""

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
#: Seconds after which a batch no longer asks a store that was silent at its last check.
PATIENCE = 0.5

_MEMBERS = ("key", "cost", "peek")
_UNDECIDED = "The store does not decide right now."
_TOO_LARGE = "The cost is more than this policy ever admits at once."

#: A status, a body for JSON, and header fields.
CheckResult = tuple[int, dict[str, Any], list[Field]]


def blueprint(policies: Policies | OnePolicy, recorder: Recorder) -> Blueprint:
    """The route, for these policies."""
    routes = Blueprint("checks", __name__)

    @routes.post("/v1/check/<policy>")
    def check(policy: str) -> Response:
        """Decide; a batch is decided in order, each by itself."""
        guard = found(policies, policy)
        if guard.counts_leases:
            abort(422, "This policy counts what is held: ask /v1/hold.")
        body = bodies.read([*_MEMBERS, "checks"])
        if "checks" not in body:
            status, result, fields = _Checks(guard, recorder).one(body)
            return bodies.json_response(result, status, fields)
        items = bodies.members(body, ["checks"])["checks"]
        if not isinstance(items, list) or not 1 <= len(items) <= MOST_CHECKS:
            abort(422, f"checks is no list of 1 to {MOST_CHECKS}.")
        checks = _Checks(guard, recorder)
        results = [checks.one_of_many(one) for one in items]
        return bodies.json_response(
            {"results": [{"status": status, **found} for status, found, _ in results]}
        )

    return routes


def found(policies: Policies | OnePolicy, name: str) -> Guard:
    """The policy's guard; aborts where there is none of that name."""
    guard = policies.guard_for(name)
    if guard is None:
        abort(404, "There is no such policy.")
    return guard


def check_of(guard: Guard, subject: Key, cost: int) -> Check | None:
    """What a policy asks about a subject that a body names; None for the exempt."""
    (rule,) = guard.rules
    return rule.about(subject, cost).check(about(), guard.trusted)


class _Checks:
    """The checks of one request; a store that is silent is not waited for again and again."""

    def __init__(self, guard: Guard, recorder: Recorder) -> None:
        self._guard = guard
        self._recorder = recorder
        self._patient_until = monotonic() + PATIENCE
        self._unavailable: StoreUnavailable | None = None

    def one_of_many(self, item: Any) -> CheckResult:
        """An answer, also where it makes no sense."""
        try:
            return self.one(bodies.members(item, _MEMBERS))
        except HTTPException as error:
            status = error.code or 500
            return status, bodies.problem(status, error.description or ""), []

    def one(self, item: dict[str, Any]) -> CheckResult:
        """An answer; aborts where it makes no sense."""
        subject, cost = bodies.subject(item, self._guard), bodies.cost(item)
        peek = bodies.flag(item, "peek")
        silent = self._unavailable if monotonic() > self._patient_until else None
        if not peek:
            return self._hit(subject, cost, silent)
        return self._undecided(silent) if silent is not None else self._peek(subject, cost)

    def _hit(self, subject: Key, cost: int, silent: StoreUnavailable | None) -> CheckResult:
        (rule,) = self._guard.rules
        named = Guard([rule.about(subject, cost)], self._guard.trusted)
        return self._result(self._recorder.enter(named, about(), silent))

    def _peek(self, subject: Key, cost: int) -> CheckResult:
        """What it would be, at this instant; nothing is taken, and nothing counted."""
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
        return self._result(Verdict.of_results([Result(rule, decision, part)], about()))

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
        """The result of a peek that failed; in shadow mode it denies nothing."""
        if self._guard.rules[0].shadow:
            return 200, {"allowed": True, "decision": None}, []
        cost = isinstance(error, InvalidCost)
        return abort(422, _TOO_LARGE) if cost else abort(503, _UNDECIDED)


def about() -> Request:
    """What is asked here: of it nothing counts but the subject that its body names, and its trace."""
    return from_wsgi(request.environ)

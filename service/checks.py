"""``POST /v1/check/<policy>``: a decision for whoever names a subject, one or up to 100 at a time."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

from flask import Blueprint, Response, abort, request
from werkzeug.exceptions import HTTPException

from limiter import InvalidCost, LimiterError, StoreUnavailable
from limiter.policyfile import Policies
from limiter.web import headers, problems
from limiter.web.guard import Guard
from limiter.web.headers import Field
from limiter.web.request import Request, from_wsgi
from limiter.web.subjects import Key
from service import bodies
from service.forward_auth import counts_leases
from service.one_policy import OnePolicy
from service.recorder import Recorder

MOST_CHECKS = 100
#: Seconds after which a batch no longer asks a store that was silent at its last check.
PATIENCE = 0.5

_MEMBERS = ("key", "cost", "peek")
_UNDECIDED = "The store does not decide right now."
_NOBODY = "The cost is more than this policy ever admits at once."

#: A status, what is said, and header fields.
Answer = tuple[int, dict[str, Any], list[Field]]


def blueprint(policies: Policies | OnePolicy, recorder: Recorder) -> Blueprint:
    """The route, for these policies."""
    routes = Blueprint("checks", __name__)

    @routes.post("/v1/check/<policy>")
    def check(policy: str) -> Response:
        """Decide; a batch is decided in order, each by itself."""
        guard = found(policies, policy)
        if counts_leases(guard):
            abort(422, "This policy counts what is held: ask /v1/hold.")
        body = bodies.read([*_MEMBERS, "checks"])
        if "checks" not in body:
            status, said, fields = _Turn(guard, recorder).one(body)
            return bodies.json_response(said, status, fields)
        asked = bodies.members(body, ["checks"])["checks"]
        if not isinstance(asked, list) or not 1 <= len(asked) <= MOST_CHECKS:
            abort(422, f"checks is no list of 1 to {MOST_CHECKS}.")
        turn = _Turn(guard, recorder)
        answers = [turn.one_of_many(one) for one in asked]
        return bodies.json_response(
            {"results": [{"status": status, **said} for status, said, _ in answers]}
        )

    return routes


def found(policies: Policies | OnePolicy, name: str) -> Guard:
    """The policy's guard; aborts where there is none of that name."""
    guard = policies.guard_for(name)
    if guard is None:
        abort(404, "There is no such policy.")
    return guard


class _Turn:
    """The checks of one request; a store that is silent is not waited for again and again."""

    def __init__(self, guard: Guard, recorder: Recorder) -> None:
        self._guard = guard
        self._recorder = recorder
        self._patient_until = monotonic() + PATIENCE
        self._unavailable: StoreUnavailable | None = None

    def one_of_many(self, asked: Any) -> Answer:
        """An answer, also where it makes no sense."""
        try:
            return self.one(bodies.members(asked, _MEMBERS))
        except HTTPException as error:
            status = error.code or 500
            return status, bodies.problem(status, error.description or ""), []

    def one(self, asked: dict[str, Any]) -> Answer:
        """An answer; aborts where it makes no sense."""
        subject, cost = bodies.subject(asked, self._guard), bodies.cost(asked)
        peek = bodies.flag(asked, "peek")
        silent = self._unavailable if monotonic() > self._patient_until else None
        if not peek:
            return self._hit(subject, cost, silent)
        return self._undecided(silent) if silent is not None else self._peek(subject, cost)

    def _hit(self, subject: Key, cost: int, silent: StoreUnavailable | None) -> Answer:
        (rule,) = self._guard.rules
        named = Guard([rule.about(subject, cost)], self._guard.trusted)
        verdict = self._recorder.enter(named, about(), silent)
        error = verdict.error
        self._unavailable = error if isinstance(error, StoreUnavailable) else None
        said = verdict.results[0].decision.to_dict() if verdict.results else None
        if verdict.allowed:
            return 200, {"allowed": True, "decision": said}, verdict.fields
        if verdict.status == 413:
            return 422, bodies.problem(422, _NOBODY), []
        return verdict.status, {**json.loads(verdict.body), "decision": said}, verdict.fields

    def _peek(self, subject: Key, cost: int) -> Answer:
        """What it would be, at this instant; nothing is taken, and nothing counted."""
        (rule,) = self._guard.rules
        asked = rule.about(subject, cost).check(about(), self._guard.trusted)
        if asked is None:
            return 200, {"allowed": True, "decision": None}, []
        try:
            decision = rule.limiter.peek(asked.key, asked.cost, limits=asked.limits)
        except LimiterError as error:
            self._unavailable = error if isinstance(error, StoreUnavailable) else None
            return self._undecided(error)
        self._unavailable = StoreUnavailable(_UNDECIDED) if decision.degraded else None
        said, fields = decision.to_dict(), headers.fields(decision, rule.name, rule.form)
        if decision.allowed or rule.shadow:
            return 200, {"allowed": True, "decision": said}, [] if rule.shadow else fields
        if not decision.each:
            reduced = json.loads(problems.reduced_capacity(request.path))
            return 503, {**reduced, "decision": said}, []
        body = problems.quota_exceeded(decision, rule.name, request.path)
        return 429, {**json.loads(body), "decision": said}, fields

    def _undecided(self, error: LimiterError) -> Answer:
        """What a peek says that came to nothing; in the shadows that denies nobody."""
        if self._guard.rules[0].shadow:
            return 200, {"allowed": True, "decision": None}, []
        cost = isinstance(error, InvalidCost)
        return abort(422, _NOBODY) if cost else abort(503, _UNDECIDED)


def about() -> Request:
    """What is asked here: of it nothing counts but the subject that its body names, and its trace."""
    return from_wsgi(request.environ)

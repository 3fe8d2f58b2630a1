"""``/v1/hold/<policy>``: takes, renews and releases leases for services in any language."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, abort

from limiter import InvalidCost, InvalidPolicy, StoreRefused, StoreUnavailable
from limiter.web.guard import Guard
from limiter.web.lease_calls import LeaseCalls
from limiter.web.verdict import Result, Verdict
from service import bodies
from service.checks import TOO_LARGE, UNSURE, check_of, guard_of, own_request, result_of
from service.one_policy import AnyPolicies
from service.recorder import Recorder


def blueprint(policies: AnyPolicies, recorder: Recorder) -> Blueprint:
    """Make the routes, for these policies."""
    routes = Blueprint("holds", __name__)

    @routes.post("/v1/hold/<policy>")
    def take(policy: str) -> Response:
        """Take a lease, or renew one; a caller that chooses the id may repeat the call."""
        guard = guard_of(policies, policy)
        body = bodies.read(["key", "cost", "lease", "renew"])
        lease, cost, renew = bodies.lease(body), bodies.cost(body), bodies.flag(body, "renew")
        if renew and lease is None:
            abort(422, "lease is missing: expected the id of the lease to renew.")
        leases = _leases(guard, body, cost)
        name = lease or secrets.token_hex(16)
        result = {"allowed": True, "lease": name, "cost": cost, "seconds": None, "decision": None}
        if leases is None:  # nothing is counted, and nothing expires
            return bodies.json_response(result)
        result["seconds"] = leases.seconds
        if renew:
            # In shadow mode a lease that was denied is renewed like any other.
            if not _sure(leases, lambda: leases.renew(name)) and not leases.rule.shadow:
                abort(410, "The lease has ended: it is no longer held.")
            return bodies.json_response(result)
        verdict = recorder.record(own_request(), lambda: _take(leases, name, forget=lease is None))
        status, answer, fields = result_of(verdict, **result)
        return bodies.json_response(answer, status, fields)

    @routes.delete("/v1/hold/<policy>")
    def give_back(policy: str) -> Response:
        """Release a lease; a repeated call does nothing."""
        guard = guard_of(policies, policy)
        body = bodies.read(["key", "cost", "lease"])
        lease, cost = bodies.lease(body), bodies.cost(body)
        if lease is None:
            abort(422, "lease is missing: expected the id of the lease to release.")
        leases = _leases(guard, body, cost)
        count = 0 if leases is None else _sure(leases, lambda: leases.give_back(lease))
        return bodies.json_response({"given_back": count})

    return routes


def _leases(guard: Guard, body: dict[str, Any], cost: int) -> LeaseCalls | None:
    """Return the leases of the body's subject; None if it is exempt, or shadow mode lets the cost pass."""
    check = check_of(guard, bodies.subject(body, guard), cost)
    if check is None:
        return None
    try:
        return LeaseCalls(check)
    except InvalidPolicy:
        abort(422, "This policy counts no leases: use /v1/check.")
    except InvalidCost:
        if check.rule.shadow:
            return None
        abort(422, TOO_LARGE)


def _take(leases: LeaseCalls, name: str, forget: bool) -> Verdict:
    rule, error = leases.rule, None
    try:
        decision = leases.take(name)
    except StoreUnavailable as unavailable:
        error = unavailable
        decision = leases.fallback(name)
        if forget and not decision.allowed:  # the caller will never know its id
            leases.forget(name, error)
    except StoreRefused as refused:
        return Verdict.of_error(refused, own_request(), rule.shadow)
    return Verdict.of_results((Result(rule, decision, leases.part),), own_request(), error)


def _sure(leases: LeaseCalls, change: Callable[[], int]) -> int:
    """Return a change's result; abort with 503 if the store fails, or return 0 in shadow mode."""
    try:
        return change()
    except (StoreUnavailable, StoreRefused):
        if leases.rule.shadow:
            return 0
        abort(503, UNSURE)

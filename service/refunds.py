"""``POST /v1/refund/<policy>``: refunds a charge for work that was not done."""

from __future__ import annotations

from flask import Blueprint, Response, abort

from limiter import InvalidCost, InvalidPolicy, LimiterError
from limiter.policyfile import Policies
from service import bodies, logs
from service.checks import check_of, guard_of
from service.one_policy import OnePolicy


def blueprint(policies: Policies | OnePolicy) -> Blueprint:
    """Make the route, for these policies."""
    routes = Blueprint("refunds", __name__)

    @routes.post("/v1/refund/<policy>")
    def refund(policy: str) -> Response:
        """Refund the cost, up to what was used."""
        guard = guard_of(policies, policy)
        body = bodies.read(["key", "cost"])
        subject, cost = bodies.subject(body, guard), bodies.cost(body)
        check = check_of(guard, subject, cost)
        if check is not None:
            try:
                check.rule.limiter.refund(check.key, cost, limits=check.limits)
            except InvalidPolicy:
                abort(422, "This policy counts leases: release one by DELETE /v1/hold.")
            except InvalidCost:
                abort(422, "The cost is more than this policy ever admits at once.")
            except LimiterError:
                abort(503, "The store did not answer, but may have done it.")
            logs.changed("a charge was refunded", check.rule.name, check.key, cost)
        return bodies.json_response({"refunded": check is not None})

    return routes

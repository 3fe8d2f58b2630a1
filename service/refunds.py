"""``POST /v1/refund/<policy>``: give back what was charged for work that was not done."""

from __future__ import annotations

from flask import Blueprint, Response, abort

from limiter import InvalidCost, InvalidPolicy, LimiterError
from limiter.policyfile import Policies
from service import bodies, logs
from service.checks import about, found
from service.one_policy import OnePolicy


def blueprint(policies: Policies | OnePolicy) -> Blueprint:
    """The route, for these policies."""
    routes = Blueprint("refunds", __name__)

    @routes.post("/v1/refund/<policy>")
    def refund(policy: str) -> Response:
        """Give back up to so much as was used."""
        guard = found(policies, policy)
        body = bodies.read(["key", "cost"])
        subject, cost = bodies.subject(body, guard), bodies.cost(body)
        (rule,) = guard.rules
        asked = rule.about(subject, cost).check(about(), guard.trusted)
        if asked is not None:
            try:
                rule.limiter.refund(asked.key, cost, limits=asked.limits)
            except InvalidPolicy:
                abort(422, "This policy counts what is held: give it back by DELETE /v1/hold.")
            except InvalidCost:
                abort(422, "The cost is more than this policy ever admits at once.")
            except LimiterError:
                abort(503, "The store did not answer; it may have happened.")
            logs.changed("a charge was refunded", rule.name, asked.key, cost)
        return bodies.json_response({"refunded": asked is not None})

    return routes

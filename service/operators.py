"""The operators' application, on the second address: metrics, policies, and the state of subjects."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.routing import BaseConverter

from limiter import LimiterError
from limiter.settings import ADMIN_TOKEN
from limiter.web.subjects import named, spelled
from service import bodies, logs, metrics
from service.callers import Callers, Token
from service.one_policy import AnyPolicies, OnePolicy


def create_operators_app(
    policies: AnyPolicies,
    counters: metrics.Metrics,
    token: str | None,
    callers: Callers,
) -> Flask:
    """Make the application; without a token it has only the metrics."""
    app = Flask(__name__, static_folder=None)
    app.url_map.converters["subject"] = _Subject
    bodies.prepare(app)

    @app.get("/metrics")
    def read_metrics() -> Response:
        """Return the metrics of this instance."""
        return Response(counters.rendered(), content_type=metrics.MEDIA_TYPE)

    if token is None:
        return app
    admin_token = Token(ADMIN_TOKEN, token, callers)

    @app.before_request
    def check_token() -> None:
        """Require the token for all routes but the metrics."""
        if request.path != "/metrics":
            admin_token.require()

    @app.get("/v1/policies")
    def read_policies() -> Response:
        """Return the policies in force, and the faults of a refused policy file."""
        in_force = _described(policies)  # first, since it reads a changed file
        refused = [fault.to_dict() for fault in policies.refused.faults] if policies.refused else []
        return bodies.json_response(
            {"file": policies.path, "policies": in_force, "refused": refused}
        )

    @app.get("/v1/keys/<subject:subject>", merge_slashes=False)
    def read_key(subject: str) -> Response:
        """Return the state of a subject in each policy; nothing is taken."""
        return bodies.json_response(
            {"subject": subject, "policies": _each(policies, subject, "peek")}
        )

    @app.post("/v1/reset/<subject:subject>", merge_slashes=False)
    def reset(subject: str) -> Response:
        """Forget a subject in each policy, and return its state before."""
        before = _each(policies, subject, "reset")
        for name in before:
            logs.changed("an operator reset a subject", name, named(subject))
        return bodies.json_response({"subject": subject, "policies": before})

    return app


class _Subject(BaseConverter):
    """The rest of a path, also if it begins with a slash or contains a newline."""

    part_isolating = False
    regex = "(?s:.+)"


def _described(policies: AnyPolicies) -> list[dict[str, Any]]:
    if isinstance(policies, OnePolicy):
        (rule,) = policies.guard.rules
        limits = [policy.to_dict() for policy in rule.limiter.policies]
        return [{"name": rule.name, "limits": limits, "key": "address"}]
    return [named.description for named in policies.current.file.policies.values()]


def _each(policies: AnyPolicies, subject: str, call: str) -> dict[str, Any]:
    """Peek at or reset a subject, in every policy or in the one that the query names."""
    key = named(subject)
    wanted = request.args.get("policy")
    decisions = {}
    for rule in policies.guard.rules:
        if wanted not in (None, rule.name):
            continue
        # The subject's own limits, also if the policy's percent excludes it.
        limits = rule.overrides.get(spelled(key))
        try:
            decisions[rule.name] = getattr(rule.limiter, call)(key, limits=limits).to_dict()
        except ValueError as error:
            abort(422, f"{error}.")
        except LimiterError as error:
            abort(503, f"The store does not answer: {error}.")
    if wanted is not None and not decisions:
        abort(404, "There is no such policy.")
    return decisions

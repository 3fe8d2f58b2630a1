"""What operators ask, on the second address: numbers for all of it, and what stands where for some."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.routing import BaseConverter

from limiter import LimiterError
from limiter.policyfile import Policies
from limiter.settings import ADMIN_TOKEN
from limiter.web.subjects import named, spelled
from service import bodies, logs, metrics
from service.callers import Callers, Token
from service.one_policy import OnePolicy


def create_operators_app(
    policies: Policies | OnePolicy,
    counters: metrics.Metrics,
    token: str | None,
    callers: Callers,
) -> Flask:
    """Make the application; without a token only the metrics are there."""
    app = Flask(__name__, static_folder=None)
    app.url_map.converters["subject"] = _Subject
    bodies.prepare(app)

    @app.get("/metrics")
    def read_metrics() -> Response:
        """All counters of this instance."""
        return Response(counters.rendered(), content_type=metrics.MEDIA_TYPE)

    if token is None:
        return app
    admin_token = Token(ADMIN_TOKEN, token, callers)

    @app.before_request
    def check_token() -> None:
        """Answer operators only, but for the metrics."""
        if request.path != "/metrics":
            admin_token.require()

    @app.get("/v1/policies")
    def read_policies() -> Response:
        """What is in force, and what of the policy file is refused."""
        in_force = _said(policies)  # which looks at the file: what is refused is known after that
        refused = [fault.to_dict() for fault in policies.refused.faults] if policies.refused else []
        return bodies.json_response(
            {"file": policies.path, "policies": in_force, "refused": refused}
        )

    @app.get("/v1/keys/<subject:subject>", merge_slashes=False)
    def read_key(subject: str) -> Response:
        """What a subject has used of each policy; nothing is taken."""
        return bodies.json_response(
            {"subject": subject, "policies": _each(policies, subject, "peek")}
        )

    @app.post("/v1/reset/<subject:subject>", merge_slashes=False)
    def reset(subject: str) -> Response:
        """Forget a subject in each policy; say what stood there."""
        before = _each(policies, subject, "reset")
        for name in before:
            logs.changed("an operator reset a subject", name, named(subject))
        return bodies.json_response({"subject": subject, "policies": before})

    return app


class _Subject(BaseConverter):
    """All the rest of a path, also where it begins with a slash or has a line's end in it."""

    part_isolating = False
    regex = "(?s:.+)"


def _said(policies: Policies | OnePolicy) -> list[dict[str, Any]]:
    if isinstance(policies, OnePolicy):
        return policies.described()
    return [named.description for named in policies.current.file.policies.values()]


def _each(policies: Policies | OnePolicy, subject: str, call: str) -> dict[str, Any]:
    """What every policy, or the one that the query names, says of a subject."""
    key = named(subject)
    wanted = request.args.get("policy")
    found = {}
    for rule in policies.guard.rules:
        if wanted not in (None, rule.name):
            continue
        # Its own numbers, whether or not the roll-out has reached it.
        limits = rule.overrides.get(spelled(key))
        try:
            found[rule.name] = getattr(rule.limiter, call)(key, limits=limits).to_dict()
        except ValueError as error:
            abort(422, f"{error}.")
        except LimiterError as error:
            abort(503, f"The store does not answer: {error}.")
    if wanted is not None and not found:
        abort(404, "There is no such policy.")
    return found

"""``/healthz`` and ``/readyz``: whether the process is alive, and whether the store decides."""

from __future__ import annotations

from flask import Blueprint, Response

from limiter import LimiterError
from limiter.policyfile import Policies
from service.one_policy import OnePolicy

# Enough subjects that every node of a cluster of the usual sizes is asked.
_PROBES = [f"readyz-{number}" for number in range(16)]


def blueprint(policies: Policies | OnePolicy) -> Blueprint:
    """The routes, for these policies."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        """Say that the process is alive, whatever the store does."""
        return Response("alive\n", mimetype="text/plain")

    @routes.get("/readyz")
    def readyz() -> Response:
        """Say whether the store decides."""
        limiter = policies.guard.rules[0].limiter
        try:
            failed = any(limiter.peek(probe).degraded for probe in _PROBES)
            reason = "it does not answer in time" if failed else ""
        except LimiterError as error:
            failed, reason = True, str(error)
        if failed:
            return Response(f"the store does not decide: {reason}\n", 503, mimetype="text/plain")
        said = "ready; the policy file is refused, and an older text of it in force\n"
        return Response(said if policies.refused else "ready\n", mimetype="text/plain")

    return routes

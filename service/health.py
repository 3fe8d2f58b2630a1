"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it can answer.

While the store is away, a fallback answers. A process that is not ready then would be taken out of service
with all others, since they share the store; so it is ready, and says what decides.
"""

from __future__ import annotations

from flask import Blueprint, Response

from limiter import LimiterError, StoreUnavailable
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
        """Say whether the process can answer, and what decides."""
        rules = policies.guard.rules
        try:
            away = any(rules[0].limiter.peek(probe).degraded for probe in _PROBES)
        except StoreUnavailable:
            away = True
        except LimiterError as error:
            text = f"the store does not decide, and no fallback does: {error}\n"
            return Response(text, 503, mimetype="text/plain")
        notes = []
        if away:
            instead = ", ".join(sorted({rule.limiter.on_error for rule in rules}))
            notes.append(f"the store does not decide; until it does, on_error decides: {instead}")
        if policies.refused:
            notes.append("the policy file is refused, and an older text of it in force")
        return Response("; ".join(["ready", *notes]) + "\n", mimetype="text/plain")

    return routes

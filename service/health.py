"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it should get requests.

While the store does not answer, the fallback decides, and the process is ready. All instances share the
store: if they were not ready then, a load balancer would remove all of them.
"""

from __future__ import annotations

from flask import Blueprint, Response

from limiter import LimiterError, StoreUnavailable
from limiter.server.drain import is_draining
from service.one_policy import AnyPolicies

# Enough subjects to reach every node of a cluster of a usual size.
_PROBES = [f"readyz-{number}" for number in range(16)]


def blueprint(policies: AnyPolicies) -> Blueprint:
    """Make the routes, for these policies."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        """Report that the process is alive, whatever the store does."""
        return Response("alive\n", mimetype="text/plain")

    @routes.get("/readyz")
    def readyz() -> Response:
        """Report whether the process can decide and is not about to stop, and what decides."""
        if is_draining():
            return Response("draining: the process stops soon\n", 503, mimetype="text/plain")
        rules = policies.guard.rules
        try:
            degraded = any(rules[0].limiter.peek(probe).degraded for probe in _PROBES)
        except StoreUnavailable:
            degraded = True
        except LimiterError as error:
            text = f"the store does not decide, and no fallback does: {error}\n"
            return Response(text, 503, mimetype="text/plain")
        notes = []
        if degraded:
            fallbacks = ", ".join(sorted({rule.limiter.on_error for rule in rules}))
            notes.append(f"the store does not decide; until it does, on_error decides: {fallbacks}")
        if policies.refused:
            notes.append("the policy file is refused, and its last valid version is in force")
        return Response("; ".join(["ready", *notes]) + "\n", mimetype="text/plain")

    return routes

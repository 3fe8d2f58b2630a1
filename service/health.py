"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it should get requests.

While the store does not answer, the fallback decides, and the process is ready. All instances share the
store: if they were not ready then, a load balancer would remove all of them.
"""

from __future__ import annotations

from flask import Blueprint, Response

from limiter import LimiterError, StoreUnavailable
from limiter.server import readiness
from limiter.server.drain import is_draining
from service.one_policy import AnyPolicies


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
        limiter = policies.guard.rules[0].limiter
        try:
            degraded = any(limiter.peek(probe).degraded for probe in readiness.PROBES)
        except StoreUnavailable:
            degraded = True
        except LimiterError as error:
            return Response(readiness.not_ready(error), 503, mimetype="text/plain")
        return Response(readiness.ready(policies, degraded), mimetype="text/plain")

    return routes

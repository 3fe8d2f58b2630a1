"""``GET /demo-service/hello``: the demo's limited route."""

from __future__ import annotations

from flask import Blueprint, Response, json, request

from limiter.web.request import from_wsgi
from service import bodies
from service.one_policy import AnyPolicies
from service.recorder import Recorder


def blueprint(policies: AnyPolicies, recorder: Recorder, instance: str) -> Blueprint:
    """Make the route, for these policies and the instance of this name."""
    routes = Blueprint("hello", __name__)
    # No counts in the body: `ab` counts responses of different lengths as failed.
    body = json.dumps({"instance": instance, "message": "Hello!"}) + "\n"

    @routes.get("/demo-service/hello")
    def hello() -> Response:
        """Say hello."""
        guard = policies.guard
        verdict = recorder.enter(guard, from_wsgi(request.environ))
        if not verdict.allowed:
            return bodies.refusal(verdict)
        answer = Response(body, mimetype="application/json")
        answer.headers.extend(verdict.fields)
        if verdict.leases:
            answer.call_on_close(lambda: guard.leave(verdict))
        return answer

    return routes

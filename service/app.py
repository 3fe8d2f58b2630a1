"""The Flask application, made by ``create_app``."""

from __future__ import annotations

import socket

from flask import Flask, Response, request

from limiter import LimiterError, StoreRefused, StoreUnavailable
from limiter.web import headers, problems
from limiter.web.identity import Unidentified, caller
from service import settings
from service.complaints import Complaints

# Enough subjects that every node of a cluster of the usual sizes is asked.
_PROBES = [f"readyz-{number}" for number in range(16)]


def create_app(instance: str | None = None) -> Flask:
    """Make the service; ``instance`` is the name it gives itself, else that of its host."""
    limiter, trusted = settings.from_env()
    name = instance or socket.gethostname()
    app = Flask(__name__)
    app.extensions["limiter"] = limiter
    complaints = Complaints(app.logger)
    # The counts stand in the headers, so that `ab` sees one length.
    body = app.json.dumps({"message": "Hello!", "instance": name}) + "\n"

    @app.get("/demo-service/hello")
    def hello() -> Response:
        """Say hello; the one limited route."""
        try:
            subject = caller(request.remote_addr, request.headers.get("X-Forwarded-For"), trusted)
        except Unidentified:
            return _refusal(400, problems.unidentified(request.path))
        try:
            decision = limiter.hit(subject)
        except StoreUnavailable:
            return _refusal(503, problems.reduced_capacity(request.path))
        except StoreRefused as error:
            complaints.add(error)
            return _refusal(503, problems.reduced_capacity(request.path))
        if decision.allowed:
            answer = Response(body, mimetype="application/json")
        elif decision.each:
            answer = _refusal(429, problems.quota_exceeded(decision, limiter.name, request.path))
        else:  # denied by the fallback, not by a limit
            answer = _refusal(503, problems.reduced_capacity(request.path))
        answer.headers.extend(headers.fields(decision, limiter.name))
        return answer

    @app.get("/healthz")
    def healthz() -> Response:
        """Say that the process is alive, whatever the store does."""
        return Response("alive\n", mimetype="text/plain")

    @app.get("/readyz")
    def readyz() -> Response:
        """Say whether the store decides."""
        try:
            failed = any(limiter.peek(probe).degraded for probe in _PROBES)
            reason = "it does not answer in time" if failed else ""
        except LimiterError as error:
            failed, reason = True, str(error)
        if failed:
            return Response(f"the store does not decide: {reason}\n", 503, mimetype="text/plain")
        return Response("ready\n", mimetype="text/plain")

    return app


def _refusal(status: int, body: str) -> Response:
    return Response(body, status, {"Cache-Control": "no-store"}, content_type=problems.MEDIA_TYPE)

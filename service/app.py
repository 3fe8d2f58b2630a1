"""The Flask application; ``create_app`` makes it by LIMITER_*."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response

from limiter.flask import FlaskLimiter
from limiter.policyfile import Policies
from limiter.wsgi import LimiterMiddleware
from service import health, page, responses, settings

HELLO = "/demo-service/hello"

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def create_app(instance: str | None = None) -> Flask:
    """Make the application; ``instance`` is its name in responses, by default that of its host."""
    policies = settings.from_env()
    limiter = policies.guard.rules[0].limiter
    name = instance or socket.gethostname()
    app = Flask(__name__, static_folder=None)
    responses.prepare(app)
    limits = FlaskLimiter(app, default=None, store=limiter)

    # No counts in the body: `ab` counts responses of different lengths as failed.
    body = json.dumps({"instance": name, "message": "Hello!"}) + "\n"

    def hello() -> Response:
        """Say hello."""
        return Response(body, mimetype="application/json")

    if isinstance(policies, Policies):
        # FlaskLimiter reads no policy file; the middleware does.
        app.wsgi_app = _on_path(  # type: ignore[method-assign]
            HELLO, LimiterMiddleware(app.wsgi_app, policies), app.wsgi_app
        )
    else:
        # A limiter has one count: the decision service spends the same units.
        hello = limits.limit(limiter)(hello)
    app.add_url_rule(HELLO, view_func=hello)
    app.register_blueprint(page.blueprint(policies, name))
    app.register_blueprint(health.blueprint(policies))
    app.extensions["policies"] = policies
    return app


def _on_path(path: str, on_path: App, elsewhere: App) -> Any:
    """Have one application answer a path, and another one all other paths."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        chosen = on_path if environ.get("PATH_INFO") == path else elsewhere
        return chosen(environ, start_response)

    return app

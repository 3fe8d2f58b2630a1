"""The decision service; ``create_app`` makes its WSGI application."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, request

from limiter import __version__
from limiter.settings import API_TOKEN
from service import bodies, checks, health, hello, holds, logs, operators, page, settings
from service.callers import Callers, Token
from service.forward_auth import PREFIX, ForwardAuth
from service.metrics import Metrics
from service.recorder import Recorder

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Dispatcher:
    """Chooses the application that answers a request: for proxies, for operators, or for all others.

    Attributes:
        operators_port: The port of the operators' address; None without one. It is read from the socket,
            so that no client can choose it.

    """

    operators_port: str | None = None

    def __init__(self, public: App, forward_auth: App, operators: App) -> None:
        self._public = public
        self._forward_auth = forward_auth
        self._operators = operators

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answer by the operators' application on their port, else by the path."""
        if self.operators_port is not None and environ["SERVER_PORT"] == self.operators_port:
            return self._operators(environ, start_response)
        if environ.get("PATH_INFO", "").startswith(PREFIX):
            return self._forward_auth(environ, start_response)
        return self._public(environ, start_response)


def create_app(instance: str | None = None) -> Flask:
    """Make the service; ``instance`` is its name in responses, by default that of its host."""
    policies, trusted, admin_token, api_token = settings.from_env()
    for rule in policies.guard.rules:
        if rule.counts_leases:
            logs.log.warning(
                "policy %s counts leases: /forward-auth refuses it, since it does not see a request end",
                rule.name,
            )
    metrics = Metrics(policies)
    recorder = Recorder(metrics)
    app = Flask(__name__, static_folder=None)
    bodies.prepare(app)
    callers = Callers(policies, trusted)
    token = None if api_token is None else Token(API_TOKEN, api_token, callers)

    @app.before_request
    def check_caller() -> None:
        """Refuse ``/v1`` to callers outside trusted networks without the token."""
        if not request.path.startswith("/v1/") or callers.are_trusted():
            return
        if token is None or not token.is_shown():
            abort(403, "Only callers in a trusted network, or with a token, are answered.")

    document = json.loads(Path(__file__).with_name("openapi.json").read_text())
    document["info"]["version"] = __version__
    described = json.dumps(document)

    @app.get("/v1/openapi.json")
    def openapi() -> Response:
        """Return the OpenAPI document, which a test compares with the code."""
        return Response(described, mimetype="application/json")

    name = instance or socket.gethostname()
    app.register_blueprint(hello.blueprint(policies, recorder, name))
    app.register_blueprint(page.blueprint(policies, recorder, name))
    app.register_blueprint(health.blueprint(policies))
    app.register_blueprint(checks.blueprint(policies, recorder))
    app.register_blueprint(holds.blueprint(policies, recorder))
    for_operators = operators.create_operators_app(policies, metrics, admin_token, callers)
    dispatcher = Dispatcher(app.wsgi_app, ForwardAuth(policies, trusted, recorder), for_operators)
    app.wsgi_app = dispatcher  # type: ignore[method-assign]
    app.extensions.update(policies=policies, dispatcher=dispatcher, operators=for_operators)
    return app

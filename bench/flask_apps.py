"""One route of a Flask application: without a limiter, with ours, and with Flask-Limiter."""

from __future__ import annotations

import importlib
import os
from typing import Any

from flask import Flask, Response
from flask.typing import ResponseReturnValue

from limiter.flask import FlaskLimiter

#: Above all requests of one run, so that nobody is denied.
OPEN = "100000/hour"

_TIMEOUT = 5.0


def bare() -> Flask:
    """No limiter."""
    app = Flask("bare")

    @app.get("/hello")
    def hello() -> ResponseReturnValue:
        return Response("Hello!\n", mimetype="text/plain")

    return app


def ours(algorithm: str = "fixed_window", limits: str = OPEN) -> Flask:
    """Ours, as the default of every route."""
    app = bare()
    FlaskLimiter(
        app, limits, algorithm=algorithm, store=os.environ["BENCH_STORE"], timeout=_TIMEOUT
    )
    return app


def ours_on_top() -> Flask:
    """Ours, a limit of the application and one of the route."""
    app = bare()
    FlaskLimiter(
        app,
        OPEN,
        application=OPEN,
        algorithm="fixed_window",
        store=os.environ["BENCH_STORE"],
        timeout=_TIMEOUT,
    )
    return app


def peer(strategy: str = "fixed-window", limits: str = OPEN) -> Flask:
    """Flask-Limiter, with header fields as ours has."""
    peers: Any = importlib.import_module("flask_limiter")
    util: Any = importlib.import_module("flask_limiter.util")
    app = bare()
    peers.Limiter(
        util.get_remote_address,
        app=app,
        default_limits=[limits],
        headers_enabled=True,
        strategy=strategy,
        key_prefix=strategy,  # it does not tell one strategy's keys from another's
        storage_uri=os.environ["BENCH_STORE"],
    )
    return app

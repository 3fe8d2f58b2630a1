"""A Flask application with one route: without a limiter, with ours, with Flask-Limiter, and others."""

from __future__ import annotations

import importlib
import os
from typing import Any

import redis
from flask import Flask, Response, request
from flask.typing import ResponseReturnValue

from limiter import Limiter
from limiter.flask import FlaskLimiter

#: More than all requests of one run, so that no request is denied.
OPEN = "100000/hour"

_TIMEOUT = 5.0


def bare() -> Flask:
    """Build the application without a limiter."""
    app = Flask("bare")

    @app.get("/hello")
    def hello() -> ResponseReturnValue:
        return Response("Hello!\n", mimetype="text/plain")

    return app


def round_trip() -> Flask:
    """Without a limiter, but with a script call that does nothing: the least that any limiter costs."""
    app = bare()
    client = redis.Redis.from_url(os.environ["BENCH_STORE"])
    script = client.script_load("return 1")

    @app.before_request
    def call_script() -> None:
        client.evalsha(script, 1, str(request.remote_addr))

    return app


def hit() -> Flask:
    """With a hit of the library before the view, and no header fields."""
    app = bare()
    limiter = Limiter(
        OPEN, algorithm="fixed_window", store=os.environ["BENCH_STORE"], timeout=_TIMEOUT
    )

    @app.before_request
    def call_limiter() -> None:
        limiter.hit(str(request.remote_addr))

    return app


def ours(algorithm: str = "fixed_window", limits: str = OPEN) -> Flask:
    """With ours, as the default of every route."""
    app = bare()
    FlaskLimiter(
        app, limits, algorithm=algorithm, store=os.environ["BENCH_STORE"], timeout=_TIMEOUT
    )
    return app


def ours_on_top() -> Flask:
    """With ours: a limit of the application and one of the route."""
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
    """With Flask-Limiter, and header fields as ours writes them."""
    peers: Any = importlib.import_module("flask_limiter")
    util: Any = importlib.import_module("flask_limiter.util")
    app = bare()
    peers.Limiter(
        util.get_remote_address,
        app=app,
        default_limits=[limits],
        headers_enabled=True,
        strategy=strategy,
        key_prefix=strategy,  # its keys do not contain the strategy
        storage_uri=os.environ["BENCH_STORE"],
    )
    return app

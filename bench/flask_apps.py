"""One route of a Flask application: without a limiter, with ours, with a peer, and what is between."""

from __future__ import annotations

import importlib
import os
from typing import Any

import redis
from flask import Flask, Response, request
from flask.typing import ResponseReturnValue

from limiter import Limiter
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


def round_trip() -> Flask:
    """No limiter; redis-py asks for a script that does nothing: what any limiter with a store pays."""
    app = bare()
    client = redis.Redis.from_url(os.environ["BENCH_STORE"])
    script = client.script_load("return 1")

    @app.before_request
    def ask() -> None:
        client.evalsha(script, 1, str(request.remote_addr))

    return app


def hit() -> Flask:
    """A hit of the library before the view, and nothing around it."""
    app = bare()
    limiter = Limiter(
        OPEN, algorithm="fixed_window", store=os.environ["BENCH_STORE"], timeout=_TIMEOUT
    )

    @app.before_request
    def ask() -> None:
        limiter.hit(str(request.remote_addr))

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

"""A Flask application with one route: without a limiter, with ours, with Flask-Limiter, and others."""

from __future__ import annotations

import importlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import redis
from flask import Flask, Response, request
from flask.typing import ResponseReturnValue

from limiter import Limiter
from limiter.flask import FlaskLimiter
from limiter.wsgi import LimiterMiddleware

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


def raw_hook() -> Flask:
    """Without a limiter, but with one script call on a raw socket: the least that one round trip costs."""
    app = bare()
    url = os.environ["BENCH_STORE"]
    script = redis.Redis.from_url(url).script_load("return 1")
    address = urlsplit(url)
    command = b"*4\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$1\r\nk\r\n" % script.encode()
    connected = threading.local()

    @app.before_request
    def call_script() -> None:
        connection = getattr(connected, "socket", None)
        if connection is None:
            connection = socket.create_connection((address.hostname or "", address.port or 0))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.socket = connection
        connection.send(command)
        if connection.recv(64) != b":1\r\n":
            raise RuntimeError("the script did not return 1")

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


def ours(
    algorithm: str = "fixed_window",
    limits: str = OPEN,
    store: str | None = None,
    prepare: Callable[[Limiter], None] | None = None,
    prepaid: int | None = None,
) -> Flask:
    """With ours, as the default of every route; ``prepare`` may change its limiter."""
    app = bare()
    store = store or os.environ["BENCH_STORE"]
    extension = FlaskLimiter(
        app, limits, algorithm=algorithm, store=store, timeout=_TIMEOUT, prepaid=prepaid
    )
    if prepare is not None:
        for app_limits in extension._enforced():
            prepare(app_limits.base)
    return app


def behind_middleware(prepare: Callable[[Limiter], None]) -> LimiterMiddleware:
    """With our WSGI middleware in front of the application, in the place of the extension."""
    limiter = Limiter(OPEN, algorithm="fixed_window", store="memory://")
    prepare(limiter)
    return LimiterMiddleware(bare(), limiter)


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

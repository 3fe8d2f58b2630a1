"""Applications as users of each framework write them, which count how often each handler ran.

``/-/ran`` answers with these counts. A handler counts its name, its name with the method, and whom the
request is for, as the framework reads it: ``orders``, ``orders POST``, ``orders session=abc``.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, Header, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from flask import Flask, jsonify, request

HOSTS = ["shop.example", "127.0.0.1"]
METHODS = ["GET", "HEAD", "POST", "OPTIONS"]

_ran: Counter[str] = Counter()
_bearer = HTTPBearer(auto_error=False)


def _count(handler: str, method: str, **who: str | None) -> None:
    names = [handler, f"{handler} {method}"]
    names += [f"{handler} {name}={value}" for name, value in who.items() if value]
    _ran.update(names)


def flask_app(limited: str | None = None) -> Any:
    """Make a Flask application; with ``limited``, FlaskLimiter counts by that key."""
    app = Flask(__name__)
    app.config["TRUSTED_HOSTS"] = HOSTS

    def handle(name: str, order_id: str | None = None) -> str:
        request.get_data()
        words = request.headers.get("Authorization", "").split()
        _count(
            name,
            request.method,
            id=order_id,
            session=request.cookies.get("session"),
            key=request.headers.get("X-Api-Key"),
            bearer=words[1] if len(words) > 1 else None,
            user=request.headers.get("X-User"),
        )
        return f"flask {name}"

    def orders() -> str:
        return handle("orders")

    def order(id: str) -> str:  # noqa: A002 (the name of the path's part)
        return handle("order", id)

    def cafe() -> str:
        return handle("café")

    if limited:
        from limiter.flask import FlaskLimiter

        limits = FlaskLimiter(app, None, key=limited)
        order = limits.limit("5/hour")(order)
        if not limited.startswith("path:"):
            orders, cafe = limits.limit("5/hour")(orders), limits.limit("5/hour")(cafe)
    app.add_url_rule("/orders", view_func=orders, methods=METHODS)
    app.add_url_rule("/orders/<id>", view_func=order, methods=METHODS)
    app.add_url_rule("/café", "cafe", cafe, methods=METHODS)
    for path in ("/free", "/up"):
        app.add_url_rule(path, path, lambda: handle("free"), methods=METHODS)
    app.add_url_rule("/-/ran", "ran", lambda: jsonify(_ran))
    return app


def middleware_flask() -> Any:
    """Make a Flask application in the WSGI middleware, with the policy file."""
    from limiter.policyfile import Policies
    from limiter.wsgi import LimiterMiddleware

    return LimiterMiddleware(flask_app(), Policies.from_env())


def limited_flask() -> Any:
    """Flask, limited by FlaskLimiter."""
    return flask_app(os.environ["ATTACKED_KEY"])


def fastapi_app() -> Any:
    """FastAPI."""
    app = FastAPI()
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)

    def add(path: str, name: str) -> None:
        async def handle(
            request: Request,
            session: Annotated[str | None, Cookie()] = None,
            x_api_key: Annotated[str | None, Header()] = None,
            x_user: Annotated[str | None, Header()] = None,
            token: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
        ) -> str:
            await request.body()
            _count(
                name,
                request.method,
                id=request.path_params.get("id"),
                session=session,
                key=x_api_key,
                bearer=token.credentials if token else None,
                user=x_user,
            )
            return f"fastapi {name}"

        app.add_api_route(path, handle, methods=METHODS)

    add("/orders", "orders")
    add("/orders/{id}", "order")
    add("/café", "café")
    add("/free", "free")
    add("/up", "free")
    app.add_api_route("/-/ran", lambda: _ran)
    return app


def middleware_fastapi() -> Any:
    """Make a FastAPI application in the ASGI middleware, with the policy file."""
    from limiter.asgi import LimiterMiddleware
    from limiter.policyfile import AsyncPolicies

    return LimiterMiddleware(fastapi_app(), AsyncPolicies.from_env())


def aiohttp_app(_: list[str]) -> Any:
    """The application of aiohttp."""
    from aiohttp import web

    def handler(name: str) -> Any:
        async def handle(request: web.Request) -> web.Response:
            await request.read()
            words = request.headers.get("Authorization", "").split(" ")
            _count(
                name,
                request.method,
                id=request.match_info.get("id"),
                session=request.cookies.get("session"),
                key=request.headers.get("X-Api-Key"),
                bearer=words[1] if len(words) > 1 else None,
                user=request.headers.get("X-User"),
            )
            return web.Response(text=f"aiohttp {name}")

        return handle

    async def ran(request: web.Request) -> web.Response:
        return web.json_response(_ran)

    app = web.Application()
    app.router.add_route("*", "/orders", handler("orders"))
    app.router.add_route("*", "/orders/{id}", handler("order"))
    app.router.add_route("*", "/café", handler("café"))
    app.router.add_route("*", "/free", handler("free"))
    app.router.add_route("*", "/up", handler("free"))
    app.router.add_get("/-/ran", ran)
    return app

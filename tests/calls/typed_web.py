"""Limits of web applications as a typed program declares them: checked by mypy, strictly, and run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Depends
from flask import Blueprint, Flask, g

from limiter.asgi import LimiterMiddleware as AsgiMiddleware
from limiter.fastapi import Limit, limit
from limiter.flask import FlaskLimiter
from limiter.web.identity import Network
from limiter.web.request import Request
from limiter.web.subjects import by_address
from limiter.wsgi import LimiterMiddleware

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: Any, kind: Any) -> Any:
        """Nothing, when it runs."""
        return value


def nothing() -> str | None:
    """A key of nothing."""
    return getattr(g, "user", None)


def tenant(request: Request) -> str | None:
    """A key of the request: the preferred form."""
    return request.headers.get("x-tenant")


def tenant_or_address(request: Request, trusted: Sequence[Network]) -> str | tuple[str, int]:
    """A key of the request and the trusted networks."""
    return tenant(request) or by_address(request, trusted)


def cost(request: Request) -> int | None:
    """A cost of the request."""
    return request.size


def plan() -> str:
    """Limits of the request at hand."""
    return "5/minute"


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """A WSGI application."""
    return [b"hello"]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application."""


def item(number: int) -> str:
    """A view."""
    return str(number)


def main() -> None:
    """Every form of a key and a cost, in every framework."""
    app = Flask("app")
    limits = FlaskLimiter(app, store="memory://", key=tenant)
    for decorator in (
        limits.limit("5/minute"),
        limits.limit(plan, key=nothing, cost=lambda: 2),
        limits.limit("5/minute", key=tenant, cost=lambda request: request.size or 1),
        limits.limit(
            "5/minute",
            key=tenant_or_address,
            cost=lambda asked, networks: len(networks) + len(asked.path),
        ),
        limits.shared_limit("5/minute", "shared", key=lambda request: request.path, cost=2),
    ):
        view: Callable[[int], str] = decorator(item)
        app.add_url_rule("/<int:number>", str(id(view)), view)
        assert_type(decorator(Blueprint("pages", __name__)), Blueprint)
    view = limits.exempt(item)
    for limited in (
        limit("5/minute", store="memory://", key=Depends(nothing), cost=Depends(plan)),
        limit("5/minute", store="memory://", key=tenant, cost=cost),
        limit("5/minute", store="memory://", key=lambda request: request.state.user, cost=2),
        limit("5/minute", store="memory://", key=tenant_or_address, cost=lambda: 2),
    ):
        assert_type(limited, Limit)
    LimiterMiddleware(wsgi, "5/minute", store="memory://", key=tenant, cost=cost)
    LimiterMiddleware(wsgi, "5/minute", store="memory://", key=tenant_or_address, cost=lambda: 2)
    AsgiMiddleware(asgi, "5/minute", store="memory://", key=tenant, cost=cost)
    AsgiMiddleware(asgi, "5/minute", store="memory://", key=lambda request: request.scope["user"])


def three(request: Request, trusted: Sequence[Network], more: int) -> str:
    """No key."""
    return ""


def mistakes(limits: FlaskLimiter) -> None:
    """What mypy has to find: an ignore that ignores nothing is an error, too."""
    limits.limit(item)  # type: ignore[arg-type]
    limits.limit("5/minute", key=three)  # type: ignore[arg-type]
    limits.limit("5/minute")(item)("1")  # type: ignore[arg-type]
    limit("5/minute", key=three)  # type: ignore[arg-type]
    limit("5/minute", cost=nothing)  # type: ignore[arg-type]
    LimiterMiddleware(wsgi, "5/minute", key=three)  # type: ignore[arg-type]
    AsgiMiddleware(asgi, "5/minute", cost="2")  # type: ignore[arg-type]

"""Django, Starlette and FastAPI under ASGI, as users would write them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from limiter import AsyncLimiter, Concurrency
from limiter.asgi import LimiterMiddleware
from limiter.fastapi import limit
from limiter.policyfile import costs
from limiter.web import Match, Rule, pattern

#: A rate for all requests, and a limit of simultaneous streams and websockets.
_all = AsyncLimiter.from_env(name="all")
_streams = AsyncLimiter(
    [Concurrency(2, lease=30)],
    store=_all,
    prefix=os.environ.get("LIMITER_PREFIX", "rl"),
    name="streams",
)
_rules = [Rule(_all), Rule(_streams, match=Match(paths=(pattern("/stream"), pattern("/chat"))))]


async def pieces() -> AsyncIterator[str]:
    """Yield the process id every 50 ms, for ten seconds."""
    for _ in range(200):
        yield f"{os.getpid()}\n"
        await asyncio.sleep(0.05)  # so that the response is a stream


# --- Django ---


async def django_hello(request: HttpRequest) -> HttpResponse:
    """Say hello."""
    return HttpResponse("hello")


async def django_stream(request: HttpRequest) -> StreamingHttpResponse:
    """Stream a piece from time to time."""
    return StreamingHttpResponse(pieces())


if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="only for tests",  # noqa: S106
        LOGGING_CONFIG=None,
    )
    django.setup()
urlpatterns = [path("hello", django_hello), path("stream", django_stream)]
django_app = LimiterMiddleware(get_asgi_application(), _rules)


# --- Starlette ---


async def hello(request: Request) -> PlainTextResponse:
    """Say hello."""
    return PlainTextResponse("hello")


async def stream(request: Request) -> StreamingResponse:
    """Stream a piece from time to time."""
    return StreamingResponse(pieces())


async def chat(socket: WebSocket) -> None:
    """Send each message back."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


starlette_app = LimiterMiddleware(
    Starlette(
        routes=[Route("/hello", hello), Route("/stream", stream), WebSocketRoute("/chat", chat)]
    ),
    _rules,
)


# --- FastAPI ---

_limits = [limit(_all), limit(_streams)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect, and release leases at the end."""
    await _all.open()
    yield
    for one in _limits:
        await one.close()


fastapi_app = FastAPI(lifespan=lifespan)
_router = APIRouter(dependencies=[Depends(_limits[0])])


@_router.get("/hello")
async def fastapi_hello() -> str:
    """Say hello."""
    return "hello"


@_router.get("/stream", dependencies=[Depends(_limits[1])])
async def fastapi_stream() -> StreamingResponse:
    """Stream a piece from time to time."""
    return StreamingResponse(pieces())


@_router.websocket("/chat", dependencies=[Depends(_limits[1])])
async def fastapi_chat(socket: WebSocket) -> None:
    """Send each message back."""
    await chat(socket)


fastapi_app.include_router(_router)


# --- one limit by the path ---

orders_app = FastAPI()


@orders_app.get("/orders")
@orders_app.get("/orders/{order}")
async def orders(order: str = "") -> str:
    """Return the order's id."""
    return order


_orders = AsyncLimiter(
    "1/minute", store=_all, prefix=os.environ.get("LIMITER_PREFIX", "rl"), name="orders"
)
orders_app.add_middleware(
    LimiterMiddleware,
    limits=[Rule(_orders, match=Match(paths=(pattern("/orders"), pattern("/orders/{order}"))))],
)

#: Costs by a header, as a policy file has them.
priced_app = LimiterMiddleware(
    Starlette(routes=[Route("/hello", hello)]),
    [Rule(AsyncLimiter.from_env(name="priced"), cost=costs.ByHeader("X-Cost"))],
)

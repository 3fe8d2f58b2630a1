"""Applications whose responses show their true cost, as users would write them; LIMITER_* has the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from flask import Flask, Response, abort

from limiter.asgi import LimiterMiddleware as AsgiMiddleware
from limiter.fastapi import limit
from limiter.policyfile import AsyncPolicies, Policies
from limiter.wsgi import LimiterMiddleware as WsgiMiddleware

# --- Flask, with a policy file ---

_flask = Flask(__name__)
_go = threading.Event()


@_flask.get("/tokens/<int:used>")
def tokens(used: int) -> Response:
    """Answer with a true cost."""
    return Response("text", headers={"X-Tokens-Used": str(used)})


@_flask.get("/waiting")
def waiting() -> Response:
    """Answer when ``/go`` was called."""
    _go.wait(30)
    return tokens(10)


@_flask.get("/stream")
def stream() -> Response:
    """Begin a stream that ends when its client has disconnected."""

    def pieces() -> Iterator[str]:
        while not _go.wait(0.01):
            yield "piece\n"

    return Response(pieces(), headers={"X-Tokens-Used": "20"})


@_flask.get("/go")
def go() -> str:
    """Let the others answer."""
    _go.set()
    return ""


@_flask.get("/missing")
def missing() -> None:
    """Answer with a 404."""
    abort(404)


@_flask.get("/broken")
def broken() -> None:
    """Fail."""
    raise ZeroDivisionError


flask_app = WsgiMiddleware(_flask, Policies.from_env())

# --- FastAPI, with a dependency ---

_by_response = limit(
    "90/hour",
    name="tokens",
    key="global",
    cost=30,
    true_cost="header:X-Tokens-Used",
    refund_unless=["2xx"],
)
fastapi_app = FastAPI()
fastapi_app.add_middleware(AsgiMiddleware, limits=AsyncPolicies.from_env())
_limited = [Depends(_by_response)]
_go_async = asyncio.Event()


@fastapi_app.get("/tokens/{used}", dependencies=_limited)
async def tokens_async(used: int) -> JSONResponse:
    """As ``tokens``."""
    return JSONResponse("text", headers={"X-Tokens-Used": str(used)})


@fastapi_app.get("/waiting", dependencies=_limited)
async def waiting_async() -> JSONResponse:
    """As ``waiting``."""
    await asyncio.wait_for(_go_async.wait(), 30)
    return await tokens_async(10)


@fastapi_app.get("/stream", dependencies=_limited)
async def stream_async() -> StreamingResponse:
    """As ``stream``."""

    async def pieces() -> AsyncIterator[str]:
        while not _go_async.is_set():
            yield "piece\n"
            await asyncio.sleep(0.01)  # the pace of the stream

    return StreamingResponse(pieces(), headers={"X-Tokens-Used": "20"})


@fastapi_app.get("/go")
async def go_async() -> str:
    """As ``go``."""
    _go_async.set()
    return ""


@fastapi_app.get("/missing", dependencies=_limited)
async def missing_async() -> None:
    """As ``missing``."""
    raise HTTPException(404)


@fastapi_app.get("/broken", dependencies=_limited)
async def broken_async() -> None:
    """As ``broken``."""
    raise ZeroDivisionError

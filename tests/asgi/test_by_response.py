"""When an ASGI response shows the true cost of its request, also of websockets and in FastAPI."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse

from limiter import AsyncLimiter, InvalidSetting
from limiter.asgi import LimiterMiddleware
from limiter.fastapi import limit
from limiter.testing import StoreCall, intercept
from tests.asgi.support import Connection, ask, eventually_free, free

MEMORY = "memory://"
BY_RESPONSE: Any = {"true_cost": "header:X-Used", "refund_unless": ["2xx"]}


def ten() -> AsyncLimiter:
    """Ten units."""
    return AsyncLimiter("10/hour", store=MEMORY)


def start(cost: int, status: int = 200) -> dict[str, Any]:
    """The start of a response, with its true cost."""
    headers = [(b"x-used", str(cost).encode())]
    return {"type": "http.response.start", "status": status, "headers": iter(headers)}


def charged(app: Any, limiter: AsyncLimiter, **more: Any) -> LimiterMiddleware:
    """The application, with an estimate of 5 that its response corrects."""
    return LimiterMiddleware(app, limiter, cost=5, **{**BY_RESPONSE, **more})


async def test_a_stream_is_settled_at_its_start() -> None:
    limiter = ten()
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await free(limiter))
        await send(start(2))
        await eventually_free(limiter, 8)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise ValueError("broken")

    connection = Connection(charged(app, limiter))
    with pytest.raises(ValueError, match="broken"):
        await connection.start()
    assert connection.headers["x-used"] == "2"
    assert seen == [5]
    await eventually_free(limiter, 8)


@pytest.mark.parametrize(
    ("how", "left"),
    [("error", 10), ("disconnect", 5), ("cancel", 5), ("no response", 5), ("late response", 7)],
)
async def test_a_request_that_ends_before_its_response(how: str, left: int) -> None:
    """An error is a 500. A client that disconnects does not get its request for nothing."""
    limiter = ten()
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if how in ("disconnect", "late response"):
            assert (await receive())["type"] == "http.disconnect"
        if how == "late response":
            await send(start(3))
        elif how != "no response":
            await go.wait()
            raise ValueError("of its own")

    connection = Connection(charged(app, limiter))
    connection.tell("http.disconnect")
    task = connection.start()
    await asyncio.sleep(0)  # so that the request is charged
    await eventually_free(limiter, 5 if how != "late response" else 7)
    if how == "cancel":
        task.cancel()
    go.set()
    await asyncio.gather(task, return_exceptions=True)
    await eventually_free(limiter, left)


async def test_the_response_does_not_wait_for_the_settlement() -> None:
    """The end of the lifespan does."""
    limiter = ten()
    go = asyncio.Event()
    modes: list[str] = []

    async def waiting(call: StoreCall, ahead: Any) -> Any:
        modes.append(call.mode)
        if call.mode == "refund":
            await go.wait()
        return await ahead()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(2))
        await send({"type": "http.response.body", "body": b"a"})

    middleware = charged(app, limiter)
    intercept(limiter, waiting)
    assert (await ask(middleware)).status == 200
    await asyncio.sleep(0)  # so that the settlement begins
    assert modes == ["hit", "refund"]
    closing = asyncio.create_task(middleware.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    assert await free(limiter) == 8


async def test_two_middlewares_settle_each_its_own() -> None:
    outer, inner = ten(), ten()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(1))
        await send({"type": "http.response.body", "body": b"a"})

    both = charged(charged(app, inner), outer)
    await ask(both)
    await eventually_free(outer, 9)
    await eventually_free(inner, 9)
    for _ in range(2):
        await ask(charged(app, inner))
        await inner.hit("203.0.113.7", 4)
    # The inner limit denies: its 429 is a response that the outer one refunds.
    assert (await ask(both)).status == 429
    await eventually_free(outer, 9)


# --- websockets ---


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ({"type": "websocket.accept"}, 5),
        ({"type": "websocket.accept", "headers": [(b"x-used", b"1")]}, 9),
        ({"type": "websocket.close", "code": 1008}, 10),
        ({"type": "websocket.http.response.start", "status": 404, "headers": []}, 10),
        ({"type": "websocket.http.response.start", "status": 201, "headers": []}, 5),
        (ValueError("of its own"), 10),
        ("disconnect", 5),
    ],
)
async def test_a_websocket_is_settled_by_its_handshake(message: Any, left: int) -> None:
    """An accepted one counts as a response of 200; what comes after it does not matter."""
    limiter = ten()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if isinstance(message, dict):
            await send(message)
        elif message == "disconnect":
            assert (await receive())["type"] == "websocket.disconnect"
        raise ValueError("later")

    connection = Connection(charged(app, limiter), kind="websocket")
    connection.tell("websocket.connect")
    connection.tell("websocket.disconnect", code=1006)
    with pytest.raises(ValueError, match="later"):
        await connection.start()
    await eventually_free(limiter, left)


async def test_messages_have_no_response() -> None:
    """Each stays charged as it was, by limits that the requests' settings do not reach."""
    limiter = ten()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.receive"

    middleware = LimiterMiddleware(app, "9/hour", store=MEMORY, messages=limiter, **BY_RESPONSE)
    connection = Connection(middleware, kind="websocket")
    connection.tell("websocket.connect")
    connection.tell("websocket.receive", text="a")
    await connection.start()
    assert await free(limiter) == 9
    LimiterMiddleware(app, "9/hour", store=MEMORY, messages="9/hour", **BY_RESPONSE)


# --- FastAPI ---


def routes(dependency: Any) -> FastAPI:
    """An application whose routes show a true cost in each way that FastAPI has."""
    app = FastAPI(dependencies=[Depends(dependency)])

    @app.get("/response")
    async def own_response() -> JSONResponse:
        return JSONResponse("text", headers={"X-Used": "2"})

    @app.get("/missing")
    async def missing() -> str:
        raise HTTPException(404)

    @app.get("/plain")
    async def plain() -> str:
        return "plain"

    @app.get("/broken")
    async def broken() -> str:
        raise ZeroDivisionError

    @app.websocket("/chat")
    async def chat(socket: WebSocket) -> None:
        await socket.close()

    return app


async def test_a_dependency_of_fastapi_is_settled_by_the_middleware() -> None:
    limiter = ten()
    app = routes(limit(limiter, cost=5, **BY_RESPONSE))
    app.add_middleware(LimiterMiddleware, limits=())

    for path, status, left in (("/response", 200, 8), ("/missing", 404, 8), ("/plain", 200, 3)):
        assert (await ask(app, path)).status == status
        await eventually_free(limiter, left)
    await limiter.reset("203.0.113.7")
    with pytest.raises(ZeroDivisionError):
        await ask(app, "/broken")
    await eventually_free(limiter, 10)
    socket = Connection(app, kind="websocket", path="/chat")
    socket.tell("websocket.connect")
    await socket.start()
    await eventually_free(limiter, 10)


async def test_a_dependency_without_a_middleware_is_an_error() -> None:
    """It sees no response, so every request would stay charged as it was."""
    limiter = ten()
    app = routes(limit(limiter, cost=5, **BY_RESPONSE))

    with pytest.raises(
        InvalidSetting, match=r"app.add_middleware\(LimiterMiddleware, limits=\(\)\)"
    ):
        await ask(app, "/plain")
    assert await free(limiter) == 10

"""``enabled=False`` of both middlewares, and of FastAPI's limits."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException

from limiter import InvalidSetting, asgi, wsgi
from limiter.fastapi import limit
from tests.asgi.support import ask as ask_asgi
from tests.asgi.support import in_a_loop
from tests.wsgi.support import ask as ask_wsgi


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


async def async_hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def test_every_request_passes_without_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMITER_STORE", raising=False)
    app = wsgi.LimiterMiddleware(hello, "1/minute", enabled=False)
    app.open()
    answers = [ask_wsgi(app) for _ in range(2)]
    app.close()

    assert [answer.code for answer in answers] == [200, 200]
    assert not answers[0].all("RateLimit")


@in_a_loop
async def test_every_request_passes_asynchronously_too() -> None:
    app = asgi.LimiterMiddleware(async_hello, "1/minute", messages="1/minute", enabled=False)
    await app.open()
    answers = [await ask_asgi(app) for _ in range(2)]
    await app.close()

    assert [answer.status for answer in answers] == [200, 200]
    assert "ratelimit" not in answers[0].headers


def refuse_everybody() -> None:
    raise HTTPException(401)


@in_a_loop
async def test_no_dependency_of_a_limit_that_is_off_is_asked() -> None:
    app = FastAPI()
    off = [Depends(limit("1/minute", key=Depends(refuse_everybody), enabled=False)) for _ in "12"]
    app.get("/", dependencies=off)(lambda: "hello")

    assert [(await ask_asgi(app)).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("enabled", ["false", 0, None])
def test_what_is_no_bool_is_named(enabled: Any) -> None:
    """Text of a variable would be true, whatever it says."""
    for middleware in (wsgi.LimiterMiddleware, asgi.LimiterMiddleware):
        with pytest.raises(InvalidSetting, match="accepted are True and False"):
            middleware(hello, "1/minute", store="memory://", enabled=enabled)
    with pytest.raises(InvalidSetting, match="accepted are True and False"):
        limit("1/minute", store="memory://", enabled=enabled)

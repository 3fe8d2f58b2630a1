"""The least that an ASGI application does: it answers each request with 204 and two header fields."""

from __future__ import annotations

from typing import Any

_START = {
    "type": "http.response.start",
    "status": 204,
    "headers": [(b"ratelimit-policy", b'"open";q=1000;w=60'), (b"ratelimit", b'"open";r=999;t=60')],
}
_BODY = {"type": "http.response.body", "body": b""}


async def app(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Answer."""
    await send(_START)
    await send(_BODY)

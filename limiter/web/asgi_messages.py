"""Messages of ASGI: header fields in responses, refusals, and the ends of responses and websockets."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from limiter.web import problems, wiring
from limiter.web.verdict import Verdict

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Close codes of a websocket: RFC 6455, section 7.4.1, and its registry at IANA.
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013
#: The fields of every refusal, as those of ``wiring.refusal``.
_OF_REFUSALS = (
    (b"content-type", problems.MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
)
#: The most bytes of a close code's reason (RFC 6455, section 5.5).
_MOST_REASON = 123


def is_last(message: Message, trailers: bool = False) -> bool:
    """Whether this message ends the response."""
    kind = message["type"].removeprefix("websocket.")
    if kind in ("http.response.body", "http.response.zerocopysend"):
        return not trailers and not message.get("more_body")
    if kind == "http.response.pathsend":
        return not trailers
    return kind == "http.response.trailers" and not message.get("more_trailers")


def with_fields(message: Message, verdicts: Sequence[Verdict]) -> Message:
    """Return the start of a response with the verdicts' header fields after its own."""
    own = list(message.get("headers") or ())
    names = {bytes(name).decode("latin-1").lower() for name, _ in own}
    added = wiring.added_fields(names, wiring.fields_of(verdicts))
    return {**message, "headers": own + encoded(added)}


def encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return header fields as messages have them: bytes, with names in lower case."""
    return [(_name(name), value.encode("latin-1")) for name, value in fields]


@lru_cache(maxsize=64)  # names come from this package
def _name(name: str) -> bytes:
    return name.lower().encode("latin-1")


async def refuse(verdict: Verdict, send: Send, protocol: str, is_head: bool = False) -> None:
    """Send a refusal as a response."""
    body = verdict.body.encode()
    fields = [*_OF_REFUSALS, (b"content-length", b"%d" % len(body)), *encoded(verdict.fields)]
    kind = f"{protocol}.response.start"
    await send({"type": kind, "status": verdict.status, "headers": fields})
    await send({"type": f"{protocol}.response.body", "body": b"" if is_head else body})


async def refuse_handshake(verdict: Verdict, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a websocket by a response if the server can send one, else by closing it (a 403)."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await refuse(verdict, send, "websocket.http")
    else:
        code, reason = closing(verdict)
        await send({"type": "websocket.close", "code": code, "reason": reason})


def closing(verdict: Verdict) -> tuple[int, str]:
    """Return the close code and the reason for a websocket that is refused."""
    if verdict.status != 429:
        code = TRY_AGAIN_LATER if verdict.status == 503 else POLICY_VIOLATION
        reason = json.loads(verdict.body)["detail"].encode()[:_MOST_REASON]
        return code, reason.decode(errors="ignore")
    seconds = dict(verdict.fields).get("Retry-After", "1")
    return POLICY_VIOLATION, f"Rate limit exceeded: try again in {seconds} s."

"""A websocket between server and application: adds header fields, and limits incoming messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from limiter.web.asgi_messages import Message, Receive, Send, closing, is_last, with_fields
from limiter.web.by_response import FAILED
from limiter.web.guard import AsyncGuard
from limiter.web.open_requests import OpenRequests
from limiter.web.request import Request
from limiter.web.verdict import Verdict


class WebSocket:
    """A websocket between the server and the application."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        open_requests: OpenRequests,
        verdict: Verdict,
        request: Request,
        messages: AsyncGuard | None,
        sleep: bool,
    ) -> None:
        self.verdicts = [verdict]
        self._receive = receive
        self._send = send
        self._open = open_requests
        self._verdict = verdict
        self._request = request
        self._messages = messages
        self._sleep = sleep
        #: The message that is being checked. If the application cancels its ``receive``, as after a
        #: timeout, it gets this message the next time.
        self._coming: asyncio.Task[Message] | None = None
        self._gone: Message | None = None
        #: Whether the handshake is over: answered, or ended by the client.
        self._is_over = False

    async def receive(self) -> Message:
        """Return the next message that passes, or the end of the connection."""
        if self._gone is not None:
            return self._gone
        if self._coming is None:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._is_over = True
                self._open.begin_release(self._verdict)
            if message["type"] != "websocket.receive" or self._messages is None:
                return message
            coming = self._admitted(message, self._messages)
            self._coming = asyncio.get_running_loop().create_task(coming)
        message = await asyncio.shield(self._coming)
        self._coming = None
        return message

    async def send(self, message: Message) -> None:
        """Pass on the application's message with the limits' fields; nothing after a limit closed."""
        if self._gone is not None:
            return
        if message["type"] in ("websocket.accept", "websocket.http.response.start"):
            message = with_fields(message, self.verdicts)
            # An accepted websocket counts as a response of 200, as it is one in HTTP/2.
            self._settle(message.get("status", 200), message["headers"])
        elif (
            message["type"] == "websocket.close"
        ):  # before it is accepted: servers answer with a 403
            self._settle(403)
        await self._send(message)
        if message["type"] == "websocket.close" or is_last(message):
            await self._open.release(self._verdict)

    def fail(self) -> None:
        """Settle, since the application failed: the server answers with a 500, unless it has answered."""
        self._settle(*FAILED)

    def _settle(self, status: int, fields: Iterable[tuple[Any, Any]] = ()) -> None:
        """Begin to settle what the handshake costs, once; not if the client has disconnected before."""
        if not self._is_over:
            self._is_over = True
            self._open.begin_settling(self.verdicts, status, fields)

    def abandon(self) -> None:
        """Stop the pending check: the application has returned, and receives no more messages."""
        if self._coming is not None:
            self._coming.cancel()

    async def _admitted(self, message: Message, guard: AsyncGuard) -> Message:
        """Return the message, perhaps delayed; or close the connection, and return its end."""
        verdict = await guard.enter(self._request)
        await guard.leave(verdict)
        if verdict.allowed:
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            return message
        code, reason = closing(verdict)
        self._gone = {"type": "websocket.disconnect", "code": code, "reason": reason}
        with suppress(OSError, RuntimeError):  # the client may have closed the connection
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        self._open.begin_release(self._verdict)
        return self._gone

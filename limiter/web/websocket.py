"""A websocket between server and application: adds header fields, and limits incoming messages."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from limiter.web.asgi_messages import Message, Receive, Send, closing, is_last, with_fields
from limiter.web.guard import AsyncGuard
from limiter.web.request import Request
from limiter.web.request_leases import RequestLeases
from limiter.web.verdict import Verdict


class WebSocket:
    """A websocket between the server and the application."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        held: RequestLeases,
        verdict: Verdict,
        request: Request,
        messages: AsyncGuard | None,
        sleep: bool,
    ) -> None:
        self.verdicts = [verdict]
        self._receive = receive
        self._send = send
        self._held = held
        self._verdict = verdict
        self._request = request
        self._messages = messages
        self._sleep = sleep
        #: The message that is being checked. If the application cancels its ``receive``, as after a
        #: timeout, it gets this message the next time.
        self._coming: asyncio.Task[Message] | None = None
        self._gone: Message | None = None

    async def receive(self) -> Message:
        """Return the next message that passes, or the end of the connection."""
        if self._gone is not None:
            return self._gone
        if self._coming is None:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._held.begin_release(self._verdict)
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
        await self._send(message)
        if message["type"] == "websocket.close" or is_last(message):
            await self._held.release(self._verdict)

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
        self._held.begin_release(self._verdict)
        return self._gone

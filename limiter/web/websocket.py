"""A websocket between the server and the application, whose messages may have limits of their own."""

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
        leases: RequestLeases,
        verdicts: list[Verdict],
        request: Request,
        messages: AsyncGuard | None,
        sleep: bool,
    ) -> None:
        self.verdicts = verdicts
        self._receive = receive
        self._send = send
        self._leases = leases
        self._request = request
        self._messages = messages
        self._sleep = sleep
        #: The message that is being decided about: an application that waits for one only so long is
        #: cancelled in between, and gets it the next time.
        self._coming: asyncio.Task[Message] | None = None
        self._gone: Message | None = None

    async def receive(self) -> Message:
        """The next message that passes, or the end of the connection."""
        if self._gone is not None:
            return self._gone
        if self._coming is None:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._leases.begin_release()
            if message["type"] != "websocket.receive" or self._messages is None:
                return message
            coming = self._admitted(message, self._messages)
            self._coming = asyncio.get_running_loop().create_task(coming)
        message = await asyncio.shield(self._coming)
        self._coming = None
        return message

    async def send(self, message: Message) -> None:
        """Hand on what the application says, with our fields; nothing after we closed."""
        if self._gone is not None:
            return
        if message["type"] in ("websocket.accept", "websocket.http.response.start"):
            message = with_fields(message, self.verdicts)
        await self._send(message)
        if message["type"] == "websocket.close" or is_last(message):
            await self._leases.release()

    def abandon(self) -> None:
        """The application is done: nobody waits for a message any more."""
        if self._coming is not None:
            self._coming.cancel()

    async def _admitted(self, message: Message, guard: AsyncGuard) -> Message:
        """The message, perhaps later; or the end of the connection, which the client is told."""
        verdict = await guard.enter(self._request)
        await guard.leave(verdict)
        if verdict.allowed:
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            return message
        code, reason = closing(verdict)
        self._gone = {"type": "websocket.disconnect", "code": code, "reason": reason}
        with suppress(OSError, RuntimeError):  # it may have gone by itself
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        self._leases.begin_release()
        return self._gone

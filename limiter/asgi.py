"""Limits for any ASGI application: ``LimiterMiddleware(app, "100/minute", store=...)``."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from limiter.aio import AsyncLimiter
from limiter.errors import InvalidSetting, LimiterError
from limiter.settings import of_uvicorn
from limiter.web import wiring
from limiter.web.asgi_messages import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    is_last,
    refuse,
    refuse_handshake,
    with_fields,
)
from limiter.web.by_response import FAILED
from limiter.web.guard import AsyncGuard
from limiter.web.open_requests import OpenRequests
from limiter.web.request import from_asgi
from limiter.web.uvicorn_peers import hides_proxies
from limiter.web.websocket import WebSocket
from limiter.web.wiring import GuardSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LimiterMiddleware"]

log = logging.getLogger("limiter.web")

#: The last messages of an application's lifespan.
_LAST_OF_LIFESPAN = (
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
)
#: Arguments that plain limits of messages do not share: a message has no response.
_OF_REQUESTS = ("cost", "form", "enabled", "refund_unless", "true_cost")


class LimiterMiddleware:
    """ASGI middleware that checks every request and websocket, and answers those that a limit denies.

    Args:
        app: The application.
        limits: As for ``limiter.wsgi.LimiterMiddleware``, with ``AsyncLimiter`` and ``AsyncGuard``.
        messages: Limits for each message that a websocket's client sends, in the same forms as ``limits``;
            the first denied message closes the connection.
        sleep: Whether to wait for a leaky bucket's delay before the application gets the request or
            message.
        settings: ``key``, ``cost`` and the others, as there, and those of the ``AsyncLimiter``.

    A websocket is checked at its handshake. Leases (``Concurrency``) are held until the body is sent, the
    websocket is closed, the client disconnects, or the application returns, whichever is first. A true
    cost is settled in the background, when the response starts or the handshake is answered. The
    lifespan connects at the start, and closes the connections at the end. The verdicts stand in
    ``scope["limiter.verdicts"]``.

    Raises:
        InvalidSetting, InvalidPolicy: An argument is invalid; the message says what is accepted.

    """

    def __init__(
        self,
        app: App,
        limits: Any = None,
        *,
        messages: Any = None,
        sleep: bool = False,
        **settings: Unpack[GuardSettings],
    ) -> None:
        self.app = app
        self._sleep = sleep
        self._guard = wiring.source(AsyncGuard, AsyncLimiter, limits, **settings)
        self._messages: Callable[[], AsyncGuard] | None = None
        if messages is not None and settings.get("enabled", True):
            self._messages = _guard_of_messages(messages, self._guard(), settings)
        self._open = OpenRequests()

    async def open(self) -> None:
        """Connect in advance, for the running event loop; optional.

        Raises:
            StoreUnavailable, StoreRefused: The connection failed; each request tries again.

        """
        for limiter in self._limiters():
            await limiter.open()

    async def close(self) -> None:
        """Release the leases that are still held, and close the event loop's connections."""
        await self._open.end_all()
        for limiter in self._limiters():
            await limiter.close()

    def _limiters(self) -> list[AsyncLimiter]:
        guards = [self._guard()] + ([self._messages()] if self._messages else [])
        return [limiter for guard in guards for limiter in wiring.limiters(guard)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, or have the application serve it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard = self._guard()
        verdict = await guard.enter(from_asgi(scope))
        if not verdict.allowed:
            await refuse(verdict, send, "http", scope["method"] == "HEAD")
            return
        verdicts = [verdict]
        self._open.hold(guard, verdict)
        trailers = False
        #: Whether the application has answered, or the client has disconnected.
        over = False

        async def receiving() -> Message:
            nonlocal over
            message = await receive()
            if message["type"] == "http.disconnect":
                over = True
                self._open.begin_release(verdict)
            return message

        async def sending(message: Message) -> None:
            nonlocal over, trailers
            if message["type"] == "http.response.start":
                over = True
                trailers = bool(message.get("trailers"))
                message = with_fields(message, verdicts)
                if verdict.settles or len(verdicts) > 1:  # dependencies of FastAPI add theirs
                    self._open.begin_settling(verdicts, message["status"], message["headers"])
            await send(message)
            if is_last(message, trailers):
                await self._open.release(verdict)

        try:
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            await self.app({**scope, wiring.VERDICTS: verdicts}, receiving, sending)
        except Exception:
            if not over:
                self._open.begin_settling(verdicts, *FAILED)
            raise
        finally:
            await self._open.release(verdict)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard = self._guard()
        request = from_asgi(scope)
        verdict = await guard.enter(request)
        if not verdict.allowed:
            await refuse_handshake(verdict, scope, receive, send)
            return
        self._open.hold(guard, verdict)
        messages = self._messages() if self._messages else None
        socket = WebSocket(receive, send, self._open, verdict, request, messages, self._sleep)
        try:
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            await self.app({**scope, wiring.VERDICTS: socket.verdicts}, socket.receive, socket.send)
        except Exception:
            socket.fail()
            raise
        finally:
            socket.abandon()
            await self._open.release(verdict)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Connect and close with the application's lifespan, or without it if the application has none."""
        received = False

        async def receiving() -> Message:
            nonlocal received
            received = True
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._warn_of_replaced_peers()
                try:
                    await self.open()
                except LimiterError as error:
                    log.warning("started without the store: %s", error)
            return message

        async def sending(message: Message) -> None:
            if message["type"] in _LAST_OF_LIFESPAN:
                await self.close()
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        except Exception:
            if received:
                raise
            log.debug("the application does not support lifespan", exc_info=True)
        if not received:
            await _answer_lifespan(receiving, sending)

    def _warn_of_replaced_peers(self) -> None:
        """Warn if uvicorn hides proxies, and a rule reads header fields of theirs."""
        guard = self._guard()
        if hides_proxies(sys.argv, of_uvicorn(), guard.trusted):
            for rule in guard.rules:
                rule.warn_of_replaced_peers()


def _guard_of_messages(
    messages: Any, guard: AsyncGuard, given: Mapping[str, Any]
) -> Callable[[], AsyncGuard]:
    """Return the guard of messages; plain limits share the requests' connections and settings."""
    settings: dict[str, Any] = {}
    if wiring.is_plain(messages):
        settings = {name: given[name] for name in given if name not in _OF_REQUESTS}
        if guard.rules:
            first = guard.rules[0].limiter
            settings |= {"store": first, "name": f"{first.name[:55]}-messages"}
    try:
        return wiring.source(AsyncGuard, AsyncLimiter, messages, **settings)
    except InvalidSetting as error:
        raise InvalidSetting(f"messages: {error}") from None


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's lifespan messages for an application that does not."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return

"""Limits for any ASGI application: ``LimiterMiddleware(app, "100/minute", store=...)``."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from limiter.aio import AsyncLimiter
from limiter.errors import InvalidSetting, LimiterError
from limiter.settings import LimiterSettings, of_uvicorn
from limiter.web import wiring
from limiter.web.guard import AsyncGuard
from limiter.web.identity import Network
from limiter.web.request import Request, from_asgi
from limiter.web.rules import CostFunction
from limiter.web.subjects import KeyFunction
from limiter.web.uvicorn_peers import hides_proxies
from limiter.web.verdict import Observer, Verdict

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("limiter.web")

#: Close codes (RFC 6455 and its registry): a message against the rules, and a server that cannot tell.
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013
#: Bytes of the reason that stands beside such a code.
_MOST_REASON = 123

#: Seconds that what is still being given back may take when the server stops.
_PATIENCE = 2.0

#: With these the application says that it is done with the lifespan.
_LAST_WORDS = (
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
)


class LimiterMiddleware:
    """Ask about every request and websocket, and answer for the application where a limit denies.

    Args:
        app: The application.
        limits: As for ``limiter.wsgi.LimiterMiddleware``, with ``AsyncLimiter`` and ``AsyncGuard``.
        key: As there, also what a function is given and returns, as are ``cost``, ``form``, ``trusted``,
            ``address_from`` and ``observe``.
        messages: Limits for each message that comes in through a websocket, in the same forms as
            ``limits``; the first that is denied closes the connection.
        sleep: Whether to wait, before the application is called or given a message, for as long as a
            leaky bucket says.
        enabled: False: no limit is enforced, and no store is needed.
        store: As the others that follow, of the ``AsyncLimiter``; what is not given is read from
            LIMITER_*.

    A websocket is asked about at its handshake. Leases (``Concurrency``) are held until the body is
    sent, the websocket closed, the client gone, or the application done, whichever is first. The
    lifespan connects at the start, and closes the connections at the end. What was decided stands in
    ``scope["limiter.verdicts"]``.

    Raises:
        InvalidSetting, InvalidPolicy: Something of it is of no use; the message says what is accepted.

    """

    def __init__(
        self,
        app: App,
        limits: Any = None,
        *,
        key: str | Sequence[str] | KeyFunction | None = None,
        cost: int | CostFunction | None = None,
        form: str | None = None,
        trusted: str | Iterable[str | Network] | None = None,
        address_from: str | None = None,
        observe: Observer | None = None,
        messages: Any = None,
        sleep: bool = False,
        enabled: bool = True,
        store: object = None,
        name: str | None = None,
        prefix: str | None = None,
        algorithm: str | None = None,
        on_error: str | None = None,
        local_share: int | None = None,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        key_secret: str | bytes | None = None,
    ) -> None:
        # One by one, since type checkers cannot match ``**settings`` with Starlette's Middleware.
        settings: LimiterSettings = {
            "store": store,
            "name": name,
            "prefix": prefix,
            "algorithm": algorithm,
            "on_error": on_error,
            "local_share": local_share,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "key_secret": key_secret,
        }
        self.app = app
        self._sleep = sleep
        self._guard = wiring.source(
            AsyncGuard,
            AsyncLimiter,
            limits,
            enabled=enabled,
            key=key,
            cost=cost,
            form=form,
            trusted=trusted,
            address_from=address_from,
            observe=observe,
            **settings,
        )
        self._messages = (
            None
            if messages is None or not enabled
            else _guard_of_messages(
                messages,
                self._guard(),
                {**settings, "key": key, "trusted": trusted, "address_from": address_from}
                | {"observe": observe},
            )
        )
        self._stays = Stays()

    async def open(self) -> None:
        """Connect beforehand, for the running event loop; optional.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a request tries again by itself.

        """
        for limiter in self._limiters():
            await limiter.open()

    async def close(self) -> None:
        """Give back what is still held, and close the event loop's connections.

        A server that stops has ended its connections before, or is about to.
        """
        await self._stays.end()
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
            await _refuse(verdict, send, "http", scope["method"] == "HEAD")
            return
        verdicts = [verdict]
        stay = self._stays.begin(guard, verdict)
        trailers = False

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                stay.end()
            return message

        async def sending(message: Message) -> None:
            nonlocal trailers
            if message["type"] == "http.response.start":
                trailers = bool(message.get("trailers"))
                message = _with_fields(message, verdicts)
            await send(message)
            if _is_last(message, trailers):
                await stay.ended()

        try:
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            await self.app({**scope, wiring.VERDICTS: verdicts}, receiving, sending)
        finally:
            await stay.ended()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard = self._guard()
        request = from_asgi(scope)
        verdict = await guard.enter(request)
        if not verdict.allowed:
            await _refuse_handshake(verdict, scope, receive, send)
            return
        stay = self._stays.begin(guard, verdict)
        messages = self._messages() if self._messages else None
        socket = _Socket(receive, send, stay, [verdict], request, messages, self._sleep)
        try:
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            await self.app({**scope, wiring.VERDICTS: socket.verdicts}, socket.receive, socket.send)
        finally:
            socket.abandon()
            await stay.ended()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open and close around the application's own; alone where it has none."""
        asked = False

        async def receiving() -> Message:
            nonlocal asked
            asked = True
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._warn_of_replaced_peers()
                await self._open_if_possible()
            return message

        async def sending(message: Message) -> None:
            if message["type"] in _LAST_WORDS:
                await self.close()
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        except Exception:
            if asked:
                raise
            log.debug("the application knows no lifespan", exc_info=True)
        if not asked:
            await _answer_lifespan(receiving, sending)

    def _warn_of_replaced_peers(self) -> None:
        """Warn where uvicorn hides the proxies of which a cost by a header is believed."""
        guard = self._guard()
        if hides_proxies(sys.argv, of_uvicorn(), guard.trusted):
            for rule in guard.rules:
                warn = getattr(rule.cost, "warn_of_replaced_peers", None)
                if warn is not None:
                    warn()

    async def _open_if_possible(self) -> None:
        try:
            await self.open()
        except LimiterError as error:
            log.warning("started without the store: %s", error)


class Stay:
    """What a request holds, to be given back once, whoever is interrupted meanwhile."""

    def __init__(self, guard: AsyncGuard, verdict: Verdict, stays: Stays) -> None:
        self._guard = guard
        self._verdict = verdict
        self._stays = stays
        self._task: asyncio.Task[None] | None = None

    def end(self) -> None:
        """Begin to give it back, in a task of its own: a cancelled request cannot stop that."""
        if self._task is None and self._verdict.leases:
            self._task = asyncio.get_running_loop().create_task(self._guard.leave(self._verdict))
            self._stays.leaving(self, self._task)

    async def ended(self) -> None:
        """The same, and wait until it is given back."""
        self.end()
        if self._task is not None and not self._task.done():
            await asyncio.shield(self._task)


class Stays:
    """The requests that hold something."""

    def __init__(self) -> None:
        self._open: set[Stay] = set()
        #: An event loop does not keep its tasks alive.
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, guard: AsyncGuard, verdict: Verdict) -> Stay:
        """A request was let in."""
        stay = Stay(guard, verdict, self)
        if verdict.leases:
            self._open.add(stay)
        return stay

    def leaving(self, stay: Stay, task: asyncio.Task[None]) -> None:
        """A request gives back what it held."""
        self._open.discard(stay)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """End all of them, and wait, within reason, until it is given back."""
        for stay in list(self._open):
            stay.end()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE)


class _Socket:
    """A websocket between the server and the application."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        stay: Stay,
        verdicts: list[Verdict],
        request: Request,
        messages: AsyncGuard | None,
        sleep: bool,
    ) -> None:
        self.verdicts = verdicts
        self._receive = receive
        self._send = send
        self._stay = stay
        self._request = request
        self._messages = messages
        self._sleep = sleep
        #: The message that is being decided about: an application that waits for one only so long is
        #: cancelled in between, and gets it the next time.
        self._coming: asyncio.Task[Message] | None = None
        self._gone: Message | None = None

    async def receive(self) -> Message:
        """The next message that passes; or that the connection is closed."""
        if self._gone is not None:
            return self._gone
        if self._coming is None:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._stay.end()
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
            message = _with_fields(message, self.verdicts)
        await self._send(message)
        if message["type"] == "websocket.close" or _is_last(message):
            await self._stay.ended()

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
        self._stay.end()
        return self._gone


def _guard_of_messages(
    messages: Any, guard: AsyncGuard, given: Mapping[str, Any]
) -> Callable[[], AsyncGuard]:
    """The guard of messages; plain limits share the connections and the settings of the others."""
    more: dict[str, Any] = {}
    if wiring.is_plain(messages):
        more = dict(given)
        if guard.rules:
            first = guard.rules[0].limiter
            more |= {"store": first, "name": f"{first.name[:55]}-messages"}
    try:
        return wiring.source(AsyncGuard, AsyncLimiter, messages, **more)
    except InvalidSetting as error:
        raise InvalidSetting(f"messages: {error}") from None


def _is_last(message: Message, trailers: bool = False) -> bool:
    """Whether nothing of the response comes after this message."""
    kind = message["type"].removeprefix("websocket.")
    if kind in ("http.response.body", "http.response.zerocopysend"):
        return not trailers and not message.get("more_body")
    if kind == "http.response.pathsend":
        return not trailers
    return kind == "http.response.trailers" and not message.get("more_trailers")


def _with_fields(message: Message, verdicts: Sequence[Verdict]) -> Message:
    own = list(message.get("headers") or ())
    said = {bytes(name).decode("latin-1").lower() for name, _ in own}
    return {
        **message,
        "headers": own + _encoded(wiring.added_fields(said, wiring.fields_of(verdicts))),
    }


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]


async def _refuse(verdict: Verdict, send: Send, protocol: str, bare: bool = False) -> None:
    fields, body = wiring.refusal(verdict)
    await send(
        {
            "type": f"{protocol}.response.start",
            "status": verdict.status,
            "headers": _encoded(fields),
        }
    )
    await send({"type": f"{protocol}.response.body", "body": b"" if bare else body})


async def _refuse_handshake(verdict: Verdict, scope: Scope, receive: Receive, send: Send) -> None:
    """With a response where the server can send one; else by closing, which is a 403."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _refuse(verdict, send, "websocket.http")
    else:
        code, reason = closing(verdict)
        await send({"type": "websocket.close", "code": code, "reason": reason})


def closing(verdict: Verdict) -> tuple[int, str]:
    """Code and reason with which a websocket is closed."""
    if verdict.status != 429:
        code = TRY_AGAIN_LATER if verdict.status == 503 else POLICY_VIOLATION
        reason = json.loads(verdict.body)["detail"].encode()[:_MOST_REASON]
        return code, reason.decode(errors="ignore")
    waits = [one.decision.retry_after for one in verdict.results if not one.rule.shadow]
    seconds = max(1, math.ceil(max(waits)))
    return POLICY_VIOLATION, f"Rate limit exceeded: try again in {seconds} s."


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    """For an application that does not."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return

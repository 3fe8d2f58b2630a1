"""Both middlewares, WSGI and ASGI, with the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from limiter import AsyncLimiter, Limiter, asgi, wsgi
from limiter.policyfile import AsyncPolicies, Policies
from limiter.web.guard import AsyncGuard, Guard
from limiter.web.request import joined
from tests.asgi.support import ask as ask_asgi
from tests.wsgi.support import CALLER
from tests.wsgi.support import ask as ask_wsgi

MEMORY = "memory://"
TEXT = [("Content-Type", "text/plain")]


class Answer(NamedTuple):
    """A response as the client got it: names in lower case, and repeated fields joined."""

    status: int
    fields: dict[str, str]
    body: bytes


class Wsgi:
    """The middleware of WSGI, its classes, and its server."""

    middleware: Any = wsgi.LimiterMiddleware
    limiter: Any = Limiter
    guard: Any = Guard
    policies: Any = Policies
    others: Any = (AsyncGuard([]), AsyncLimiter("5/minute", store=MEMORY))

    def application(self, status: int = 200, fields: Any = (), noted: Any = None) -> Any:
        """Make an application with this response; it stores the verdicts."""

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            if noted is not None:
                noted.extend(environ["limiter.verdicts"])
            start_response(f"{status} As It Is", [*TEXT, *fields])
            return [b"hello"]

        return app

    def responding(self, respond: Callable[[str], tuple[int, Any]]) -> Any:
        """Make an application that answers with the status and fields that a path's call returns."""

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            status, fields = respond(environ["PATH_INFO"])
            return list(self.application(status, fields)(environ, start_response))

        return app

    def run(self, result: Any) -> Any:
        """What a call returned."""
        return result

    def ask(
        self, app: Any, path: str = "/", peer: str = CALLER, method: str = "GET", **fields: str
    ) -> Answer:
        """One request, with these header fields."""
        found = {f"HTTP_{name.upper()}": value for name, value in fields.items()}
        if "HTTP_CONTENT_LENGTH" in found:
            found["CONTENT_LENGTH"] = found.pop("HTTP_CONTENT_LENGTH")
        answer = ask_wsgi(app, path=path, method=method, REMOTE_ADDR=peer, **found)
        return Answer(answer.code, joined(answer.headers), b"".join(answer.body))

    def close(self) -> None:
        """Nothing was begun."""


class Asgi(Wsgi):
    """The same for ASGI."""

    middleware = asgi.LimiterMiddleware
    limiter = AsyncLimiter
    guard = AsyncGuard
    policies = AsyncPolicies
    others = (Guard([]), Limiter("5/minute", store=MEMORY))

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def application(self, status: int = 200, fields: Any = (), noted: Any = None) -> Any:
        """Make an application with this response; it stores the verdicts."""
        headers = [(name.lower().encode(), value.encode()) for name, value in [*TEXT, *fields]]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if noted is not None:
                noted.extend(scope["limiter.verdicts"])
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"hello"})

        return app

    def responding(self, respond: Callable[[str], tuple[int, Any]]) -> Any:
        """As ``Wsgi.responding``."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            status, fields = respond(scope["path"])
            await self.application(status, fields)(scope, receive, send)

        return app

    def run(self, result: Any) -> Any:
        """What a coroutine returns."""
        return self._loop.run_until_complete(result)

    def ask(
        self, app: Any, path: str = "/", peer: str = CALLER, method: str = "GET", **fields: str
    ) -> Answer:
        """One request, with these header fields."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        asked = ask_asgi(app, path, client=(peer, 40_000), method=method, headers=headers)
        answer = self.run(asked)
        assert all(name == name.lower() for name, _ in answer.sent[0]["headers"])
        return Answer(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        """End the event loop."""
        self._loop.close()

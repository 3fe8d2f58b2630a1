"""A client of an ASGI application, without a server between them."""

from __future__ import annotations

import asyncio
import json as json_text
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from starlette.datastructures import Headers


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Headers
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def media_type(self) -> str:
        """The media type, without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0]

    def json(self) -> Any:
        """The body, which is JSON."""
        return json_text.loads(self.body)


class Client:
    """Sends requests to an application, each in a turn of the loop, as a server would.

    ``port`` is the port of the server's address.
    """

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop, port: int = 8000) -> None:
        self.app = app
        self._loop = loop
        self._port = port

    def get(self, path: str, **more: Any) -> Answer:
        """Send a GET."""
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> Answer:
        """Send a POST."""
        return self.ask("POST", path, **more)

    def delete(self, path: str, **more: Any) -> Answer:
        """Send a DELETE."""
        return self.ask("DELETE", path, **more)

    def ask(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        pieces: Iterable[bytes] = (),
        headers: Mapping[str, str] | None = None,
        peer: str | None = "127.0.0.1",
    ) -> Answer:
        """Send a request, with a JSON body, or a body in ``pieces``."""
        fields = {name.lower(): value for name, value in (headers or {}).items()}
        pieces = list(pieces)
        if json is not None:
            pieces = [json_text.dumps(json).encode()]
            fields.setdefault("content-type", "application/json")
        if "transfer-encoding" not in fields:
            fields.setdefault("content-length", str(sum(map(len, pieces))))
        raw_path, _, query = path.encode().partition(b"?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": unquote(raw_path.decode()),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
            "client": None if peer is None else (peer, 40_000),
            "server": ("127.0.0.1", self._port),
        }
        return self._loop.run_until_complete(self._answer(scope, pieces))

    async def _answer(self, scope: dict[str, Any], pieces: list[bytes]) -> Answer:
        messages: list[Any] = [
            {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
        ]
        messages.append({"type": "http.request", "body": b"", "more_body": False})
        messages.reverse()
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, *bodies = sent
        body = b"".join(message.get("body", b"") for message in bodies)
        return Answer(start["status"], Headers(raw=list(start["headers"])), body)

"""A client of an ASGI application, without a server between them."""

from __future__ import annotations

import asyncio
import json as json_text
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

import uvicorn
from starlette.datastructures import Headers

from limiter.server.app import Service
from service.demo.servers import HOST
from tests.waiting import until


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
    """Sends requests to an application, and runs its loop until the response is complete.

    Attributes:
        received: How many pieces of the last request's body the application has received.

    """

    received = 0

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop, port: int = 8000) -> None:
        self._app = app
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

    def ask(self, method: str, path: str, **more: Any) -> Answer:
        """Send a request, and wait for the response; the arguments are those of ``answer``."""
        return self._loop.run_until_complete(self.answer(method, path, **more))

    async def answer(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        pieces: Iterable[bytes] = (),
        headers: Mapping[str, str] | None = None,
        peer: str | None = "127.0.0.1",
        leaves: bool = False,
        scope: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send a request with a JSON body, or a body in ``pieces``; ``scope`` replaces parts of the scope.

        A client that ``leaves`` closes the connection before the end of its body.
        """
        fields = {name.lower(): value for name, value in (headers or {}).items()}
        pieces = list(pieces)
        if json is not None:
            pieces = [json_text.dumps(json).encode()]
            fields.setdefault("content-type", "application/json")
        if pieces and "transfer-encoding" not in fields:
            fields.setdefault("content-length", str(sum(map(len, pieces))))
        raw_path, _, query = path.encode().partition(b"?")
        whole = {
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
            **(scope or {}),
        }
        end = [] if leaves else [{"type": "http.request", "body": b"", "more_body": False}]
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        return await self._answer(whole, [*messages, *end])

    async def _answer(self, scope: dict[str, Any], messages: list[dict[str, Any]]) -> Answer:
        left = iter(messages)
        sent: list[Any] = []
        self.received = 0

        async def receive() -> Any:
            self.received += 1
            return next(left, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, *bodies = sent
        body = b"".join(message.get("body", b"") for message in bodies)
        return Answer(start["status"], Headers(raw=list(start["headers"])), body)


class Running:
    """A service, and clients of its two addresses."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        service.operators_port = 8001
        self.service = service
        self.client = Client(service, loop)
        self.operators = Client(service, loop, port=8001)


@contextmanager
def under_uvicorn(service: Service) -> Iterator[tuple[str, str]]:
    """Run a service under uvicorn, in a thread; yield the URLs of its two addresses."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(2)]
    public, service.operators_port = (each.getsockname()[1] for each in sockets)
    config = uvicorn.Config(service, proxy_headers=False, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://{HOST}:{public}", f"http://{HOST}:{service.operators_port}"
    finally:
        server.should_exit = True
        thread.join()

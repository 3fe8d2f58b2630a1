"""An ASGI server in a class, and real ones as processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from limiter import AsyncLimiter
from limiter.web.request import joined
from tests.waiting import soon
from tests.wsgi.support import CALLER, running


class Connection:
    """One connection of a server: the messages to the application, and from it."""

    def __init__(self, app: Any, kind: str = "http", path: str = "/", **more: Any) -> None:
        headers = more.pop("headers", {})
        self.scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "client": (CALLER, 40_000),
            "server": ("testserver", 80),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            **({"method": "GET", "scheme": "http"} if kind == "http" else {"scheme": "ws"}),
            **more,
        }
        self.sent: list[Any] = []
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self._app = app
        self._news = asyncio.Event()

    async def receive(self) -> Any:
        """Return the server's next message to the application."""
        return await self.told.get()

    async def send(self, message: Any) -> None:
        """Take a message of the application."""
        self.sent.append(message)
        self._news.set()
        await asyncio.sleep(0)  # tasks that wait for it run first

    def tell(self, kind: str, **more: Any) -> None:
        """Send the application a message."""
        self.told.put_nowait({"type": kind, **more})

    def start(self) -> asyncio.Task[None]:
        """Let the application serve the connection, in a task."""
        return asyncio.get_running_loop().create_task(
            self._app(self.scope, self.receive, self.send)
        )

    async def until(self, count: int) -> Any:
        """Wait until the application has sent ``count`` messages; return the last of them."""

        async def enough() -> None:
            while len(self.sent) < count:
                self._news.clear()
                await self._news.wait()

        await asyncio.wait_for(enough(), 10)
        return self.sent[count - 1]

    @property
    def status(self) -> int:
        """The response's status."""
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """The fields of the first message, with repeated ones joined."""
        return joined((name.decode(), value.decode()) for name, value in self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """All pieces of the response."""
        return b"".join(message.get("body", b"") for message in self.sent)


async def ask(app: Any, path: str = "/", **more: Any) -> Connection:
    """One request, from its beginning to its end."""
    connection = Connection(app, path=path, **more)
    connection.tell("http.request", body=b"", more_body=False)
    await connection.start()
    return connection


async def free(limiter: AsyncLimiter, key: str = CALLER) -> int:
    """Return how many units are left."""
    return (await limiter.peek(key)).remaining


async def eventually_free(limiter: AsyncLimiter, count: int) -> None:
    """Wait until this many units are left."""

    async def is_free() -> bool:
        return await free(limiter) == count

    await soon(is_free)


def uvicorn(log: Path, app: str, *options: str, **variables: str) -> Any:
    """An ASGI application under uvicorn."""
    more = ["--log-level=warning", "--timeout-graceful-shutdown=1", *options, app]
    return running(log, "uvicorn", *more, bind="--host {host} --port {port}", **variables)

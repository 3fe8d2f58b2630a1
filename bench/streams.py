"""A client of the proxy of docs/token-budgets.md, with a connection for each request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.demo.servers import HOST


class Stream:
    """A response that arrives."""

    def __init__(self, status: int, fields: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.fields = fields
        self._reader = reader

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the events; the stream ends where the server closes the connection."""
        async for line in self._reader:
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))

    async def text(self) -> str:
        """Read the rest of a response that is no stream."""
        return (await self._reader.read()).decode()

    async def tokens(self) -> int:
        """Read the rest of the stream; return the tokens that it had."""
        return sum([tokens_of(event) async for event in self.events()])


def tokens_of(event: dict[str, Any]) -> int:
    """Return how many tokens of the stand-in an event has."""
    return sum(len(choice["delta"]["content"]) // 4 for choice in event["choices"])


@asynccontextmanager
async def post(port: int, key: str, body: dict[str, Any]) -> AsyncIterator[Stream]:
    """Send a request; the connection is closed at the end, whether or not the response is complete."""
    text = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(head.encode() + text)
        status = int((await reader.readuntil(b"\r\n")).split()[1])
        fields = {}
        while line := (await reader.readuntil(b"\r\n")).decode().strip():
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
        yield Stream(status, fields, reader)
    finally:
        writer.close()

"""The proxy of ``docs/token-budgets.md`` has none of the failures that the page names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from textwrap import dedent
from typing import Any

import pytest
import redis.asyncio
import uvicorn

from bench.streams import post
from docs import token_budgets
from docs.stand_in import StandIn
from docs.token_budgets import Budget, Proxy, application
from service.demo.servers import HOST
from tests.asgi.support import in_a_loop
from tests.service.support import ROOT
from tests.waiting import soon

PAGE = (ROOT / "docs/token-budgets.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
RECIPE = (ROOT / "docs/token_budgets.py").read_text()

pytestmark = pytest.mark.usefixtures("patient")


class Gate:
    """The stand-in, which sends its first event when the test opens the gate."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.asked = 0

    @asynccontextmanager
    async def ask(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[str]]:
        async with StandIn(pause=0).ask(body) as lines:
            self.asked += 1
            yield self._waiting(lines)

    async def _waiting(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        yield ": the model thinks"
        await self.opened.wait()
        async for line in lines:
            yield line


class Budgets:
    """A proxy under uvicorn, with an API key, a team and a model of its own."""

    def __init__(self, proxy: Proxy, port: int, gate: Gate, name: str) -> None:
        self.gate, self.name = gate, name
        self._proxy, self._port = proxy, port

    def post(self, words: str, most: int = 1_000) -> Any:
        """Send a request."""
        body = {"model": self.name, "messages": [{"content": words}], "max_tokens": most}
        return post(self._port, self.name, body)

    async def ask(self, words: str, most: int = 1_000) -> int:
        """Send a request, and read the response to its end; return the status."""
        async with self.post(words, most) as stream:
            await stream.tokens()
            return stream.status

    async def used(self, kind: str = "key") -> int:
        """Return the tokens that are charged to the key, the team, or the model."""
        limits = self._proxy.rates[kind]
        decision = await self._proxy.budget.peek((kind, self.name), limits=limits)
        return limits[1].limit - decision.each[1].remaining

    async def held(self, kind: str = "key") -> int:
        """Return the number of streams in flight."""
        limits = self._proxy.streams[kind]
        return (
            limits.limit
            - (await self._proxy.in_flight.peek((kind, self.name), limits=limits)).remaining
        )


@pytest.fixture
def name(new_subject: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An API key, a team and a model, all of one name that no other test uses."""
    name = new_subject()
    monkeypatch.setitem(token_budgets.TEAMS, name, name)
    monkeypatch.setattr(token_budgets, "MODELS", {name})
    return name


@asynccontextmanager
async def budgets(
    store: str, name: str, tokens: int = 10_000, streams: int = 50
) -> AsyncIterator[Budgets]:
    """Run the proxy; each subject has the same limits."""
    gate = Gate()
    limits = dict.fromkeys(("key", "team", "model"), Budget(1_000, tokens, streams))
    proxy = Proxy(store, gate.ask, budgets=limits)
    config = uvicorn.Config(application(proxy), HOST, 0, log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await soon(lambda: asyncio.sleep(0, server.started))
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Budgets(proxy, port, gate, name)
    finally:
        gate.opened.set()
        server.should_exit = True
        await serving


def row(*cells: object) -> None:
    """Check that the page's table has this row."""
    line = "| " + " | ".join(str(cell) for cell in cells) + " |"
    assert line in PAGE, line


def naive(store: str) -> Callable[..., Any]:
    """Return the page's function that checks, and then counts."""
    (code,) = [block for block in BLOCKS if "def check_then_count" in block]
    names: dict[str, Any] = {}
    exec(compile(code.replace("redis://127.0.0.1:6379/0", store), "page.md", "exec"), names)  # noqa: S102
    return names


def test_the_page_shows_the_program_s_own_lines() -> None:
    shown = [block for block in BLOCKS if block.startswith("async with AsyncExitStack")]

    assert shown
    for block in shown:
        assert dedent(block).strip() in re.sub(r"^ {12}", "", RECIPE, flags=re.M)

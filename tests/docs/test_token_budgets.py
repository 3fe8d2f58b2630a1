"""The proxy of ``docs/token-budgets.md`` has none of the failures that the page names."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import uvicorn

from bench.streams import Stream, post, tokens_of
from docs import token_budgets
from docs.stand_in import StandIn
from docs.token_budgets import Budget, Proxy, application
from limiter import Limiter
from service.demo.servers import HOST, Server
from tests.server.serving import serving
from tests.service.support import ROOT
from tests.waiting import soon

PAGE = (ROOT / "docs/token-budgets.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)

LIMIT = 10_000
#: The words of a request whose prompt has 4 tokens, and its ``max_tokens``: together 1,000 tokens.
WORDS, MOST = "write 400 tokens", 996


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test's coroutine, without asyncio's debug mode: 50 calls at once would take seconds with it."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


class Model:
    """The stand-in, but the test decides how many events are sent at first, and when the others are."""

    def __init__(self, events: int) -> None:
        self.requests = 0
        self.go_on = asyncio.Event()
        self._events = events

    @asynccontextmanager
    async def ask(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[str]]:
        """Send a request."""
        async with StandIn(pause=0, each=100).ask(body) as lines:
            self.requests += 1
            yield self._held_up(lines)

    async def _held_up(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        events = 0
        async for line in lines:
            if events == self._events:
                await self.go_on.wait()
            events += line.startswith("data")
            yield line


class Served:
    """A proxy under uvicorn, whose only API key, team and model have one name."""

    def __init__(self, proxy: Proxy, port: int, model: Model, name: str) -> None:
        self.model = model
        self.port = port
        self._proxy, self._name = proxy, name

    def post(
        self, words: str = WORDS, most: int = MOST, **change: Any
    ) -> AbstractAsyncContextManager[Stream]:
        """Send a request."""
        body = {"model": self._name, "messages": [{"content": words}], "max_tokens": most}
        return post(self.port, self._name, body | change)

    async def status(self, words: str = WORDS, most: int = MOST) -> int:
        """Send a request, and read the response to its end."""
        async with self.post(words, most) as stream:
            await stream.tokens()
            return stream.status

    async def charged(self, kind: str = "key") -> tuple[int, int]:
        """Return the requests and the tokens that are charged to the key, the team, or the model."""
        limits = self._proxy.rates[kind]
        decision = await self._proxy.budget.peek((kind, self._name), limits=limits)
        requests, tokens = (
            limit.limit - each.remaining for limit, each in zip(limits, decision.each, strict=True)
        )
        return requests, tokens

    async def in_flight(self) -> int:
        """Return the number of places that the key holds."""
        limit = self._proxy.streams["key"]
        decision = await self._proxy.in_flight.peek(("key", self._name), limits=limit)
        return limit.limit - decision.remaining

    async def settled(self) -> int:
        """Wait until no stream is in flight; return the tokens charged, the same for all subjects."""

        async def none_in_flight() -> bool:
            return await self.in_flight() == 0

        await soon(none_in_flight)
        (charged,) = {await self.charged(kind) for kind in ("key", "team", "model")}
        return charged[1]


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(store: str, new_subject: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Return what runs the proxy with a model, and with subjects that no other test uses."""

    @asynccontextmanager
    async def serve(events: int = 0, streams: int = 100) -> AsyncIterator[Served]:
        name, model = new_subject(), Model(events)
        monkeypatch.setitem(token_budgets.TEAMS, name, name)
        monkeypatch.setattr(token_budgets, "MODELS", {name})
        budgets = dict.fromkeys(token_budgets.BUDGETS, Budget(1_000, LIMIT, streams))
        proxy = Proxy(store, model.ask, budgets=budgets, timeout=5)
        server = uvicorn.Server(uvicorn.Config(application(proxy), HOST, 0, log_level="critical"))
        serving = asyncio.create_task(server.serve())

        async def started() -> bool:
            return server.started

        try:
            await soon(started)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield Served(proxy, port, model, name)
        finally:
            model.go_on.set()
            server.should_exit = True
            await serving

    return serve


async def count_naively(
    store: str, subject: str, estimate: int, calls: list[Callable[[], Awaitable[int]]]
) -> tuple[list[Any], int]:
    """Make calls at the same time with the page's function; return their results, and its count."""
    (code,) = [block for block in BLOCKS if "def check_then_count" in block]
    names: dict[str, Any] = {}
    exec(compile(code.replace("redis://127.0.0.1:6379/0", store), "page", "exec"), names)  # noqa: S102
    check = names["check_then_count"]
    tasks = [check(subject, estimate, LIMIT, call) for call in calls]
    try:
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return results, int(await names["store"].get(subject) or 0)
    finally:
        await names["store"].aclose()


async def fails() -> int:
    """Break, as a call to a model that does not end well."""
    raise ConnectionError


def check_row(*cells: str) -> None:
    """Check that the page's table has this row."""
    assert f"| {' | '.join(cells)} |" in PAGE


@in_a_loop
async def test_concurrent_calls_do_not_pass_together(
    serve: Serve, store: str, subject: str
) -> None:
    checked = 0
    all_checked = asyncio.Event()

    async def call() -> int:
        nonlocal checked
        checked += 1
        if checked == 50:
            all_checked.set()
        await all_checked.wait()
        return 404

    results, counted = await count_naively(store, subject, 1_000, [call] * 50)
    async with serve() as served:
        calls = [asyncio.create_task(served.status()) for _ in range(50)]

        async def all_decided() -> bool:
            return served.model.requests + sum(call.done() for call in calls) == 50

        await soon(all_decided)
        passed, (requests, meanwhile) = served.model.requests, await served.charged("team")
        served.model.go_on.set()
        statuses = await asyncio.gather(*calls)
        afterwards = await served.settled()

    assert requests == passed == statuses.count(200)
    denied = statuses.count(429)
    check_row(
        "50 calls at the same time, each estimated at 1,000 tokens",
        f"{results.count(True)} pass",
        f"{passed} pass, {denied} get a 429",
    )
    check_row("tokens counted while these streams run", "0", f"{meanwhile:,}")
    check_row("tokens counted after them, 404 for each", f"{counted:,}", f"{afterwards:,}")


@in_a_loop
async def test_a_large_first_estimate_passes(serve: Serve, store: str, subject: str) -> None:
    results, _ = await count_naively(store, subject, 30_004, [fails])
    async with serve() as served:
        call = asyncio.create_task(served.status(most=30_000))

        async def is_charged() -> bool:
            return (await served.charged())[1] > 0

        await soon(is_charged)
        _, meanwhile = await served.charged()
        served.model.go_on.set()
        assert await call == 200
        afterwards = await served.settled()

    assert results == [False]
    check_row(
        "the first call of all, estimated at 30,004 tokens",
        "denied, now and later",
        f"passes: {meanwhile:,} are charged at first, and {afterwards} at the end",
    )


@in_a_loop
async def test_a_broken_stream_is_not_free(serve: Serve, store: str, subject: str) -> None:
    _, counted = await count_naively(store, subject, 1_000, [fails])
    async with serve(events=10) as served:
        assert await served.status("write 300 tokens, break after 100") == 200
        charged = await served.settled()

    check_row(
        "the model breaks the stream after 100 tokens", str(counted), f"{charged}, with the prompt"
    )


@in_a_loop
async def test_a_client_that_closes_the_connection_pays(
    serve: Serve, store: str, subject: str
) -> None:
    async def waits() -> int:
        await asyncio.sleep(60)
        return 404

    closed = asyncio.create_task(count_naively(store, subject, 1_000, [waits]))
    async with serve(events=1) as served:
        async with served.post() as stream:
            received = 0
            async for event in stream.events():
                received += tokens_of(event)
                if received == 100:
                    break
        charged = await served.settled()
        closed.cancel()
        await asyncio.wait([closed])
        _, counted = await count_naively(store, subject, 1_000, [])

    check_row(
        "the client closes the connection after 100 tokens",
        str(counted),
        f"{charged}, with the prompt",
    )


@in_a_loop
async def test_a_refused_request_is_free(serve: Serve) -> None:
    async with serve() as served:
        assert await served.status("refuse") == 502
        assert await served.settled() == 0
        assert await served.charged() == (0, 0)

    check_row("the model refuses the request", "0", "0")


@in_a_loop
async def test_streams_in_flight_have_a_limit(serve: Serve) -> None:
    """The places of streams that end, in whatever way, are free at once."""
    async with serve(events=1, streams=2) as served:
        async with served.post(), served.post() as second:
            async for _ in second.events():
                break
            assert await served.in_flight() == 2
            async with served.post() as third:
                assert (third.status, await third.text()) == (429, "too many streams")
                assert 1 <= int(third.fields["retry-after"]) <= 30
        await served.settled()
        served.model.go_on.set()
        assert await asyncio.gather(served.status(), served.status()) == [200, 200]


@in_a_loop
async def test_what_is_no_request_to_a_model_is_refused(serve: Serve) -> None:
    async with serve() as served:
        for change, status in (
            ({"messages": 5}, 400),
            ({"max_tokens": "many"}, 400),
            ({"model": ["small"]}, 400),
            ({"model": "huge"}, 404),
        ):
            async with served.post(**change) as stream:
                assert stream.status == status
        async with post(served.port, "guessed", {}) as stream:
            assert stream.status == 401
        assert await served.charged() == (0, 0)


def test_the_page_shows_the_program(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_STORE", store)
    assert token_budgets.create_app().routes
    assert "uvicorn --factory docs.token_budgets:create_app" in PAGE
    (shown,) = [block for block in BLOCKS if "AsyncExitStack" in block]

    assert indent(shown, " " * 12) in (ROOT / "docs/token_budgets.py").read_text()


def test_the_page_shows_what_is_charged(own: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = [block for block in BLOCKS if "budget.peek" in block]
    limits = Proxy(own.url, StandIn().ask).rates["key"]
    with Limiter(limits, store=own.url, name="llm").reserve(("key", "key-ann"), (1, 34)):
        exec(shown.replace("redis://127.0.0.1:6379/0", own.url), {})  # noqa: S102 (the page's)

    assert capsys.readouterr().out == "requests 1\ntokens 34\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_every_command_prints_what_the_page_shows(tmp_path: Path, own: Server) -> None:
    (console,) = re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
    variables = {"LIMITER_STORE": own.url, "LIMITER_POLICIES": "docs/token-budgets.toml"}
    assert f"LIMITER_POLICIES={variables['LIMITER_POLICIES']} limiter serve" in PAGE
    with serving(tmp_path / "log", **variables) as (_, url):
        examples = re.split(r"^\$ ", console, flags=re.M)[1:]
        assert len(examples) == 6
        for example in examples:
            command, _, shown = example.partition("\n")
            command = command.replace("http://127.0.0.1:8000", url)
            ran = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, check=True
            )
            assert ran.stdout.strip() == shown.strip(), command


def test_the_page_has_the_figures_of_the_last_run() -> None:
    (link,) = set(re.findall(r"bench/results/[\w-]+/", PAGE))
    records = json.loads((ROOT / link / "results.json").read_text())["sections"]["budgets"][
        "records"
    ]
    cases: dict[str, list[Any]] = {}
    for record in records:
        cases.setdefault(record["case"], []).append(record)
    for crash in cases.pop("crash"):
        unused = crash["tokens"] - crash["streamed"]
        seconds = [crash[f"seconds_of_{what}"] for what in ("tokens", "leases", "keys")]
        check_row(
            crash["server"],
            str(crash["streams"]),
            f"{crash['tokens']:,}, {unused:,}",
            f"{seconds[0]:.1f} s",
            str(crash["leases"]),
            f"{seconds[1]:.1f} s",
            f"{seconds[2]:.1f} s",
        )
    for case, ran in cases.items():
        most = " / ".join(f"{each['most_in_a_minute']['model']:.2f}" for each in ran)
        denied = (f"{each['denied']:,}, {each['denied_without_need']:,}" for each in ran)
        check_row(case, most, " / ".join(denied))

"""A proxy in front of a language model that keeps budgets for API keys, teams and models.

It belongs to docs/token-budgets.md. In a checkout with ``pip install '.[server]'``, this starts it:

    LIMITER_STORE=redis://127.0.0.1:6379/0 uvicorn --factory docs.token_budgets:create_app
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from docs.stand_in import StandIn
from limiter import AsyncLimiter, Concurrency, RateLimited, SlidingWindow, StoreUnavailable


class Budget(NamedTuple):
    """The limits of one subject."""

    requests: int  # a minute
    tokens: int  # a minute, of prompts and answers together
    streams: int  # in flight


BUDGETS = {
    "key": Budget(requests=60, tokens=20_000, streams=4),
    "team": Budget(requests=300, tokens=60_000, streams=12),
    "model": Budget(requests=1_000, tokens=200_000, streams=50),
}
#: The team of each API key, and the models; a real proxy reads them from its database.
TEAMS = {"key-ann": "blue", "key-bob": "blue", "key-eve": "green"}
MODELS = {"small"}
#: The longest answer in tokens, and that of requests which do not say.
MOST_TOKENS, USUAL_TOKENS = 32_000, 1_000

#: Send a request to a model: entering it waits for the status, and yields the lines of the answer.
AskModel = Callable[[dict[str, Any]], AbstractAsyncContextManager[AsyncIterator[str]]]


def tokens_in(text: str) -> int:
    """Return about how many tokens a text has: one for four characters of English."""
    return math.ceil(len(text) / 4)


def prompt_tokens(body: dict[str, Any]) -> int:
    """Return about how many tokens the messages of a request have."""
    return sum(tokens_in(str(message["content"])) for message in body["messages"])


def most_tokens(body: dict[str, Any]) -> int:
    """Estimate a request by the most that it can use: the model keeps to ``max_tokens``."""
    return prompt_tokens(body) + int(body["max_tokens"])


class Usage:
    """The tokens of one request: counted while it streams, then what the model reports."""

    def __init__(self, prompt: int) -> None:
        self.tokens = prompt

    async def count(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        """Pass on the lines of a stream of events."""
        async for line in lines:
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                for choice in event["choices"]:
                    self.tokens += tokens_in(choice["delta"].get("content") or "")
                if event.get("usage"):
                    self.tokens = event["usage"]["total_tokens"]
            yield f"{line}\n"


class Proxy:
    """The ASGI application: it reserves, streams, and settles."""

    def __init__(
        self,
        store: str,
        ask_model: AskModel,
        estimate: Callable[[dict[str, Any]], int] = most_tokens,
        budgets: Mapping[str, Budget] = BUDGETS,
        minute: float = 60,
        timeout: float = 1,
    ) -> None:
        self.ask_model, self.estimate = ask_model, estimate
        self.streams = {
            kind: Concurrency(budget.streams, lease=minute / 2, name="streams")
            for kind, budget in budgets.items()
        }
        self.rates = {
            kind: (
                SlidingWindow(budget.requests, per=minute, name="requests"),
                SlidingWindow(budget.tokens, per=minute, name="tokens"),
            )
            for kind, budget in budgets.items()
        }
        self.in_flight = AsyncLimiter(
            self.streams["key"], store=store, name="llm-streams", timeout=timeout
        )
        self.budget = AsyncLimiter(
            self.rates["key"], store=store, name="llm", timeout=timeout, cap=True
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors become responses in Starlette."""
        body, subjects = await read(Request(scope, receive))
        cost, usage = (1, self.estimate(body)), Usage(prompt_tokens(body))
        items = [(subject, cost, self.rates[subject[0]]) for subject in subjects]
        try:
            async with AsyncExitStack() as stack:
                for subject in subjects:
                    place = self.in_flight.hold(subject, limits=self.streams[subject[0]])
                    await stack.enter_async_context(place)
                reserved = await stack.enter_async_context(self.budget.reserve_all(items))
                lines = await stack.enter_async_context(self.ask_model(body))
                answer = StreamingResponse(usage.count(lines), media_type="text/event-stream")
                try:
                    await answer(scope, receive, send)
                finally:
                    await reserved.settle([(1, usage.tokens)] * len(items))
        except RateLimited as denied:
            again = str(math.ceil(denied.decision.retry_after))
            why = f"too many {denied.decision.policy.name}"
            raise HTTPException(429, why, {"Retry-After": again}) from denied
        except StoreUnavailable as error:
            raise HTTPException(503, "the budgets cannot be read") from error


async def read(request: Request) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the request to the model, and the subjects that pay for it."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if key not in TEAMS:
        raise HTTPException(401, "the API key is unknown")
    try:
        body = await request.json()
        wanted = int(body.get("max_tokens", USUAL_TOKENS))
        body |= {"max_tokens": max(1, min(wanted, MOST_TOKENS)), "n": 1, "stream": True}
        body |= {"stream_options": {"include_usage": True}}  # the last event then has the usage
        prompt_tokens(body)
        known = body["model"] in MODELS
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise HTTPException(400, "the body is no request to a model") from error
    if not known:
        raise HTTPException(404, "there is no such model")
    return body, [("key", key), ("team", TEAMS[key]), ("model", body["model"])]


def application(proxy: Proxy) -> Starlette:
    """Make the application, which connects and disconnects the proxy's limiters."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with proxy.in_flight, proxy.budget:
            yield

    return Starlette(
        routes=[Route("/v1/chat/completions", proxy, methods=["POST"])], lifespan=lifespan
    )


def create_app() -> Starlette:
    """Make the application with the stand-in for a model."""
    return application(Proxy(os.environ["LIMITER_STORE"], StandIn().ask))

"""A stand-in for a language model, for docs/token-budgets.md and its tests."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.exceptions import HTTPException


class StandIn:
    """Streams answers as an OpenAI-compatible server does.

    The last message decides what happens: "write 300 tokens", "write 300 tokens, break after 100", or
    "refuse".
    """

    def __init__(self, pause: float = 0.05, each: int = 10) -> None:
        self._pause = pause
        """Seconds before each event."""
        self._each = each
        """Tokens in an event."""

    @asynccontextmanager
    async def ask(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[str]]:
        """Send a request; yield the lines of the answer."""
        words = body["messages"][-1]["content"]
        if words == "refuse":
            raise HTTPException(502, "the model refuses the request")
        tokens, *breaks = map(int, re.findall(r"\d+", words))
        prompt = sum(math.ceil(len(message["content"]) / 4) for message in body["messages"])
        yield self._lines(prompt, min(tokens, body["max_tokens"]), breaks)

    async def _lines(self, prompt: int, tokens: int, breaks: list[int]) -> AsyncIterator[str]:
        for sent in range(0, tokens, self._each):
            if breaks and sent >= breaks[0]:
                raise ConnectionError("the model closed the connection")
            await asyncio.sleep(self._pause)
            text = "word" * min(self._each, tokens - sent)
            yield f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}"
            yield ""
        yield f"data: {json.dumps({'choices': [], 'usage': {'total_tokens': prompt + tokens}})}"
        yield ""
        yield "data: [DONE]"
        yield ""

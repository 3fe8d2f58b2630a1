"""The proxy of docs/token-budgets.md with short minutes.

``LIMITER_STORE`` is the store, and ``BUDGET`` the numbers in JSON: those of ``Numbers``.
"""

from __future__ import annotations

import json
import os
from operator import itemgetter
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from docs import token_budgets
from docs.stand_in import StandIn
from docs.token_budgets import Budget, Proxy, application

#: API keys, and their teams.
KEYS = {f"key-{number}": f"team-{number % 4}" for number in range(20)}
MODEL = "small"


class Numbers(NamedTuple):
    """The numbers of a run. A team has half of the model's tokens, and a key a tenth."""

    minute: float
    """Seconds that stand for a minute."""
    tokens: int
    """The model's tokens in a minute."""
    streams: int
    """The model's requests in flight."""
    pause: float
    """Seconds before each event of a stream."""
    each: int
    """Tokens in an event."""

    def limit(self, kind: str) -> int:
        """Return the tokens of a minute."""
        return self.tokens // {"key": 10, "team": 2, "model": 1}[kind]

    def proxy(self, store: str) -> Proxy:
        """Make the proxy; a request says itself how it is estimated."""
        token_budgets.TEAMS.update(KEYS)
        budgets = {
            kind: Budget(1_000_000, self.limit(kind), self.streams)
            for kind in ("key", "team", "model")
        }
        model = StandIn(self.pause, self.each)
        estimate = itemgetter("estimate")
        return Proxy(store, model.ask, estimate, budgets, self.minute, timeout=5)


def create_app() -> Starlette:
    """Make the application of the environment."""
    numbers = Numbers(*json.loads(os.environ["BUDGET"]))
    app = application(numbers.proxy(os.environ["LIMITER_STORE"]))
    app.add_route("/healthz", _healthz)
    return app


async def _healthz(_: Request) -> Response:
    return Response()

"""Each kind of middleware, and applications with limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from limiter import FixedWindow, LeakyBucket
from tests.web.support import MEMORY, Asgi, Wsgi


@pytest.fixture(params=[Wsgi, Asgi])
def web(request: pytest.FixtureRequest) -> Iterator[Wsgi]:
    """Each kind of middleware."""
    adapter = request.param()
    yield adapter
    adapter.close()


@pytest.fixture
def make(web: Wsgi) -> Callable[..., Any]:
    """Make an application with limits, by default in memory."""

    def make(limits: Any = "5/minute", app: Any = None, **more: Any) -> Any:
        if isinstance(limits, (str, FixedWindow, LeakyBucket)):
            more.setdefault("store", MEMORY)
        return web.middleware(app or web.application(), limits, **more)

    return make

"""Limiters that are closed after the test, and servers that a test may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from limiter import Limiter
from limiter.demo.servers import Cluster, Server
from tests.proxy import Proxy
from tests.transport.support import PLENTY

MakeLimiter = Callable[..., Limiter]
MakeServer = Callable[..., Server]


@pytest.fixture
def make_limiter() -> Iterator[MakeLimiter]:
    """Make a limiter that is closed in the end; its deadline forgives a busy machine."""
    with ExitStack() as stack:

        def make(store: Any, limits: Any = PLENTY, **settings: Any) -> Limiter:
            limiter = Limiter(limits, store=store, **{"timeout": 2.0, **settings})
            stack.callback(limiter.close)
            return limiter

        yield make


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    """Start a server of the test's own."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(Server(*arguments, **settings))


@pytest.fixture
def own(make_server: MakeServer) -> Server:
    """A server that this test may break."""
    return make_server()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy before the shared server."""
    with Proxy((server.host, server.port)) as running:
        yield running


@pytest.fixture(scope="package")
def fragile() -> Iterator[Cluster]:
    """Three primaries, each with a replica, for tests that kill some; each brings them back."""
    with Cluster(3, replicas=1) as running:
        yield running

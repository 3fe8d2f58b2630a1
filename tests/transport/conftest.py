"""Limiters that are closed after the test, and servers that a test may break."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from limiter import Limiter
from service.demo.servers import (
    HOST,
    Certificates,
    Cluster,
    Server,
)
from tests.topology import Move
from tests.transport.support import PLENTY, LoopLimiter, loops
from tests.waiting import TIMEOUT

MakeLimiter = Callable[..., Limiter]
MakeServer = Callable[..., Server]


@pytest.fixture
def make_limiter() -> Iterator[MakeLimiter]:
    """Make a limiter that is closed after the test; its long deadline is for a busy machine."""
    with ExitStack() as stack:

        def make(store: Any, limits: Any = PLENTY, **settings: Any) -> Limiter:
            limiter = Limiter(limits, store=store, **{"timeout": TIMEOUT, **settings})
            stack.callback(limiter.close)
            return limiter

        yield make


class Maker:
    """Makes limiters of one kind: for threads, or for an event loop, whose calls then wait for it."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self._kind, self._stack = kind, stack
        self.redis: Any = redis if kind == "threads" else redis.asyncio
        """The half of redis-py whose clients they take."""

    def client(self, make: str, *given: Any, **settings: Any) -> Any:
        """A client of that half, made by ``make``."""
        client = attrgetter(make)(self.redis)(*given, **settings)
        if self._kind == "threads":  # the other one connects in an event loop, which it never sees
            self._stack.callback(client.close)
            if isinstance(
                client, redis.RedisCluster
            ):  # its close leaves connections to the collector
                self._stack.callback(client.disconnect_connection_pools)
        return client

    def __call__(self, store: Any, limits: Any = PLENTY, **settings: Any) -> Any:
        """A limiter that is closed after the test."""
        settings = {"timeout": TIMEOUT, **settings}
        if self._kind == "threads":
            limiter = Limiter(limits, store=store, **settings)
            self._stack.callback(limiter.close)
            return limiter
        in_loop = LoopLimiter(self._kind, limits, store, **settings)
        self._stack.callback(in_loop.end)
        return in_loop


@pytest.fixture(params=["threads", *loops()])
def make_any(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """As ``make_limiter``, for threads and for each kind of event loop that is installed."""
    with ExitStack() as stack:
        gc.freeze()  # as in ``in_loop``: the end of each of many loops looks at all younger objects
        stack.callback(gc.unfreeze)
        yield Maker(request.param, stack)


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    """Start a server of the test's own."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(Server(*arguments, **settings))


@pytest.fixture(params=loops())
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of event loop that is installed."""
    return str(request.param)


@pytest.fixture(scope="package")
def fragile() -> Iterator[Cluster]:
    """Three primaries, each with a replica, for tests that kill nodes; each test restarts them."""
    with Cluster(3, replicas=1) as running:
        yield running


@pytest.fixture
def deaf() -> Iterator[str]:
    """A port that accepts no connection and refuses none: its queue is full."""
    with socket.create_server((HOST, 0), backlog=0) as listener, socket.socket() as first:
        first.connect(listener.getsockname())
        second = socket.socket()
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        with second:
            yield f"redis://{HOST}:{listener.getsockname()[1]}"


@pytest.fixture
def move(cluster: Cluster) -> Iterator[Move]:
    """A move of a slot; it is undone after the test."""
    moving = Move(cluster)
    home = moving.source
    yield moving
    if moving.source != home:
        moving.begin()
        moving.keys()
        moving.end()
    moving.stop()
    moving.close()


@pytest.fixture(scope="package")
def guarded() -> Iterator[Cluster]:
    """A cluster with a password."""
    with Cluster(2, password="hush") as running:  # noqa: S106
        yield running


@pytest.fixture(scope="package")
def tls_server(certificates: Certificates, tls_binary: Path) -> Iterator[Server]:
    """A server that accepts TLS only."""
    with Server(tls_binary, tls=certificates, password="hush") as running:  # noqa: S106
        yield running


@pytest.fixture(scope="package")
def tls_cluster(certificates: Certificates, tls_binary: Path) -> Iterator[Cluster]:
    """A cluster that accepts TLS only, also between its nodes."""
    options = ["--tls-cluster", "yes"]
    with Cluster(2, binary=tls_binary, tls=certificates, options=options) as running:
        yield running

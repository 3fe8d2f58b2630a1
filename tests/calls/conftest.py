"""A limiter of each way to call it, on each kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from limiter import Limiter
from limiter.aio import AsyncLimiter
from tests.calls.support import PATIENCE, InLoop, Loop

#: Makes a limiter of the given limits, on the store of the test.
Make = Callable[..., Any]


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    """The event loop of all limiters for coroutines."""
    running = Loop()
    yield running
    running.close()


#: How a limiter is called, and the kind of its store. Replies of Redis are decoded like those of Valkey:
#: one way to call is enough there.
WAYS = ["sync", "async"]
KINDS = [(way, kind) for way in WAYS for kind in ("standalone", "cluster", "memory")]
KINDS.append(("sync", "redis"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of limiters in each way and, unless it has its own stores, on each kind of store."""
    own = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "kind" in metafunc.fixturenames and "kind" not in own:
        metafunc.parametrize(("way", "kind"), KINDS, indirect=True)
    elif "way" in metafunc.fixturenames:
        metafunc.parametrize("way", WAYS, indirect=True)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """How the limiter is called."""
    return str(request.param)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the limiter's store."""
    return str(request.param)


@pytest.fixture
def place(request: pytest.FixtureRequest, kind: str) -> str:
    """The address of the store."""
    if kind == "memory":
        return "memory://"
    fixture = {"standalone": "store", "redis": "redis_store", "cluster": "cluster"}[kind]
    found = request.getfixturevalue(fixture)
    return str(getattr(found, "url", found))


@pytest.fixture
def make_on(way: str, loop: Loop) -> Iterator[Make]:
    """Make a limiter on any store, closed after the test; its long deadline is for a busy machine."""
    with ExitStack() as stack:

        def make(store: Any, limits: Any, **settings: Any) -> Any:
            settings = {"timeout": PATIENCE, **settings}
            if way == "sync":
                limiter: Any = Limiter(limits, store=store, **settings)
            else:
                limiter = InLoop(AsyncLimiter(limits, store=store, **settings), loop)
            stack.callback(limiter.close)
            return limiter

        yield make
    assert not loop.complaints


@pytest.fixture
def make(make_on: Make, place: str) -> Make:
    """Make a limiter on the store of the test."""
    return lambda limits, **settings: make_on(place, limits, **settings)

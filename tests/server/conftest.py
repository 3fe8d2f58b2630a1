"""The decision service, made by LIMITER_*, in an event loop of the test."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limiter.server.app import create_app
from tests.server.client import Running
from tests.transport.support import end_loop, new_loop

#: Makes a service by these LIMITER_*.
Make = Callable[..., Running]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop that runs while a client waits for a response."""
    loop = new_loop("asyncio")
    yield loop
    end_loop(loop)
    gc.unfreeze()


@pytest.fixture
def make_app(
    monkeypatch: pytest.MonkeyPatch,
    store: str,
    new_subject: Callable[[], str],
    loop: asyncio.AbstractEventLoop,
) -> Iterator[Make]:
    """Make a service by these LIMITER_*, on the shared store and under a prefix of its own."""
    prefix = new_subject()
    made: list[Running] = []

    def make(**variables: str) -> Running:
        found = {"STORE": store, "PREFIX": prefix, "TIMEOUT": "5", **variables}
        for variable, value in found.items():
            monkeypatch.setenv(f"LIMITER_{variable}", value)
        made.append(Running(create_app(), loop))
        return made[-1]

    yield make
    for running in made:
        loop.run_until_complete(running.service.close())


@pytest.fixture
def make_by_file(make_app: Make, tmp_path: Path) -> Make:
    """Make a service by the text of a policy file."""

    def make(text: str, **variables: str) -> Running:
        path = tmp_path / "policies.toml"
        path.write_text(text)
        return make_app(POLICIES=str(path), **variables)

    return make

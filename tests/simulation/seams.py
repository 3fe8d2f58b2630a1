"""Where the limiters meet the world: the clock, ``sleep``, sockets, pollers, threads and randomness.

No product code changes for a simulation. The names that modules have imported are replaced while a schedule
runs.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import redis._parsers.hiredis
import redis.connection

from limiter import log_throttle
from limiter.memory import clock
from limiter.memory import store as memory_store
from limiter.transport import async_connection, async_node, connection, node
from tests.simulation.network import Network
from tests.simulation.sockets import SimulatedSelect, SimulatedSocketModule
from tests.simulation.threads import Scheduler, SimulatedThreading
from tests.simulation.world import World

_log = logging.getLogger("limiter")


class _Errors(logging.Handler):
    """Keeps what the library logs as an error: a fault of its own, and none of the store."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line, with its exception."""
        error = record.exc_info[1] if record.exc_info else None
        self.lines.append(f"{record.getMessage()} ({error!r})")


@contextmanager
def simulated(world: World, network: Network, scheduler: Scheduler | None) -> Iterator[list[str]]:
    """Let the library live in the world; the list gets the errors that it logs."""
    replaced: list[tuple[Any, str, Any]] = []

    def replace(holder: Any, name: str, value: Any) -> None:
        replaced.append((holder, name, vars(holder).get(name, _MISSING)))
        setattr(holder, name, value)

    def monotonic() -> float:
        if scheduler is not None:
            scheduler.give_way()
        return world.now

    def sleep(seconds: float) -> None:
        assert scheduler is not None
        scheduler.wait(lambda: False, seconds)

    for module, name in _uses():
        replace(module, name, monotonic if name == "monotonic" else sleep)
    select = SimulatedSelect(network, scheduler)
    for module in (async_connection, connection, redis._parsers.hiredis):
        replace(module, "select", select)
    if scheduler is not None:
        threads = SimulatedThreading(scheduler)
        for name in ("transport.node", "transport.reader", "threads", "thread_core"):
            replace(sys.modules[f"limiter.{name}"], "threading", threads)
        replace(redis.connection, "socket", SimulatedSocketModule(network, scheduler))
    replace(clock, "now_us", lambda: int(world.now * 1_000_000))
    replace(
        memory_store, "time", SimpleNamespace(time_ns=lambda: int(world.now * 1_000_000) * 1_000)
    )
    # Sets of these would have another order in each process.
    for kind in (async_connection.AsyncConnection, async_node.AsyncNode, node.Node):
        replace(kind, "__hash__", lambda _: 1)
    errors = _Errors()
    _log.addHandler(errors)
    propagates, _log.propagate = _log.propagate, False
    state = random.getstate()
    random.seed(world.seed)
    log_throttle.forget()
    try:
        yield errors.lines
    finally:
        random.setstate(state)
        _log.propagate = propagates
        _log.removeHandler(errors)
        for holder, name, value in reversed(replaced):
            if value is _MISSING:
                delattr(holder, name)
            else:
                setattr(holder, name, value)


_MISSING = object()


@cache
def _uses() -> list[tuple[ModuleType, str]]:
    """The imported modules of the library that use ``monotonic`` or ``sleep``, each with the name."""
    names = {"monotonic": time.monotonic, "sleep": time.sleep}
    return [
        (module, name)
        for path, module in sorted(sys.modules.items())
        if path.startswith("limiter.")
        for name, value in names.items()
        if vars(module).get(name) is value
    ]

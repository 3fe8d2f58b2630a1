"""Time of an async decision: one call at a time, and many at once on one connection."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import redis.asyncio

from bench.effort import Effort
from bench.hits import FLOOR, KEY, PROCESSOR, TIMEOUT, against_floor, floor_of, method
from bench.pinning import pinned
from bench.ratios import Chunk, measured
from bench.sections import Section, tabulate
from bench.stores import Program, load, plain_client
from bench.subjects import ALLOWING, DENYING, THREE, Subject
from limiter import AsyncLimiter
from service.demo.servers import Server

ONE = "one at a time"
AT_ONCE = 64
MANY = f"{AT_ONCE} at once"

#: The fewest calls of each task: with fewer, the time to make the tasks would count too.
_LEAST_EACH = 25

Call = Callable[[], Awaitable[object]]


class Case(NamedTuple):
    """One call to measure, in one kind of event loop."""

    name: str
    call: Call
    expected: bool | None = None
    loop: str = "asyncio"


def measure(programs: list[Program], effort: Effort) -> Section:
    """Measure on one server, one hot key and one event loop."""
    section = Section(
        "async",
        "The library for coroutines",
        "Time per decision / time of redis-py's sync `evalsha` of `return 1` (one connection, TCP), "
        f"client and server pinned to one core, one hot key. *{MANY}*: {AT_ONCE} tasks, and each calls "
        f"again when it has its decision. {method(effort)}",
    )
    for program in programs:
        with pinned(), Server(program.path) as server, ExitStack() as stack:
            loops = {kind: stack.enter_context(_loop(kind)) for kind in _kinds()}
            chunks = {
                f"{case.name}, {how}": _chunk(loops[case.loop], case, at_once, server, effort)
                for case in _cases(server, loops, stack)
                for how, at_once in ((ONE, 1), (MANY, AT_ONCE))
            }
            floor = floor_of(server, stack)
            label = f"coroutines on {program.name}"
            measured_ratios = against_floor(label, floor, chunks, [server], effort)
        section.figures[program.name] = measured_ratios.cases
        section.checks[program.name] = measured_ratios.processor
    section.tables = [
        tabulate("Ratio to redis-py's sync `evalsha`", "decision", section.figures, 2),
        tabulate(PROCESSOR, "decision", section.checks, 2),
    ]
    if "uvloop" not in _kinds():
        section.notes.append("uvloop is not installed (`pip install uvloop`).")
    return section


def _kinds() -> list[str]:
    return ["asyncio"] + ["uvloop"] * (importlib.util.find_spec("uvloop") is not None)


@contextmanager
def _loop(kind: str) -> Iterator[asyncio.AbstractEventLoop]:
    loop: asyncio.AbstractEventLoop = importlib.import_module(kind).new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _cases(
    server: Server, loops: dict[str, asyncio.AbstractEventLoop], stack: ExitStack
) -> Iterator[Case]:
    def hit(name: str, subject: Subject, kind: str = "asyncio") -> Call:
        name = f"{name}-{kind}".replace(", ", "-").replace(" ", "-")
        limiter = AsyncLimiter(subject.policies, store=server.url, name=name, timeout=TIMEOUT)
        loop = loops[kind]
        loop.run_until_complete(limiter.open())
        stack.callback(lambda: loop.run_until_complete(limiter.close()))
        loop.run_until_complete(limiter.hit(KEY, subject.taken))
        return partial(limiter.hit, KEY)

    for name in ("fixed_window", "token_bucket", "sliding_log"):
        yield Case(f"{name}: hit, allowed", hit(f"{name}-allowed", ALLOWING[name]), True)
    denied = hit("fixed_window-denied", DENYING["fixed_window"])
    yield Case("fixed_window: hit, denied", denied, False)
    yield Case("three limits: hit, allowed", hit("three", THREE), True)
    if "uvloop" in loops:
        call = hit("fixed_window", ALLOWING["fixed_window"], "uvloop")
        yield Case("fixed_window on uvloop: hit, allowed", call, True, "uvloop")
    for kind in loops:
        where = "" if kind == "asyncio" else f" on {kind}"
        call = _evalsha(server, loops[kind], stack)
        yield Case(f"redis.asyncio{where}: `evalsha` of `return 1`", call, loop=kind)


def _evalsha(server: Server, loop: asyncio.AbstractEventLoop, stack: ExitStack) -> Call:
    client: Any = redis.asyncio.Redis(host=server.host, port=server.port)
    stack.callback(lambda: loop.run_until_complete(client.aclose()))
    with plain_client(server) as plain:
        return partial(client.evalsha, load(plain, FLOOR), 0)


def _chunk(
    loop: asyncio.AbstractEventLoop, case: Case, at_once: int, server: Server, effort: Effort
) -> Chunk:
    each = max(-(-effort.calls // at_once), _LEAST_EACH)

    async def caller() -> object:
        for _ in range(each):
            answer = await case.call()
        return answer

    async def callers() -> object:
        return (await asyncio.gather(*(caller() for _ in range(at_once))))[-1]

    return measured(
        lambda: loop.run_until_complete(callers()), each * at_once, [server], case.expected
    )

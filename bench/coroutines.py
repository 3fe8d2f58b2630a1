"""Time of an async decision: one call at a time, and many at once on one connection."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import redis.asyncio

from bench.against import Cases, Library, Side, calls_of, made
from bench.effort import Effort
from bench.hits import KEY, TIMEOUT, against_floor, floor_of, method, ratio_tables
from bench.pinning import pinned
from bench.ratios import Chunk, measured
from bench.sections import Section
from bench.stores import FLOOR, Program, load, plain_client
from bench.subjects import ALLOWING, DENYING, THREE, Subject
from limiter import AsyncLimiter
from service.demo.servers import Server

AT_ONCE = 64

#: The fewest calls of each task: with fewer, the time to make the tasks would count too.
_LEAST_EACH = 25

Call = Callable[[str], Awaitable[object]]


class Tasks(NamedTuple):
    """The tasks that call at the same time, each again when it has its decision."""

    name: str
    keys: list[str]
    """The key of each task."""


ONE = Tasks("one at a time", [KEY])
MANY = Tasks(f"{AT_ONCE} at once, different keys", [f"user:{task}" for task in range(AT_ONCE)])
HOT = Tasks(f"{AT_ONCE} at once, one key", [KEY] * AT_ONCE)
WARM = Tasks(f"{AT_ONCE} at once, 8 keys", [f"user:{task % 8}" for task in range(AT_ONCE)])

#: The quotient of two cases: what it costs to look for equal calls where there are none.
BY_JOINING = f"fixed_window: hit, allowed, joining on / off, {MANY.name}"
_JOINING = f"fixed_window: hit, allowed, {MANY.name}"
_NOT_JOINING = f"fixed_window: hit, allowed, join=False, {MANY.name}"


def measure(programs: list[Program], effort: Effort, before: Library | None) -> Section:
    """Measure on one server, in one event loop of each kind."""
    section = Section(
        "async",
        "The library for coroutines",
        "Time per decision / time of redis-py's sync `evalsha` of `return 1` (one connection, TCP), "
        f"client and server pinned to one core. *{AT_ONCE} at once*: {AT_ONCE} tasks, and each calls "
        f"again when it has its decision. {method(effort)}",
    )
    for program in programs:
        with pinned(), Server(program.path) as server, ExitStack() as stack:
            side = Side.here([server.url], [server])
            now = made(cases(side, effort, stack)) | _peers(server, effort, stack)
            other = calls_of(before, "async", side, effort, stack, section.notes)
            floor = floor_of(server, effort, stack)
            measured = against_floor(f"coroutines on {program.name}", floor, now, effort, other)
        measured.divide(BY_JOINING, _JOINING, _NOT_JOINING)
        measured.record(section, program.name)
    section.tables = ratio_tables(section)
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


def loops(stack: ExitStack) -> dict[str, asyncio.AbstractEventLoop]:
    """Make an event loop of each kind."""
    return {kind: stack.enter_context(_loop(kind)) for kind in _kinds()}


def cases(side: Side, effort: Effort, stack: ExitStack) -> Cases:
    """Return the library's cases."""
    loop_of = loops(stack)
    numbers = itertools.count()

    def hit(subject: Subject, expected: bool, tasks: Tasks, kind: str, **settings: Any) -> Chunk:
        settings |= {"store": side.stores[0], "name": f"{side.name}-{next(numbers)}"}
        limiter = AsyncLimiter(subject.policies, timeout=TIMEOUT, **settings)
        loop = loop_of[kind]
        loop.run_until_complete(limiter.open())
        stack.callback(lambda: loop.run_until_complete(limiter.close()))
        for key in dict.fromkeys(tasks.keys):
            loop.run_until_complete(limiter.hit(key, subject.taken))
        return _chunk(loop, limiter.hit, tasks, side.pids, effort, expected)

    calls: dict[str, tuple[Subject, bool, str]] = {
        **{
            f"{name}: hit, allowed": (ALLOWING[name], True, "asyncio")
            for name in ("fixed_window", "token_bucket", "sliding_log")
        },
        "fixed_window: hit, denied": (DENYING["fixed_window"], False, "asyncio"),
        "three limits: hit, allowed": (THREE, True, "asyncio"),
    }
    if "uvloop" in loop_of:
        calls["fixed_window on uvloop: hit, allowed"] = (ALLOWING["fixed_window"], True, "uvloop")
        calls["three limits on uvloop: hit, allowed"] = (THREE, True, "uvloop")
    return {
        **{
            f"{name}, {tasks.name}": partial(hit, subject, expected, tasks, kind)
            for name, (subject, expected, kind) in calls.items()
            for tasks in ((ONE, MANY, WARM, HOT) if "fixed_window" in name else (ONE, MANY))
        },
        _NOT_JOINING: partial(hit, ALLOWING["fixed_window"], True, MANY, "asyncio", join=False),
    }


def _peers(server: Server, effort: Effort, stack: ExitStack) -> dict[str, Chunk]:
    chunks = {}
    for kind, loop in loops(stack).items():
        where = "" if kind == "asyncio" else f" on {kind}"
        call = _evalsha(server, loop, stack)
        for tasks in (ONE, MANY):
            # `return 1` has no key, so only the number of tasks matters.
            name = f"redis.asyncio{where}: `evalsha` of `return 1`, {tasks.name.split(',')[0]}"
            chunks[name] = _chunk(loop, call, tasks, [server.pid], effort)
    return chunks


def _evalsha(server: Server, loop: asyncio.AbstractEventLoop, stack: ExitStack) -> Call:
    client: Any = redis.asyncio.Redis(host=server.host, port=server.port)
    stack.callback(lambda: loop.run_until_complete(client.aclose()))
    with plain_client(server) as plain:
        sha = load(plain, FLOOR)
    return lambda _: client.evalsha(sha, 0)


def _chunk(
    loop: asyncio.AbstractEventLoop,
    call: Call,
    tasks: Tasks,
    pids: Collection[int],
    effort: Effort,
    expected: bool | None = None,
) -> Chunk:
    at_once = len(tasks.keys)
    each = max(-(-effort.calls // at_once), _LEAST_EACH)

    async def caller(key: str) -> object:
        for _ in range(each):
            answer = await call(key)
        return answer

    async def callers() -> object:
        return (await asyncio.gather(*map(caller, tasks.keys)))[-1]

    return measured(lambda: loop.run_until_complete(callers()), each * at_once, pids, expected)

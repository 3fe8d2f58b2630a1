"""What the denial cache, prepaid units and joined calls save, by the number of keys that are hit."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from typing import Any

from bench import coroutine_rates, threads
from bench.coroutines import loops
from bench.effort import Effort
from bench.hits import TIMEOUT
from bench.pinning import apart
from bench.rates import Runs, curves, measure
from bench.sections import Section
from bench.stores import Program
from bench.subjects import ALLOWING, DENYING, Subject
from limiter import AsyncLimiter, Limiter
from service.demo.servers import Server

TASKS = 64

_OPEN, _USED_UP = ALLOWING["fixed_window"], DENYING["fixed_window"]
_PREPAID: dict[str, Any] = {"prepaid": 100}
_CACHED: dict[str, Any] = {"denial_cache": 1.0}
#: The subject and the settings of each line; those of a means follow the line without it.
THREADS: dict[str, tuple[Subject, dict[str, Any]]] = {
    "a thread, allowed": (_OPEN, {}),
    "a thread, prepaid units": (_OPEN, _PREPAID),
    "a thread, denied": (_USED_UP, {}),
    "a thread, denied by the cache": (_USED_UP, _CACHED),
}
COROUTINES: dict[str, tuple[Subject, dict[str, Any]]] = {
    f"{TASKS} tasks, allowed": (_OPEN, {"join": False}),
    f"{TASKS} tasks, joined": (_OPEN, {}),
    f"{TASKS} tasks, prepaid units": (_OPEN, {"join": False, **_PREPAID}),
    f"{TASKS} tasks, denied": (_USED_UP, {"join": False}),
    f"{TASKS} tasks, denied by the cache": (_USED_UP, {"join": False, **_CACHED}),
}


def measure_keys(programs: list[Program], effort: Effort) -> Section:
    """Measure one thread that hits keys in turn, and tasks that share the keys."""
    section = Section(
        "keys",
        "Hot keys",
        "The calls go to as many keys as the table says: of a thread in turn, and of "
        f"{TASKS} tasks each with one key. Lines differ in one setting: `prepaid=100`, "
        "`denial_cache=1.0`, or `join` (for coroutines it is on by default, and off in the other lines). "
        f"The process has one core, and the server another. A run has {effort.run_calls:,} calls, and the "
        f"figure is the median of {effort.rounds} runs, in random order.",
        curves=curves("keys", "Decisions a second", "keys"),
    )
    for program in programs:
        with Server(program.path) as server, ExitStack() as stack:
            runs = _of_threads(server, effort, stack) | _of_coroutines(server, effort, stack)
            with apart([server.pid]):
                measure(section, program.name, f"keys on {program.name}", runs, effort.rounds)
    return section


def _of_threads(server: Server, effort: Effort, stack: ExitStack) -> Runs:
    runs: Runs = {}
    for number, (name, (subject, settings)) in enumerate(THREADS.items()):
        named: dict[str, Any] = {
            "name": f"threads-{number}",
            "store": server.url,
            "timeout": TIMEOUT,
        }
        limiter = stack.enter_context(Limiter(subject.policies, **named, **settings))
        for key in _keys(max(effort.keys)):
            limiter.hit(key, subject.taken)
        runs[name] = {
            keys: partial(
                threads.run,
                partial(_next, limiter, cycle(_keys(keys))),
                [""],
                effort.run_calls,
                [server.pid],
                subject is _OPEN,
            )
            for keys in effort.keys
        }
    return runs


def _of_coroutines(server: Server, effort: Effort, stack: ExitStack) -> Runs:
    runs: Runs = {}
    loop = loops(stack)["asyncio"]
    for number, (name, (subject, settings)) in enumerate(COROUTINES.items()):
        named: dict[str, Any] = {"name": f"tasks-{number}", "store": server.url, "timeout": TIMEOUT}
        limiter = AsyncLimiter(subject.policies, **named, **settings)
        stack.callback(coroutine_rates.ended, loop, limiter.close)
        for key in _keys(max(effort.keys)):
            loop.run_until_complete(limiter.hit(key, subject.taken))
        runs[name] = {
            keys: partial(
                coroutine_rates.run,
                loop,
                limiter.hit,
                list(islice(cycle(_keys(keys)), TASKS)),
                effort.run_calls,
                [server.pid],
                subject is _OPEN,
            )
            for keys in effort.keys
        }
    return runs


def _keys(count: int) -> list[str]:
    return [f"user:{number}" for number in range(count)]


def _next(limiter: Limiter, keys: Any, _: str) -> object:
    return limiter.hit(next(keys))

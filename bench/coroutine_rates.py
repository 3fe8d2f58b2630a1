"""Decisions a second of coroutines in one event loop, beside other libraries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any

from bench import peers
from bench.coroutines import loops
from bench.effort import Effort
from bench.hits import KEY, TIMEOUT
from bench.pinning import apart
from bench.rates import Meter, Rate, Runs, curves, measure
from bench.sections import Failed, Section
from bench.stores import Program
from bench.subjects import ALLOWING
from limiter import AsyncLimiter
from service.demo.servers import Server

DIFFERENT = "`AsyncLimiter.hit`, a key for each task"
HOT = "`AsyncLimiter.hit`, one key, joined"


def measure_coroutines(programs: list[Program], effort: Effort) -> Section:
    """Measure tasks that each call again when they have their decision."""
    section = Section(
        "coroutines",
        "Coroutines",
        "Each task calls again when it has its decision. All tasks share one limiter, or one client. The "
        f"process has one core, and the server another. A run has {effort.run_calls:,} calls, and the "
        f"figure is the median of {effort.rounds} runs, in random order.",
        curves=curves("coroutines", "Decisions a second", "tasks"),
        notes=peers.notes(),
    )
    for program in programs:
        with Server(program.path) as server, ExitStack() as stack:
            runs: Runs = {}
            for kind, loop in loops(stack).items():
                closing = AsyncExitStack()
                stack.callback(ended, loop, closing.aclose)
                for name, (hit, hot) in loop.run_until_complete(
                    _calls(server, closing, kind)
                ).items():
                    runs[name] = {
                        tasks: partial(
                            run, loop, hit, _keys(tasks, hot), effort.run_calls, [server.pid]
                        )
                        for tasks in effort.tasks
                    }
            with apart([server.pid]):
                measure(section, program.name, f"tasks on {program.name}", runs, effort.rounds)
    return section


async def _calls(
    server: Server, stack: AsyncExitStack, kind: str
) -> dict[str, tuple[peers.AsyncHit, bool]]:
    """Return calls, and whether all tasks use one key."""
    limiter = AsyncLimiter(ALLOWING["fixed_window"].policies, store=server.url, timeout=TIMEOUT)
    await stack.enter_async_context(limiter)
    if kind != "asyncio":
        return {f"{DIFFERENT}, {kind}": (limiter.hit, False)}
    others = await peers.async_peers(server, stack)
    return {
        DIFFERENT: (limiter.hit, False),
        HOT: (limiter.hit, True),
        **{name: (hit, True) for name, hit in others.items()},
    }


def ended(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close what is in use in a loop."""
    loop.run_until_complete(close())


def _keys(tasks: int, hot: bool) -> list[str]:
    return [KEY] * tasks if hot else [f"user:{task}" for task in range(tasks)]


def run(
    loop: asyncio.AbstractEventLoop,
    hit: peers.AsyncHit,
    keys: Collection[str],
    calls: int,
    pids: Collection[int],
    expected: bool = True,
) -> Rate:
    """Make about ``calls`` calls in all, from one task for each key."""
    each = -(-calls // len(keys))

    async def work(key: str) -> None:
        for _ in range(each):
            result = await hit(key)
        if bool(result) is not expected:
            raise Failed(f"a call was {'denied' if expected else 'allowed'}")

    async def work_all() -> Rate:
        await asyncio.gather(*map(hit, keys))  # makes the connections
        meter = Meter(pids)
        await asyncio.gather(*map(work, keys))
        return meter.stop(each * len(keys))

    return loop.run_until_complete(work_all())

"""Decisions on a cluster of one to three shards: the cost on each side, and how even the shards are."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import Any

from bench import coroutine_rates, threads
from bench.coroutines import loops
from bench.effort import Effort
from bench.hits import TIMEOUT
from bench.pinning import apart
from bench.rates import Runs, curves, measure
from bench.sections import Section, Spread, tabulate
from bench.stores import Program
from bench.subjects import ALLOWING
from limiter import AsyncLimiter, Limiter
from service.demo.servers import Cluster

TASKS = 64
KEYS = [f"user:{number}" for number in range(1_000)]
ONE_THREAD = "`Limiter.hit`, one thread"
MANY_TASKS = f"`AsyncLimiter.hit`, {TASKS} tasks"
BUSIEST = "calls of the busiest shard / mean, with {} shards"


def measure_shards(programs: list[Program], effort: Effort) -> Section:
    """Measure clusters of each size with the same thousand keys."""
    section = Section(
        "shards",
        "Shards of a cluster",
        f"{len(KEYS):,} keys in turn. The process has one core, and all shards share the others, so the "
        "decisions a second of this machine do not grow with the shards. If the processor time of a "
        "decision does not grow either, more machines decide more. "
        f"A run has {effort.run_calls:,} calls, and the figure is the median of {effort.rounds} runs, in "
        "random order.",
        curves=curves("shards", "Decisions a second", "shards"),
    )
    for program in programs:
        with ExitStack() as stack:
            clusters = {
                count: stack.enter_context(Cluster(count, binary=program.path))
                for count in effort.shards
            }
            runs: Runs = {
                ONE_THREAD: {
                    count: _of_a_thread(cluster, effort, stack)
                    for count, cluster in clusters.items()
                },
                MANY_TASKS: {
                    count: _of_tasks(cluster, effort, stack) for count, cluster in clusters.items()
                },
            }
            with apart([node.pid for cluster in clusters.values() for node in cluster.nodes]):
                measure(section, program.name, f"shards of {program.name}", runs, effort.rounds)
            section.figures[program.name] = {
                BUSIEST.format(count): _busiest(cluster)
                for count, cluster in clusters.items()
                if count > 1
            }
    section.tables = [tabulate("How even the shards are", "", section.figures, 2)]
    return section


def _of_a_thread(cluster: Cluster, effort: Effort, stack: ExitStack) -> Any:
    policies = ALLOWING["fixed_window"].policies
    limiter = stack.enter_context(Limiter(policies, store=cluster.url, timeout=TIMEOUT))
    keys = cycle(KEYS)
    pids = [node.pid for node in cluster.nodes]
    return partial(threads.run, lambda _: limiter.hit(next(keys)), [""], effort.run_calls, pids)


def _of_tasks(cluster: Cluster, effort: Effort, stack: ExitStack) -> Any:
    loop = loops(stack)["asyncio"]
    policies = ALLOWING["fixed_window"].policies
    limiter = AsyncLimiter(policies, store=cluster.url, timeout=TIMEOUT)
    loop.run_until_complete(limiter.open())
    stack.callback(coroutine_rates.ended, loop, limiter.close)
    keys = cycle(KEYS)
    pids = [node.pid for node in cluster.nodes]
    return partial(
        coroutine_rates.run,
        loop,
        lambda _: limiter.hit(next(keys)),
        [""] * TASKS,
        effort.run_calls,
        pids,
    )


def _busiest(cluster: Cluster) -> Spread:
    counts = []
    for node in cluster.nodes:
        with node.client() as client:
            stats: Any = client.info("commandstats")
            counts.append(int(stats["cmdstat_evalsha"]["calls"]))
    return Spread.of([max(counts) * len(counts) / sum(counts)])

"""Decisions a second of threads that share one limiter, beside other libraries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial

from bench import peers
from bench.effort import Effort
from bench.hits import KEY, TIMEOUT
from bench.pinning import apart
from bench.rates import Meter, Rate, Runs, curves, measure
from bench.sections import Failed, Section
from bench.stores import Program
from bench.subjects import ALLOWING
from limiter import Limiter
from service.demo.servers import Server

OURS = "`Limiter.hit`, fixed_window"


def measure_threads(programs: list[Program], effort: Effort) -> Section:
    """Measure one hot key, with one limiter or client for all threads."""
    section = Section(
        "threads",
        "Threads",
        "All threads of one process share one limiter, or one client, and hit one key. The process has one "
        f"core, and the server another. A run has {effort.run_calls:,} calls, and the figure is the "
        f"median of {effort.rounds} runs, in random order.",
        curves=curves("threads", "Decisions a second", "threads"),
        notes=peers.notes(),
    )
    for program in programs:
        with Server(program.path) as server, ExitStack() as stack:
            policies = ALLOWING["fixed_window"].policies
            limiter = stack.enter_context(Limiter(policies, store=server.url, timeout=TIMEOUT))
            calls: dict[str, peers.Hit] = {OURS: limiter.hit, **peers.peers(server, stack)}
            runs: Runs = {
                name: {
                    threads: partial(run, hit, [KEY] * threads, effort.run_calls, [server.pid])
                    for threads in effort.threads
                }
                for name, hit in calls.items()
            }
            with apart([server.pid]):
                measure(section, program.name, f"threads on {program.name}", runs, effort.rounds)
    return section


def run(
    hit: peers.Hit,
    keys: Collection[str],
    calls: int,
    pids: Collection[int],
    expected: bool = True,
) -> Rate:
    """Make about ``calls`` calls in all, from one thread for each key."""
    each = -(-calls // len(keys))
    meter = Meter(pids)
    ready = threading.Barrier(len(keys), meter.start)
    failures: list[BaseException] = []

    def work(key: str) -> None:
        try:
            hit(key)  # makes the thread's connection
            ready.wait()
            if _repeated(hit, key, each) is not expected:
                raise Failed(f"a call was {'denied' if expected else 'allowed'}")
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=[key]) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = meter.stop(each * len(keys))
    if failures:
        raise failures[0]
    return rate


def _repeated(hit: Callable[[str], object], key: str, calls: int) -> bool:
    for _ in range(calls):
        result = hit(key)
    return bool(result)

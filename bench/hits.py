"""Time of a sync decision, as a multiple of redis-py's ``evalsha("return 1")``."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import redis

from bench.effort import Effort, progress
from bench.pinning import pinned
from bench.ratios import Chunk, Ratios, ratios, timed
from bench.sections import Section, Spread, tabulate
from bench.stores import Program, load, plain_client
from bench.subjects import ALLOWING, DENYING, THREE, THREE_DENYING, Subject
from limiter import Limiter
from service.demo.servers import Cluster, Server

KEY = "user:42"
CLUSTER_KEYS = 1_000
THREADS = (1, 8, 32, 64)

FLOOR = "return 1"
_PEERS_LIMIT = 100

PROCESSOR = "The same ratio, of the processor's time alone"

#: Long, so that other work on the machine makes a call slow, but does not fail it.
TIMEOUT = 5.0


class Case(NamedTuple):
    """One call to measure."""

    name: str
    call: Callable[[], object]
    expected: bool | None = None


def measure(programs: list[Program], effort: Effort) -> Section:
    """Measure on one server, one connection and one hot key; then with threads."""
    section = Section(
        "hit",
        "The library: one decision",
        "Time per decision / time of redis-py's `evalsha` of `return 1` (sync, one connection, TCP), "
        "client and server pinned to one core, one hot key. "
        f"{method(effort)} `limits` is another library, measured in the same way if it is installed; its "
        "`hit` returns only True or False.",
    )
    floors = {}
    for program in programs:
        with pinned(), Server(program.path) as server, ExitStack() as stack:
            floor = floor_of(server, stack)
            cases = [*_own(server, stack), *_peers(server)]
            measured = _run(f"library on {program.name}", floor, cases, [server], effort)
        section.figures[program.name] = measured.cases
        section.checks[program.name] = measured.processor
        floors[program.name] = {"redis-py's `evalsha`, us": measured.floor}
    section.tables = [
        tabulate("Ratio to redis-py's `evalsha`", "decision", section.figures, 2),
        tabulate(PROCESSOR, "decision", section.checks, 2),
        tabulate("The floor itself (between the deciles)", "", floors, 1),
    ]
    rates = {program.name: _threads(program, effort) for program in programs}
    section.tables.append(tabulate("Threads, unpinned: thousand calls a second", "", rates, 1))
    section.figures |= {f"{name}, threads": figures for name, figures in rates.items()}
    if importlib.util.find_spec("limits") is None:
        section.notes.append("`limits` is not installed (`pip install limits`).")
    return section


def measure_cluster(programs: list[Program], effort: Effort) -> Section:
    """Measure on three nodes with a thousand keys in turn, also with redis-py's cluster client."""
    section = Section(
        "cluster",
        "The library on a cluster",
        f"Three nodes, {CLUSTER_KEYS:,} keys in turn, everything pinned to one core. The floor is "
        f"redis-py's `evalsha` of `return 1` on a single server. {method(effort)}",
    )
    for program in programs:
        with (
            pinned(),
            Server(program.path) as server,
            Cluster(3, binary=program.path) as cluster,
            ExitStack() as stack,
        ):
            floor = floor_of(server, stack)
            cases = _on_cluster(cluster, stack)
            servers = [server, *cluster.nodes]
            measured = _run(f"cluster of {program.name}", floor, cases, servers, effort)
        section.figures[program.name] = measured.cases
        section.checks[program.name] = measured.processor
    section.tables = [
        tabulate("Ratio to redis-py's `evalsha`", "decision", section.figures, 2),
        tabulate(PROCESSOR, "decision", section.checks, 2),
    ]
    return section


def method(effort: Effort) -> str:
    """Describe how the figures are measured."""
    return (
        f"Chunks of {effort.calls} calls, each between two chunks of the floor, {effort.pairs} of "
        f"them in a repetition; the median over {effort.repetitions} repetitions, in an order that "
        "is drawn anew each time; in small print the smallest and the largest."
    )


def _run(
    label: str,
    floor: Callable[[], object],
    cases: list[Case],
    servers: list[Server],
    effort: Effort,
) -> Ratios:
    chunks: dict[str, Chunk] = {
        case.name: timed(case.call, effort.calls, servers, case.expected) for case in cases
    }
    return against_floor(label, floor, chunks, servers, effort)


def against_floor(
    label: str,
    floor: Callable[[], object],
    chunks: dict[str, Chunk],
    servers: list[Server],
    effort: Effort,
) -> Ratios:
    """Measure every chunk as a multiple of the floor."""
    with progress(label, effort.repetitions * len(chunks)) as step:
        return ratios(timed(floor, effort.calls, servers), chunks, effort, step)


def floor_of(server: Server, stack: ExitStack) -> Callable[[], object]:
    """Build the call with which all others are compared."""
    client = stack.enter_context(plain_client(server))
    return partial(client.evalsha, load(client, FLOOR), 0)


def _own(server: Server, stack: ExitStack) -> Iterator[Case]:
    names = itertools.count()

    def limiter(subject: Subject) -> Limiter:
        name = f"bench-{next(names)}"
        made = Limiter(subject.policies, store=server.url, name=name, timeout=TIMEOUT)
        stack.enter_context(made).hit(KEY, subject.taken)
        return made

    for name, subject in ALLOWING.items():
        yield Case(f"{name}: hit, allowed", partial(limiter(subject).hit, KEY), True)
    for name, subject in DENYING.items():
        yield Case(f"{name}: hit, denied", partial(limiter(subject).hit, KEY), False)
    for name in DENYING:
        peeked = limiter(ALLOWING[name])
        peeked.hit(KEY)
        yield Case(f"{name}: peek", partial(peeked.peek, KEY), True)
    yield Case("three limits: hit, allowed", partial(limiter(THREE).hit, KEY), True)
    denying = limiter(THREE_DENYING)
    yield Case("three limits: hit, denied", partial(denying.hit, KEY), False)
    fields = limiter(ALLOWING["fixed_window"])
    many = limiter(ALLOWING["fixed_window"])
    keys = itertools.cycle(f"user:{number}" for number in range(CLUSTER_KEYS))
    name = f"fixed_window: hit, allowed, {CLUSTER_KEYS:,} keys in turn"
    yield Case(name, partial(_next, many.hit, keys), True)
    yield Case("fixed_window: hit, allowed, four fields read", partial(_read, fields), True)


def _read(limiter: Limiter) -> bool:
    """Hit, and read the fields that a web adapter reads: each is computed when it is read."""
    decision = limiter.hit(KEY)
    return decision.allowed and decision.remaining + decision.reset_after > decision.retry_after


def _peers(server: Server) -> Iterator[Case]:
    if importlib.util.find_spec("limits") is None:
        return
    limits: Any = importlib.import_module("limits")
    strategies: Any = importlib.import_module("limits.strategies")
    storage: Any = importlib.import_module("limits.storage")
    store = storage.RedisStorage(f"redis://{server.host}:{server.port}/0")
    for title, strategy in [
        ("fixed window", strategies.FixedWindowRateLimiter(store)),
        ("moving window", strategies.MovingWindowRateLimiter(store)),
    ]:
        ample = limits.RateLimitItemPerYear(100_000, namespace=title)
        spent = limits.RateLimitItemPerYear(_PEERS_LIMIT, namespace=title)
        for _ in range(_PEERS_LIMIT):
            strategy.hit(spent, KEY)
        call = partial(strategy.hit, ample, "another")
        yield Case(f"limits {limits.__version__}, {title}: hit, allowed", call, True)
        call = partial(strategy.hit, spent, KEY)
        yield Case(f"limits {limits.__version__}, {title}: hit, denied", call, False)


def _on_cluster(cluster: Cluster, stack: ExitStack) -> list[Case]:
    keys = [f"user:{number}" for number in range(CLUSTER_KEYS)]
    cases: list[Case] = []
    for name in DENYING:
        policies, taken = ALLOWING[name]
        limiter = Limiter(policies, store=cluster.url, name=name, timeout=TIMEOUT)
        stack.enter_context(limiter)
        for key in keys:
            limiter.hit(key, taken)
        case = Case(f"{name}: hit, allowed", partial(_next, limiter.hit, itertools.cycle(keys)))
        cases.append(case._replace(expected=True))
    node = cluster.nodes[0]
    client = redis.RedisCluster(host=node.host, port=node.port)
    stack.callback(client.close)
    sha = load(client, FLOOR)
    turn = itertools.cycle(keys)
    cases.append(
        Case("redis-py's cluster client: `return 1`", partial(_evalsha, client, sha, turn))
    )
    return cases


def _next(hit: Callable[[str], object], keys: Iterator[str]) -> object:
    return hit(next(keys))


def _evalsha(client: Any, sha: str, keys: Iterator[str]) -> object:
    return client.evalsha(sha, 1, next(keys))


def _threads(program: Program, effort: Effort) -> dict[str, Spread]:
    """Measure the calls a second, in thousands, of threads that share one limiter, or one client."""
    rates_by_name: dict[str, list[float]] = {}
    rounds = min(3, effort.repetitions)
    steps = rounds * len(THREADS) * 2
    with (
        Server(program.path) as server,
        plain_client(server) as client,
        Limiter(ALLOWING["fixed_window"].policies, store=server.url, timeout=TIMEOUT) as limiter,
        progress(f"threads on {program.name}", steps) as step,
    ):
        sha = load(client, FLOOR)
        calls: dict[str, Callable[[], object]] = {
            "`Limiter.hit`, fixed_window": partial(limiter.hit, KEY),
            "redis-py's `evalsha` of `return 1`": partial(client.evalsha, sha, 0),
        }
        for _ in range(rounds):
            for threads in THREADS:
                for name, call in calls.items():
                    rate = _rate(call, threads, effort.thread_calls)
                    rates_by_name.setdefault(f"{name}, {threads} threads", []).append(rate)
                    step()
    ordered = sorted(rates_by_name.items(), key=lambda item: "redis-py" in item[0])
    return {name: Spread.of(rates) for name, rates in ordered}


def _rate(call: Callable[[], object], threads: int, calls: int) -> float:
    each = -(-calls // threads)
    ready = threading.Barrier(threads + 1)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            call()  # makes the thread's connection
            ready.wait()
            for _ in range(each):
                call()
        except BaseException as error:
            failures.append(error)
            ready.abort()

    with _joined([threading.Thread(target=work) for _ in range(threads)]):
        try:
            ready.wait()
        except threading.BrokenBarrierError:
            began = 0.0
        else:
            began = perf_counter()
    if failures:
        raise failures[0]
    return each * threads / (perf_counter() - began) / 1e3


@contextmanager
def _joined(threads: list[threading.Thread]) -> Iterator[None]:
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()

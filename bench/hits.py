"""Time of a sync decision, as a multiple of redis-py's ``evalsha("return 1")``."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from bench import peers
from bench.against import Cases, Library, Side, calls_of, made
from bench.effort import Effort, progress
from bench.pinning import pinned
from bench.ratios import Chunk, Ratios, ratios, timed
from bench.sections import Section, Table, compare, tabulate
from bench.stores import FLOOR, Program, load, plain_client
from bench.subjects import ALLOWING, DENYING, THREE, THREE_DENYING, Subject
from limiter import Limiter
from service.demo.servers import Cluster, Server

KEY = "user:42"
CLUSTER_KEYS = 1_000
KEYS = [f"user:{number}" for number in range(CLUSTER_KEYS)]

_PEERS_LIMIT = 100

PROCESSOR = "The same ratio, of the processor's time alone"

#: Long, so that other work on the machine makes a call slow, but does not fail it.
TIMEOUT = 5.0
HOUR = 3600.0

ALLOWED = "fixed_window: hit, allowed"
WITH_CACHE = "fixed_window: hit, allowed, with a denial cache"
#: The name of a quotient: what the denial cache costs a call that it does not answer.
CACHE_ON_OFF = "fixed_window: hit, allowed: denial cache on / off"
FROM_CACHE = "fixed_window: hit, denied, from the denial cache"
THREE_FROM_CACHE = "three limits: hit, denied, from the denial cache"

#: The setting of the cases with prepaid units, and the end of their names.
PREPAID = 100
WITH_PREPAID = f"hit, allowed, prepaid {PREPAID}"

CLUSTER_CLIENT = "redis-py's cluster client: `return 1`"
#: The end of the name of a quotient: the library / redis-py's cluster client.
BY_CLIENT = ": hit, allowed / redis-py's cluster client"
ONE_NODE = "fixed_window: hit, allowed, one key of the cluster"
SINGLE = "fixed_window: hit, allowed, one key of a single server"
BY_SINGLE = "fixed_window: hit, allowed, one key: cluster / single server"


def measure(programs: list[Program], effort: Effort, before: Library | None) -> Section:
    """Measure on one server, one connection and one hot key."""
    section = Section(
        "hit",
        "The library: one decision",
        "Time per decision / time of redis-py's `evalsha` of `return 1` (sync, one connection, TCP), "
        "client and server pinned to one core, one hot key. "
        "*With a denial cache*, a denial is repeated for up to an hour without a call to the store. "
        f"*Prepaid {PREPAID}*: up to {PREPAID} units are taken in one call, and then spent in the process. "
        f"{method(effort)} limits, throttled-py and pyrate-limiter are other libraries; their calls "
        "return only whether the call passed.",
        notes=peers.notes(),
    )
    floors = {}
    for program in programs:
        with pinned(), Server(program.path) as server, ExitStack() as stack:
            side = Side.here([server.url], [server])
            now = made(cases(side, effort, stack)) | _peers(server, effort, stack)
            other = calls_of(before, "hit", side, effort, stack, section.notes)
            floor = floor_of(server, effort, stack)
            measured = against_floor(f"library on {program.name}", floor, now, effort, other)
        measured.divide(CACHE_ON_OFF, WITH_CACHE, ALLOWED)
        measured.record(section, program.name)
        floors[program.name] = {"redis-py's `evalsha`, us": measured.floor}
    section.tables = ratio_tables(section)
    section.tables.append(tabulate("The floor itself (between the deciles)", "", floors, 1))
    return section


def measure_cluster(programs: list[Program], effort: Effort, before: Library | None) -> Section:
    """Measure on three nodes with a thousand keys in turn, also with redis-py's cluster client."""
    section = Section(
        "cluster",
        "The library on a cluster",
        f"Three nodes, {CLUSTER_KEYS:,} keys in turn, everything pinned to one core. The floor is "
        f"redis-py's `evalsha` of `return 1` on a single server. {method(effort)} *One key*: all calls go "
        "to one node. A quotient of two cases is taken in each repetition.",
    )
    for program in programs:
        with (
            pinned(),
            Server(program.path) as server,
            Cluster(3, binary=program.path) as cluster,
            ExitStack() as stack,
        ):
            servers = [server, *cluster.nodes]
            side = Side.here([cluster.url, server.url], servers)
            now = made(cluster_cases(side, effort, stack))
            now[CLUSTER_CLIENT] = _cluster_client(cluster, servers, effort, stack)
            other = calls_of(before, "cluster", side, effort, stack, section.notes)
            floor = floor_of(server, effort, stack)
            measured = against_floor(f"cluster of {program.name}", floor, now, effort, other)
        for name in DENYING:
            measured.divide(f"{name}{BY_CLIENT}", f"{name}: hit, allowed", CLUSTER_CLIENT)
        measured.divide(BY_SINGLE, ONE_NODE, SINGLE)
        measured.record(section, program.name)
    section.tables = ratio_tables(section)
    return section


def ratio_tables(section: Section) -> list[Table]:
    """Build the tables of a part whose figures are ratios to ``evalsha``."""
    title = "Ratio to redis-py's `evalsha`"
    return [
        compare(f"{title}: before and now", "decision", section.figures, section.compared),
        compare(
            f"{PROCESSOR}: before and now", "decision", section.checks, section.compared_checks
        ),
        tabulate(title, "decision", section.figures, 2),
        tabulate(PROCESSOR, "decision", section.checks, 2),
    ]


def method(effort: Effort) -> str:
    """Describe how the figures are measured."""
    return (
        f"Chunks of {effort.calls} calls, each between two chunks of the floor, {effort.pairs} of "
        f"them in a repetition; the median over {effort.repetitions} repetitions, in an order that "
        "is drawn anew each time; in small print the smallest and the largest."
    )


def against_floor(
    label: str,
    floor: Chunk,
    now: dict[str, Chunk],
    effort: Effort,
    before: dict[str, Chunk],
) -> Ratios:
    """Measure every chunk as a multiple of the floor."""
    with progress(label, effort.repetitions * (len(now) + len(before))) as step:
        return ratios(floor, now, effort, step, before)


def floor_of(server: Server, effort: Effort, stack: ExitStack) -> Chunk:
    """Make the chunk with which all others are compared."""
    client = stack.enter_context(plain_client(server))
    return timed(partial(client.evalsha, load(client, FLOOR), 0), effort.calls, [server.pid])


def cases(side: Side, effort: Effort, stack: ExitStack) -> Cases:
    """Return the library's cases on one server."""
    numbers = itertools.count()

    def limiter(subject: Subject, **settings: Any) -> Limiter:
        name = f"{side.name}-{next(numbers)}"
        settings = {"store": side.stores[0], "name": name, "timeout": TIMEOUT, **settings}
        made = Limiter(subject.policies, **settings)
        stack.enter_context(made).hit(KEY, subject.taken)
        return made

    def chunk(call: Callable[[], object], expected: bool) -> Chunk:
        return timed(call, effort.calls, side.pids, expected)

    def hit(subject: Subject, expected: bool, **settings: Any) -> Chunk:
        return chunk(partial(limiter(subject, **settings).hit, KEY), expected)

    def hit_prepaid(subject: Subject) -> Chunk:
        # A long hold: the chunks of other cases lie between those of this one.
        made = limiter(subject, prepaid=PREPAID, prepaid_hold=HOUR)
        for _ in range(3 * PREPAID):  # until all of them are taken at once
            made.hit(KEY)
        return chunk(partial(made.hit, KEY), True)

    def peek(subject: Subject) -> Chunk:
        peeked = limiter(subject)
        peeked.hit(KEY)
        return chunk(partial(peeked.peek, KEY), True)

    def in_turn() -> Chunk:
        many = limiter(ALLOWING["fixed_window"])
        return chunk(partial(_next, many.hit, itertools.cycle(KEYS)), True)

    def fields_read() -> Chunk:
        return chunk(partial(_read, limiter(ALLOWING["fixed_window"])), True)

    return {
        **{f"{name}: hit, allowed": partial(hit, made, True) for name, made in ALLOWING.items()},
        **{f"{name}: hit, denied": partial(hit, made, False) for name, made in DENYING.items()},
        **{f"{name}: peek": partial(peek, ALLOWING[name]) for name in DENYING},
        "three limits: hit, allowed": partial(hit, THREE, True),
        "three limits: hit, denied": partial(hit, THREE_DENYING, False),
        FROM_CACHE: partial(hit, DENYING["fixed_window"], False, denial_cache=HOUR),
        THREE_FROM_CACHE: partial(hit, THREE_DENYING, False, denial_cache=HOUR),
        WITH_CACHE: partial(hit, ALLOWING["fixed_window"], True, denial_cache=HOUR),
        **{
            f"{name}: {WITH_PREPAID}": partial(hit_prepaid, ALLOWING[name])
            for name in ("fixed_window", "sliding_window", "token_bucket")
        },
        f"fixed_window: hit, allowed, {CLUSTER_KEYS:,} keys in turn": in_turn,
        "fixed_window: hit, allowed, four fields read": fields_read,
    }


def _read(limiter: Limiter) -> bool:
    """Hit, and read the fields that a web adapter reads: each is computed when it is read."""
    decision = limiter.hit(KEY)
    return decision.allowed and decision.remaining + decision.reset_after > decision.retry_after


def _peers(server: Server, effort: Effort, stack: ExitStack) -> dict[str, Chunk]:
    chunks = {
        f"{name}: hit, allowed": timed(partial(hit, KEY), effort.calls, [server.pid], True)
        for name, hit in peers.peers(server, stack).items()
        if not name.startswith(("limits", peers.BARE))
    }
    if importlib.util.find_spec("limits") is not None:
        chunks |= _limits(server, effort)
    return chunks


def _limits(server: Server, effort: Effort) -> dict[str, Chunk]:
    limits: Any = importlib.import_module("limits")
    strategies: Any = importlib.import_module("limits.strategies")
    storage: Any = importlib.import_module("limits.storage")
    store = storage.RedisStorage(f"redis://{server.host}:{server.port}/0")
    chunks = {}
    for title, strategy in [
        ("fixed window", strategies.FixedWindowRateLimiter(store)),
        ("moving window", strategies.MovingWindowRateLimiter(store)),
    ]:
        ample = limits.RateLimitItemPerYear(100_000, namespace=title)
        spent = limits.RateLimitItemPerYear(_PEERS_LIMIT, namespace=title)
        for _ in range(_PEERS_LIMIT):
            strategy.hit(spent, KEY)
        name = f"limits {limits.__version__}, {title}: hit"
        for outcome, item, key in (("allowed", ample, "another"), ("denied", spent, KEY)):
            call = partial(strategy.hit, item, key)
            chunks[f"{name}, {outcome}"] = timed(
                call, effort.calls, [server.pid], outcome == "allowed"
            )
    return chunks


def cluster_cases(side: Side, effort: Effort, stack: ExitStack) -> Cases:
    """Return the library's cases on a cluster, and one on the single server beside it."""
    cluster, single = side.stores

    def hit(algorithm: str, keys: list[str], store: str, label: str) -> Chunk:
        policies, taken = ALLOWING[algorithm]
        name = f"{side.name}-{algorithm}{label}"
        limiter = stack.enter_context(Limiter(policies, store=store, name=name, timeout=TIMEOUT))
        for key in keys:
            limiter.hit(key, taken)
        call = partial(_next, limiter.hit, itertools.cycle(keys))
        return timed(call, effort.calls, side.pids, True)

    return {
        **{f"{name}: hit, allowed": partial(hit, name, KEYS, cluster, "") for name in DENYING},
        ONE_NODE: partial(hit, "fixed_window", [KEY], cluster, "-one"),
        SINGLE: partial(hit, "fixed_window", [KEY], single, "-one"),
    }


def _cluster_client(
    cluster: Cluster, servers: list[Server], effort: Effort, stack: ExitStack
) -> Chunk:
    client = cluster.client(decode_responses=False)
    stack.callback(client.close)
    call = partial(_evalsha, client, load(client, FLOOR), itertools.cycle(KEYS))
    return timed(call, effort.calls, [server.pid for server in servers])


def _next(hit: Callable[[str], object], keys: Iterator[str]) -> object:
    return hit(next(keys))


def _evalsha(client: Any, sha: str, keys: Iterator[str]) -> object:
    return client.evalsha(sha, 1, next(keys))

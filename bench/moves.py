"""How soon calls are decided again after the store has moved, and what that costs the store."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

from bench import busy
from bench.effort import Effort, Step, progress
from bench.load import KINDS, PLENTY, Load
from bench.sections import Failed, Section, Spread, tabulate
from bench.stores import Program
from limiter import TokenBucket
from service.demo.servers import HOST, Cluster, Server, Watched, find_server
from tests import tls
from tests.proxy import Proxy
from tests.topology import TAG, Move, Partition, take_over, until_replicas_are_named
from tests.waiting import until

#: ``socket.getaddrinfo``
LookUp = Callable[..., Any]


class Row(NamedTuple):
    """One event, and the figure that is measured after it."""

    name: str
    most: float
    """The goal."""
    measure: Callable[[Program, str], float]
    """Take a server program and a kind of limiter, and return the figure."""
    kinds: tuple[str, ...] = KINDS
    """The kinds of limiters to measure."""


def measure_moves(programs: list[Program], effort: Effort) -> Section:
    """Measure each row with each server, for threads and for an event loop."""
    section = Section(
        "moves",
        "A store that moves",
        "Real servers on loopback, and proxies that cut connections. Callers call all the time, with the "
        "default settings (a timeout of 0.1 s). *Seconds* end with the first decision of a call that began "
        f"after the event. A figure is the median of {effort.rounds} runs.",
    )
    for program in programs:
        for kind in KINDS:
            column = f"{program.name}, `{kind}`"
            rows = [row for row in ROWS if kind in row.kinds]
            with progress(f"moves of {column}", len(rows) * effort.rounds) as step:
                section.figures[column] = {
                    row.name: Spread.of(
                        [_measured(row, program, kind, step) for _ in range(effort.rounds)]
                    )
                    for row in rows
                }
    section.tables = [tabulate("After an event", "event", section.figures, 2)]
    return section


def _measured(row: Row, program: Program, kind: str, step: Step) -> float:
    value = row.measure(program, kind)
    step()
    return value


def _hit(limiter: Any) -> Any:
    return limiter.hit("user:42")


def _a_primary_dies(program: Program, kind: str) -> float:
    """Kill a primary; the others elect its replica."""
    with Cluster(3, replicas=1, binary=program.path) as cluster:
        primary = cluster.primary_of("user:42")
        replica = cluster.nodes[cluster.nodes.index(primary) + cluster.primaries]
        with Load(kind, cluster.url, _hit) as load, replica.client() as admin:
            load.until_decided()
            primary.kill()
            until(lambda: admin.info("replication")["role"] == "master")
            return load.decided_after(time.monotonic())


def _a_primary_is_cut_off(program: Program, kind: str) -> float:
    """Cut a primary off from its cluster, but not from the client, which has no other connection."""
    with Cluster(3, replicas=1, binary=program.path) as cluster, Partition(cluster) as partition:
        primary = cluster.primary_of("user:42")
        replica = cluster.nodes[cluster.nodes.index(primary) + cluster.primaries]
        store = f"redis+cluster://{HOST}:{primary.port}"
        with Load(kind, store, _hit) as load, primary.client() as admin:
            load.until_decided()
            admin.config_set("cluster-node-timeout", 200)  # it soon sees that it is alone
            partition.cut_off(primary)
            until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "fail")
            take_over(replica)
            return load.decided_after(time.monotonic())


def _all_primaries_die(program: Program, kind: str) -> float:
    """Kill the primaries, the only addresses in the setting; then their replicas take over."""
    with Cluster(3, replicas=1, binary=program.path) as cluster:
        primaries, replicas = cluster.nodes[:3], cluster.nodes[3:]
        until_replicas_are_named(cluster)
        hosts = ",".join(f"{HOST}:{node.port}" for node in primaries)
        with Load(kind, f"redis+cluster://{hosts}", _hit) as load:
            load.until_decided()
            for node in primaries:
                node.kill()
            take_over(*replicas)
            return load.decided_after(time.monotonic())


def _an_operator_fails_over(program: Program, kind: str) -> float:
    """Let a sentinel fail over; the old primary lives, and goes on as a primary for eight seconds."""
    with Watched(binary=program.path) as watched:
        old, new = watched.servers
        with Load(kind, watched.url, _hit) as load, new.client() as admin, old.client() as of_old:
            load.until_decided()
            watched.failover()
            until(lambda: watched.sentinels[0].named(watched.service) == new.port)
            event = time.monotonic()
            admin.config_resetstat()
            until(lambda: "cmdstat_evalsha" in admin.info("commandstats"))
            seconds = time.monotonic() - event
            if of_old.info("replication")["role"] != "master":
                raise Failed("the old primary became a replica too early")
            return seconds


def _a_watched_primary_dies(program: Program, kind: str) -> float:
    """Kill a primary that sentinels watch."""
    with Watched(binary=program.path) as watched, Load(kind, watched.url, _hit) as load:
        old, new = watched.servers
        load.until_decided()
        old.kill()
        until(lambda: any(each.named(watched.service) == new.port for each in watched.sentinels))
        return load.decided_after(time.monotonic())


def _a_sentinel_dies_with_its_primary(program: Program, kind: str) -> float:
    """Stop a primary and the first sentinel: neither closes its connections, as if their machine died."""
    with Watched(binary=program.path) as watched, Load(kind, watched.url, _hit) as load:
        old, new = watched.servers
        first, *others = watched.sentinels
        load.until_decided()
        old.pause()
        first.pause()
        until(lambda: any(each.named(watched.service) == new.port for each in others))
        seconds = load.decided_after(time.monotonic())
        old.resume()
        first.resume()
        return seconds


def _a_replica_at_a_fixed_address(program: Program, kind: str) -> float:
    """Make the server a replica, under some hundred calls a second."""
    with ExitStack() as stack:
        server, primary = (stack.enter_context(Server(program.path)) for _ in range(2))
        proxy = stack.enter_context(Proxy((HOST, server.port)))
        admin = stack.enter_context(server.client())
        load = stack.enter_context(Load(kind, proxy.url, _hit, callers=8, pause=0.02))
        load.until_decided()
        admin.replicaof(HOST, primary.port)
        stack.callback(admin.replicaof, "NO", "ONE")  # a primary does not end before its replicas
        time.sleep(1)  # each caller has replaced its connection once
        made, began = proxy.connections, time.monotonic()
        time.sleep(3)
        return (proxy.connections - made) / (time.monotonic() - began)


def _tls_handshakes_fail(program: Program, kind: str) -> float:
    """Call a server whose certificate is not trusted, and measure the processor's time, calls included."""
    binary = program.path if tls.supports_tls(program.path) else find_server("redis-server")
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        server = stack.enter_context(Server(binary, tls=tls.issue(Path(folder))))
        store = f"rediss://{HOST}:{server.port}"
        stack.enter_context(Load(kind, store, _hit, callers=8, pause=0.02))
        time.sleep(1)  # the SSL context is made once
        worked, began = time.process_time(), time.monotonic()
        time.sleep(3)
        return 100 * (time.process_time() - worked) / (time.monotonic() - began)


def _a_slot_moves(program: Program, kind: str) -> float:
    """Move a slot ten times; new subjects of two limits cannot be decided on either node meanwhile."""
    policies = (*PLENTY, TokenBucket(10**6, per="second"))
    names = itertools.count()

    def hit(limiter: Any) -> Any:
        return limiter.hit(f"user:{next(names)}", tag=TAG)

    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(2, binary=program.path))
        move = Move(cluster)
        stack.callback(move.close)
        load = stack.enter_context(Load(kind, cluster.url, hit, policies=policies, callers=4))
        load.until_decided()
        began = len(load.outcomes)
        for _ in range(10):
            move.begin()
            time.sleep(0.03)
            move.keys()
            move.end()
            load.until_decided()
        outcomes = load.outcomes[began:]
        failed = sum("TRYAGAIN" in str(outcome.error) for outcome in outcomes)
        return 100 * failed / len(outcomes)


def _a_name_server_answers_again(program: Program, kind: str) -> float:
    """Let look-ups hang, as those of a silent name server do, and after a second answer new ones."""
    hang = threading.Event()
    is_silent = True

    def look_up(really: LookUp, *question: Any, **more: Any) -> Any:
        if is_silent:
            hang.wait()
        return really(HOST, *question[1:], **more)

    with Server(program.path) as server, _names(look_up):
        store = f"redis://store.example:{server.port}"
        with Load(kind, store, _hit, callers=4) as load:
            time.sleep(1)
            is_silent, event = False, time.monotonic()
            seconds = load.decided_after(event)
            hang.set()
            return seconds


def _a_first_address_is_a_black_hole(program: Program, kind: str) -> float:
    """Give a name two addresses, of which the first one answers nothing."""
    with Server(program.path) as server, ExitStack() as stack:
        silent = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(2):  # its queue is full
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())

        def look_up(really: LookUp, _host: str, port: int, *rest: Any, **more: Any) -> Any:
            ports = (silent.getsockname()[1], port)
            return [address for each in ports for address in really(HOST, each, *rest, **more)]

        stack.enter_context(_names(look_up))
        event = time.monotonic()
        store = f"redis://store.example:{server.port}"
        return stack.enter_context(Load(kind, store, _hit)).decided_after(event)


@contextmanager
def _names(look_up: Callable[..., Any]) -> Iterator[None]:
    """Look up names of the domain ``example`` by this function, which also gets the system's own."""
    really = socket.getaddrinfo

    def chosen(host: str, *rest: Any, **more: Any) -> Any:
        if host.endswith(".example"):
            return look_up(really, host, *rest, **more)
        return really(host, *rest, **more)

    with mock.patch.object(socket, "getaddrinfo", chosen):
        yield


ROWS = (
    Row("a primary dies: seconds after its replica took over", 1, _a_primary_dies),
    Row("a primary is cut off: seconds after its replica took over", 1, _a_primary_is_cut_off),
    Row("all primaries die: seconds after their replicas took over", 3, _all_primaries_die),
    Row(
        "Sentinel, an operator's failover: seconds after the new name", 0.5, _an_operator_fails_over
    ),
    Row("Sentinel, a primary dies: seconds after the new name", 0.5, _a_watched_primary_dies),
    Row(
        "Sentinel, a machine with a primary and a sentinel dies: seconds after the new name",
        0.5,
        _a_sentinel_dies_with_its_primary,
    ),
    Row("READONLY at a fixed address: connections a second", 2, _a_replica_at_a_fixed_address),
    Row(
        "TLS handshakes fail: % of the time, of an event loop or of a processor",
        5,
        _tls_handshakes_fail,
    ),
    Row("a slot moves: calls of 100 for new subjects that fail with TRYAGAIN", 0, _a_slot_moves),
    Row(
        "a silent name server: seconds after it answers again",
        1,
        _a_name_server_answers_again,
        ("AsyncLimiter",),
    ),
    Row(
        "a silent name server: seconds after it answers again, by threads",
        2.1,
        _a_name_server_answers_again,
        ("Limiter",),
    ),
    Row(
        "a name whose first address is a black hole: seconds",
        0.5,
        _a_first_address_is_a_black_hole,
        ("AsyncLimiter",),
    ),
    Row(
        "a name whose first address is a black hole: seconds, by threads",
        2.1,
        _a_first_address_is_a_black_hole,
        ("Limiter",),
    ),
    Row("a busy machine: calls of 100 admitted by four processes", 2 * busy.LIMIT, busy.admitted),
)

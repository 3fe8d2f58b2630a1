"""The events: each makes a fault of its stage, which its parameter names, and ends it."""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar, get_type_hints

import redis

from bench.stores import scripts_run
from bench.survive import busy, stages
from bench.survive.application import KINDS
from bench.survive.stages import Stage
from service.demo.servers import HOST, Server
from tests.proxy import Proxy, cut, delay, replace, swallow
from tests.topology import take_over
from tests.waiting import until

_Fault = TypeVar("_Fault", bound=Callable[..., None])


class Event(NamedTuple):
    """One event, and the promises about it that differ from event to event."""

    name: str
    group: str
    stage: type[Stage]
    fault: Callable[[Any], None]
    """Make the fault, and end it; it gets the stage."""
    again: float = 1.0
    """Seconds after the store's outage within which every call must be decided again."""
    losses: int = 0
    """How often the store may lose state."""
    most: tuple[tuple[str, float], ...] = ()
    """Goals of more figures: the name, and the largest value."""


EVENTS: list[Event] = []


def _event(name: str, group: str, **promises: Any) -> Callable[[_Fault], _Fault]:
    """Add an event that makes a fault; ``promises`` are those of an Event."""

    def add(fault: _Fault) -> _Fault:
        stage = get_type_hints(fault)["stage"]
        EVENTS.append(Event(name, group, stage, fault, **promises))
        return fault

    return add


#: A handshake whose data was lost is given up after ``connect_timeout``, and then another one begins.
HANDSHAKE = 2.1
#: The figure of the first promise.
SCRIPT_CALLS = "script calls of a decision"


# A call or two may be on its way at the beginning and at the end.
@_event("nothing happens", "none", most=((SCRIPT_CALLS, 1.05),))
def _nothing(stage: stages.Single) -> None:
    """Let nothing happen, and count the script calls of the store."""
    calls = stage.application.calls
    stage.application.look()
    first = len(calls)
    stage.admin.config_resetstat()
    time.sleep(2)
    scripts = scripts_run(stage.admin)
    stage.application.look()
    # A place that was held is also released.
    decisions = sum(1 + (call.held_until > 0) for call in calls[first:])
    stage.extra[SCRIPT_CALLS] = scripts / decisions


# Wire


@_event("each piece of data is 15 ms late", "wire")
def _delayed(stage: stages.Single) -> None:
    stage.proxy.requests = stage.proxy.replies = delay(0.015)
    time.sleep(2)
    stage.proxy.mend()


@_event("each reply is 250 ms late", "wire")
def _delayed_beyond_the_deadline(stage: stages.Single) -> None:
    stage.proxy.replies = delay(0.25)
    time.sleep(2)
    stage.proxy.mend()


@_event("5 % of the pieces are lost and sent again", "wire")
def _lossy(stage: stages.Single) -> None:
    """A lost packet is sent again after 0.2 s, and TCP holds back all that follows it."""
    drawn = random.Random(18)

    def late(data: bytes) -> bytes:
        if drawn.random() < 0.05:
            time.sleep(0.2)  # the delay is the fault
        return data

    with stage.fault():
        stage.proxy.requests = stage.proxy.replies = late
        time.sleep(2)
        stage.proxy.mend()


@_event("nothing passes for a second", "wire", again=HANDSHAKE)
def _black_hole(stage: stages.Single) -> None:
    stage.proxy.requests = stage.proxy.replies = swallow
    time.sleep(1)
    stage.proxy.mend()


@_event("replies are lost for a second", "wire", again=HANDSHAKE)
def _replies_lost(stage: stages.Single) -> None:
    stage.proxy.replies = swallow
    time.sleep(1)
    stage.proxy.mend()


@_event("pieces of 7 bytes", "wire")
def _split(stage: stages.Single) -> None:
    stage.proxy.piece = 7
    time.sleep(2)
    stage.proxy.piece = 0


@_event("all connections are reset, 10 times", "wire")
def _reset(stage: stages.Single) -> None:
    for _ in range(10):
        with stage.cut():
            stage.proxy.cut_all(reset=True)
        time.sleep(0.2)


@_event("all connections are closed, 10 times", "wire")
def _closed(stage: stages.Single) -> None:
    for _ in range(10):
        with stage.cut():
            stage.proxy.cut_all()
        time.sleep(0.2)


@_event("connections end before replies", "wire")
def _cut_after_requests(stage: stages.Single) -> None:
    """The server executes calls, and each connection ends before their replies; later, some of them do.

    Then new connections can be made, so a client that sends calls again would be noticed.
    """
    stage.proxy.replies = cut
    time.sleep(1)
    drawn = random.Random(18)
    with stage.fault():
        stage.proxy.replies = lambda data: cut(data) if drawn.random() < 0.2 else data
        time.sleep(1)
        stage.proxy.mend()


@_event("all connections are half-open", "wire")
def _half_open(stage: stages.Single) -> None:
    with stage.cut():
        stage.proxy.strand_all()
    time.sleep(1)


@_event("garbage in place of replies", "wire")
def _garbage(stage: stages.Single) -> None:
    stage.proxy.replies = replace(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    time.sleep(1)
    stage.proxy.mend()


@_event("connections are refused", "wire")
def _refused(stage: stages.Single) -> None:
    target = stage.proxy.target
    with Proxy(target) as closed:
        stage.proxy.target = (HOST, closed.port)
    with stage.cut():
        stage.proxy.cut_all()  # from now on, each connection ends at once
    time.sleep(1)
    stage.proxy.target = target


# Server


@_event("the server stops for a second", "server")
def _stopped(stage: stages.Single) -> None:
    stage.server.pause()
    time.sleep(1)
    stage.server.resume()


@_event("the server stops for 0.12 s, 8 times", "server")
def _stopped_often(stage: stages.Single) -> None:
    for _ in range(8):
        stage.server.pause()
        time.sleep(0.12)
        stage.server.resume()
        time.sleep(0.12)


@_event("the server is killed, and starts empty", "server", losses=1)
def _restarted(stage: stages.Single) -> None:
    stage.server.kill()
    time.sleep(0.5)
    stage.server.restart()


@_event("SCRIPT FLUSH, 20 times", "server")
def _scripts_flushed(stage: stages.Single) -> None:
    for _ in range(20):
        stage.admin.script_flush()
        time.sleep(0.05)


@_event("CLIENT KILL of all, 10 times", "server")
def _clients_killed(stage: stages.Single) -> None:
    for _ in range(10):
        with stage.cut():
            _kill_clients(stage.admin)
        time.sleep(0.1)


def _kill_clients(admin: redis.Redis) -> None:
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@_event("no memory left (OOM)", "server")
def _out_of_memory(stage: stages.Single) -> None:
    stage.admin.config_set("maxmemory", 1)
    time.sleep(1)
    stage.admin.config_set("maxmemory", 0)


@_event("a script that does not end (BUSY)", "server")
def _busy_script(stage: stages.Single) -> None:
    stage.admin.config_set("busy-reply-threshold", 50)

    def spin() -> None:
        with suppress(redis.RedisError), stage.server.client() as client:
            client.eval("while true do end", 0)

    thread = threading.Thread(target=spin)
    thread.start()
    time.sleep(1)
    until(lambda: _killed(stage.admin))
    thread.join()


def _killed(admin: redis.Redis) -> bool:
    try:
        return bool(admin.script_kill())
    except redis.ResponseError:
        return False


@_event(
    "the server is a replica for a time (READONLY)",
    "server",
    losses=1,
    most=(("connections a second, of a limiter", 2),),
)
def _read_only(stage: stages.Single) -> None:
    """Make the server a replica at its address, and a primary again."""
    with Server(stage.binary) as primary:
        stage.admin.replicaof(HOST, primary.port)
        time.sleep(1)  # each caller has replaced its connection
        made, began = stage.proxy.connections, time.monotonic()
        time.sleep(2)
        made = stage.proxy.connections - made
        by_kind = made / len(stage.kinds)
        stage.extra["connections a second, of a limiter"] = by_kind / (time.monotonic() - began)
        stage.admin.replicaof("NO", "ONE")


@_event(
    "a machine that is too busy",
    "server",
    # What the store admits, and as much by on_error="local".
    most=tuple(
        (f"admitted of {busy.LIMIT} by four processes, {kind}", 2 * busy.LIMIT) for kind in KINDS
    ),
)
def _busy_machine(stage: stages.Single) -> None:
    """Let more processes compute than the machine has processors, and four others call one limit."""
    with stage.fault():
        for kind in stage.kinds:
            stage.extra[f"admitted of {busy.LIMIT} by four processes, {kind}"] = busy.admitted(
                stage.server.url, kind
            )


# Topology


def pair(stage: stages.Clustered, number: int = 0) -> tuple[Server, Server]:
    """Return the nodes that were a shard's primary and replica at the beginning."""
    nodes = stage.cluster.nodes
    return nodes[number], nodes[number + stage.cluster.primaries]


def fail_over(replica: Server) -> None:
    """Let a replica take over in order, with all that its primary has."""
    with replica.client() as client:
        until(lambda: _accepted(client, "CLUSTER FAILOVER"))
        until(lambda: client.info("replication")["role"] == "master")


def _accepted(client: redis.Redis, command: str) -> bool:
    try:
        return bool(client.execute_command(command))
    except redis.ResponseError:
        return False


@_event("cluster: an orderly failover", "topology")
def _ordered_failover(stage: stages.Clustered) -> None:
    fail_over(pair(stage)[1])


@_event("cluster: a primary dies", "topology", losses=1)
def _a_primary_dies(stage: stages.Clustered) -> None:
    primary, replica = pair(stage)
    primary.kill()
    with replica.client() as client:
        until(lambda: client.info("replication")["role"] == "master")


@_event("cluster: a primary is cut off from the others", "topology", losses=1)
def _a_primary_is_cut_off(stage: stages.Partitioned) -> None:
    primary, replica = pair(stage)
    with primary.client() as admin:
        admin.config_set("cluster-node-timeout", 200)  # it soon sees that it is alone
        stage.partition.cut_off(primary)
        until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "fail")
        take_over(replica)
        time.sleep(1)
        stage.partition.heal()
        until(lambda: admin.info("replication")["role"] == "slave")


@_event("cluster: all primaries die, the only known addresses", "topology", again=3, losses=1)
def _all_primaries_die(stage: stages.Primaries) -> None:
    primaries, replicas = stage.cluster.nodes[:3], stage.cluster.nodes[3:]
    for node in primaries:
        node.kill()
    take_over(*replicas)


@_event("cluster: all nodes are replaced", "topology")
def _all_nodes_are_replaced(stage: stages.Clustered) -> None:
    """Fail over to each replica in order, and then take each old primary away."""
    for number in range(3):
        old, new = pair(stage, number)
        fail_over(new)
        until(partial(_is_replica, old))
        old.kill()


def _is_replica(server: Server) -> bool:
    return role(server) == "slave"


def role(server: Server) -> str:
    """Return `master` or `slave`."""
    with server.client() as client:
        return str(client.info("replication")["role"])


@_event("cluster: a slot moves, 10 times", "topology")
def _a_slot_moves(stage: stages.Moving) -> None:
    for _ in range(10):
        with stage.fault():
            stage.move.begin()
            time.sleep(0.03)
            stage.move.keys()
            stage.move.end()


@_event("cluster: a slot moves for half a second", "topology")
def _a_slot_moves_slowly(stage: stages.Moving) -> None:
    """Hold a slot between two nodes, with its keys on both, and then end the move."""
    with stage.fault():
        stage.move.begin()
        time.sleep(0.5)
        stage.move.keys()
        stage.move.end()


@_event(
    "Sentinel: an operator's failover",
    "topology",
    losses=1,
    most=(("seconds until the new primary is used", 0.5),),
)
def _an_operator_fails_over(stage: stages.Sentinels) -> None:
    """The old primary lives, and goes on as a primary for eight seconds."""
    new = stage.watched.servers[1]
    stage.watched.failover()
    stage.until_named(new)
    named = time.monotonic()
    with new.client() as admin:
        admin.config_resetstat()
        until(lambda: "cmdstat_evalsha" in admin.info("commandstats"))
    stage.extra["seconds until the new primary is used"] = time.monotonic() - named


@_event("Sentinel: the primary dies", "topology", losses=1)
def _a_watched_primary_dies(stage: stages.Sentinels) -> None:
    old, new = stage.watched.servers
    old.kill()
    stage.until_named(new)


@_event("Sentinel: a machine with the primary and a sentinel dies", "topology", losses=1)
def _a_sentinel_dies_too(stage: stages.Sentinels) -> None:
    """Stop a primary and the first sentinel: neither closes its connections, as if their machine died."""
    old, new = stage.watched.servers
    first, *others = stage.watched.sentinels
    old.pause()
    first.pause()
    until(lambda: any(each.named(stage.watched.service) == new.port for each in others))
    time.sleep(1)
    first.resume()
    old.resume()


# Clocks


@_event("the clock steps back by 60 s", "clocks")
def _clock_back(stage: stages.Clocked) -> None:
    stage.step(-60)
    time.sleep(5)


@_event("the clock steps back by 0.4 s, 8 times", "clocks")
def _clock_slightly_back(stage: stages.Clocked) -> None:
    for number in range(1, 9):
        stage.step(-0.4 * number)
        time.sleep(0.3)
    time.sleep(1.5)  # the windows that are longer by the last step end


@_event("the clock steps forward by 60 s", "clocks", losses=1)
def _clock_forward(stage: stages.Clocked) -> None:
    stage.step(60)
    time.sleep(2)


# Names


@_event("a silent name server", "names", again=HANDSHAKE)
def _silent_name_server(stage: stages.Named) -> None:
    """The name server is silent while connections exist, and then while they end."""
    with stage.fault():
        stage.application.name(stage.host, None)
        time.sleep(0.5)
        stage.proxy.cut_all()
        time.sleep(1)
        stage.application.name(stage.host, [(HOST, 0)])


@_event("a name's address changes", "names", losses=2)
def _changed_address(stage: stages.Named) -> None:
    """The name leads to another server, and the old one ends."""
    with Server(stage.server.binary) as other:
        stage.application.name(stage.host, [(HOST, other.port)])
        with stage.cut():
            stage.proxy.cut_all()
        time.sleep(1.5)
        stage.application.name(stage.host, [(HOST, stage.proxy.port)])
        with stage.cut():
            other.kill()


@_event("a name's first address answers nothing", "names", again=HANDSHAKE)
def _dead_first_address(stage: stages.BlackHole) -> None:
    with stage.fault():
        stage.proxy.cut_all()
    time.sleep(0.5)


# TLS and passwords


@_event(
    "an expired certificate",
    "TLS and passwords",
    most=(("processor of a limiter, % of a core", 5),),
)
def _expired_certificate(stage: stages.Encrypted) -> None:
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    stage.serve(not_after=yesterday)
    with stage.cut():
        _kill_clients(stage.admin)
    worked, began = stage.application.usage().worked, time.monotonic()
    time.sleep(2)
    worked = (stage.application.usage().worked - worked) / len(stage.kinds)
    stage.extra["processor of a limiter, % of a core"] = 100 * worked / (time.monotonic() - began)
    stage.serve()


@_event("a new certificate, 3 times", "TLS and passwords")
def _rotated_certificate(stage: stages.Encrypted) -> None:
    for _ in range(3):
        stage.serve()
        time.sleep(0.3)
        with stage.cut():
            _kill_clients(stage.admin)
        time.sleep(0.3)


@_event("a new password", "TLS and passwords")
def _rotated_password(stage: stages.Authenticated) -> None:
    """In the order of docs/stores.md: both passwords, then the file, then the new one alone."""
    stage.admin.execute_command("ACL", "SETUSER", "limiter", ">second")
    time.sleep(0.2)
    stage.passwords.write_text("second\n")
    with stage.cut():
        stage.proxy.cut_all()  # connections are made anew
    time.sleep(0.5)
    stage.admin.execute_command("ACL", "SETUSER", "limiter", "<first")
    time.sleep(0.5)


@_event("a wrong password for a second", "TLS and passwords")
def _wrong_password(stage: stages.Authenticated) -> None:
    """In the wrong order: the server has a new password before the file has it."""
    stage.admin.execute_command("ACL", "SETUSER", "limiter", "<first", ">second")
    with stage.cut():
        stage.proxy.cut_all()
    time.sleep(1)
    stage.passwords.write_text("second\n")

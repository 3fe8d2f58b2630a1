"""Slots that move, nodes that die, primaries that change: each call finds its node, and runs once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from redis.crc import key_slot

from limiter import InvalidSetting, Limiter, StoreRefused, StoreUnavailable, TokenBucket
from limiter.transport.redirects import MOST_REDIRECTS, TRYAGAIN_PAUSES
from limiter.transport.slots import REFRESH_EVERY, SlotTable
from limiter.transport.wire import scripts_of
from service.demo.servers import HOST, Cluster, Server
from tests.proxy import Proxy, replace, swallow
from tests.topology import SLOT, TAG, Move, until_all_know
from tests.transport.conftest import MakeLimiter, Maker
from tests.transport.support import (
    BUCKET,
    LOG,
    PLENTY,
    ask_last,
    decides_within,
    outcome,
    slot_table,
    timed,
    until,
    used,
)

#: No token is refilled while a slot moves, however slow the machine is.
SLOW_BUCKET = TokenBucket(1_000, "day")


@pytest.mark.parametrize("policies", [[PLENTY], [LOG], [SLOW_BUCKET], [PLENTY, LOG]], ids=len)
def test_a_slot_that_moved(
    make_any: Maker, cluster: Cluster, move: Move, subject: str, policies: Any
) -> None:
    """MOVED: the call is sent there at once, also without the script; later calls go there directly."""
    limiter = make_any(cluster.url, policies).open()
    least = min(policy.capacity for policy in policies)
    assert limiter.hit(subject, tag=TAG).remaining == least - 1
    move.begin()
    move.keys()
    move.end()
    move.clients[move.source].script_flush()  # where it is now
    assert limiter.hit(subject, tag=TAG).remaining == least - 2
    before = move.clients[move.target].info("commandstats")["cmdstat_evalsha"]["calls"]
    assert limiter.hit(subject, tag=TAG).remaining == least - 3
    after = move.clients[move.target].info("commandstats")["cmdstat_evalsha"]["calls"]
    assert before == after  # no node was asked where the slot is


def test_a_kept_call_whose_slot_moved(make_any: Maker, cluster: Cluster, move: Move) -> None:
    """The call keeps its slot, not its node: it follows MOVED, and then goes there directly."""
    limiter = make_any(cluster.url).open()
    left = limiter.hit(TAG).remaining
    kept = limiter._core.calls[TAG, 1, 0]
    assert kept.slot == SLOT
    for _ in range(2):  # to another node and back
        move.begin()
        move.keys()
        move.end()
        assert limiter.hit(TAG).remaining == left - 1
        before = move.clients[move.target].info("commandstats")["cmdstat_evalsha"]["calls"]
        assert limiter.hit(TAG).remaining == left - 2
        after = move.clients[move.target].info("commandstats")["cmdstat_evalsha"]["calls"]
        assert before == after  # no node was asked where the slot is
        left -= 2
    assert limiter._core.calls[TAG, 1, 0] is kept


@pytest.mark.parametrize("policy", [PLENTY, LOG, BUCKET], ids=lambda policy: policy.algorithm)
def test_a_slot_half_moved(
    make_limiter: MakeLimiter,
    cluster: Cluster,
    move: Move,
    new_subject: Callable[[], str],
    policy: Any,
) -> None:
    """ASK: new subjects are in the new node, old ones in the old one, with the script or without."""
    limiter = make_limiter(cluster.url, policy).open()
    old, new = new_subject(), new_subject()
    limiter.hit(old, tag=TAG)
    move.begin()
    there = move.clients[move.target].execute_command("CLUSTER COUNTKEYSINSLOT", SLOT)
    for flushed in (False, True, False):
        if flushed:
            for client in move.clients:
                client.script_flush()
        assert limiter.hit(new, tag=TAG)
        assert limiter.hit(old, tag=TAG)
    assert limiter.peek(new, tag=TAG).remaining == policy.capacity - 3
    assert limiter.peek(old, tag=TAG).remaining == policy.capacity - 4
    assert move.clients[move.target].execute_command("CLUSTER COUNTKEYSINSLOT", SLOT) == there + 1


@pytest.mark.slow
def test_a_slot_held_half_moved_under_load(
    make_limiter: MakeLimiter, cluster: Cluster, move: Move, subject: str
) -> None:
    """For three seconds, old and new subjects: no error for limiters of one key, and no call is lost."""
    limiters = [make_limiter(cluster.url, policy).open() for policy in (PLENTY, LOG, BUCKET)]
    for limiter in limiters:
        for number in range(0, 20, 2):
            limiter.hit(f"{subject}-{number}", tag=TAG)
    move.begin()
    ended = threading.Event()
    counts: Counter[tuple[int, int]] = Counter()
    errors: list[Exception] = []

    def load(which: int) -> None:
        number = 0
        while not ended.is_set():
            number = (number + 1) % 20
            try:
                assert limiters[which].hit(f"{subject}-{number}", tag=TAG)
            except Exception as error:
                errors.append(error)
                return
            counts[which, number] += 1
            ended.wait(0.001)  # load, but not all of a small machine

    threads = [threading.Thread(target=load, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    ended.wait(3)  # the slot is held: that is the test
    ended.set()
    for thread in threads:
        thread.join()
    assert not errors
    for which, limiter in enumerate(limiters):
        for number in range(20):
            left = limiter.peek(f"{subject}-{number}", tag=TAG).remaining
            charged = counts[which, number] + (number % 2 == 0)
            # Meanwhile a bucket of a day refills a few dozen tokens.
            assert limiter.policies[0].capacity - left in range(max(0, charged - 300), charged + 1)
            if which < 2:
                assert limiter.policies[0].capacity - left == charged


def test_several_keys_wait_for_the_move(
    make_any: Maker, cluster: Cluster, move: Move, new_subject: Callable[[], str]
) -> None:
    """TRYAGAIN for new subjects, until the deadline; old ones are decided at the same time."""
    limiter = make_any(cluster.url, [PLENTY, LOG]).open()
    hasty = make_any(cluster.url, [PLENTY, LOG], timeout=0.2).open()
    allowing = make_any(cluster.url, [PLENTY, LOG], timeout=0.2, on_error="allow").open()
    old, new = new_subject(), new_subject()
    limiter.hit(old, tag=TAG)
    move.begin()
    assert limiter.hit(old, tag=TAG)

    def fails() -> None:
        with pytest.raises(StoreUnavailable, match=r"TRYAGAIN|deadline"):
            hasty.hit(new, tag=TAG)

    # Two keys that do not exist are sent to the new node, where they do not exist either.
    assert timed(fails) >= 0.2 - 3 * TRYAGAIN_PAUSES[-1]
    assert allowing.hit(new, tag=TAG).degraded
    move.keys()
    move.end()
    assert limiter.hit(new, tag=TAG)
    assert limiter.peek(old, tag=TAG).remaining == LOG.limit - 2


def test_a_move_that_ends_meanwhile(
    make_any: Maker, cluster: Cluster, move: Move, subject: str
) -> None:
    """Calls that get TRYAGAIN are sent again, until the move has ended, and are decided."""
    limiter = make_any(cluster.url, [PLENTY, LOG], timeout=5.0).open()
    limiter.hit(subject, tag=TAG)
    move.begin()

    def finish() -> None:
        move.keys()
        move.end()

    ending = threading.Timer(3 * sum(TRYAGAIN_PAUSES), finish)
    ending.start()
    try:
        assert limiter.hit(f"{subject}-new", tag=TAG).remaining == LOG.limit - 1
    finally:
        ending.join()


def test_redirects_in_a_circle(make_any: Maker, cluster: Cluster) -> None:
    """More than three redirects: the cluster is in trouble."""
    with Proxy((HOST, cluster.nodes[0].port)) as proxy:
        limiter = make_any(cluster.url, on_error="deny", timeout=20.0).open()
        key = next(f"u{n}" for n in range(99) if cluster.primary_of(f"u{n}") is cluster.nodes[0])
        slot, table, sent = key_slot(key.encode()), slot_table(limiter), []
        node = table.owners[slot] = table.node_at((HOST, proxy.port))
        redirect = f"-MOVED {slot} {HOST}:{proxy.port}\r\n".encode()

        def redirected(data: bytes) -> bytes:
            if not data.startswith(b"$"):  # the table, or the beginning of a connection
                return data
            sent.append(data)
            return redirect

        assert limiter.hit(key)
        proxy.replies = redirected
        assert limiter.hit(key).degraded
        assert len(sent) == 1 + MOST_REDIRECTS
        redirect = b"-ASK nonsense\r\n"

        def is_refused() -> bool:
            table.owners[slot] = node  # unless the table has just been read again
            return outcome(lambda: limiter.hit(key)) == "StoreRefused"

        until(is_refused)


def test_a_node_that_does_not_know_its_own_name(
    make_any: Maker, move: Move, cluster: Cluster, subject: str
) -> None:
    """A table or redirect without a host means the host to which the command was sent."""
    for client in move.clients:
        client.config_set("cluster-preferred-endpoint-type", "unknown-endpoint")
    try:
        limiter = make_any(cluster.url).open()
        limiter.hit(subject, tag=TAG)
        move.begin()
        assert limiter.hit(f"{subject}-new", tag=TAG)  # ASK
        move.keys()
        move.end()
        assert limiter.hit(subject, tag=TAG).remaining == PLENTY.limit - 2  # MOVED
        assert used(limiter, subject) == 0  # without the tag it is another subject
    finally:
        for client in move.clients:
            client.config_set("cluster-preferred-endpoint-type", "ip")


@pytest.mark.slow
def test_a_dead_primary_stops_its_own_subjects_only(make_limiter: MakeLimiter) -> None:
    """Also if no node knows the script: the other nodes do not need the dead one."""
    with Cluster(3) as cluster:
        limiter = make_limiter(cluster.url, on_error="raise").open()
        keys = [f"u{number}" for number in range(30)]
        for key in keys:
            limiter.hit(key)
        dead = cluster.nodes[1]
        dead.kill()
        for node in cluster.nodes:
            if node is not dead:
                client = node.client()
                client.script_flush()
                client.close()
        for key in keys:
            if cluster.primary_of(key) is dead:
                with pytest.raises(StoreUnavailable):
                    limiter.hit(key)
            else:
                assert limiter.hit(key).remaining == PLENTY.limit - 2
        with pytest.raises(StoreUnavailable):
            limiter.open()
        fresh = make_limiter(cluster.url)
        for key in keys:
            if cluster.primary_of(key) is not dead:
                assert fresh.hit(key)
        _no_storm(limiter, [key for key in keys if cluster.primary_of(key) is dead])
        dead.restart()
        mine = next(key for key in keys if cluster.primary_of(key) is dead)
        decides_within(limiter, mine, 3.0)


def _no_storm(limiter: Limiter, keys: list[str]) -> None:
    """However many calls fail, the table is read at most twice a second."""
    before = limiter._core.transport._table.readings  # type: ignore[attr-defined]
    start = time.monotonic()

    def call_again(_: int) -> int:
        failed = 0
        while time.monotonic() - start < 0.8 or failed < 3:
            failed += outcome(lambda: limiter.hit(keys[0])) == "StoreUnavailable"
        return failed

    with ThreadPool(8) as threads:
        failed = sum(threads.map(call_again, range(8)))
    readings = limiter._core.transport._table.readings - before  # type: ignore[attr-defined]
    assert failed > 10
    assert readings <= 1 + (time.monotonic() - start) / REFRESH_EVERY


def _role(node: Server) -> str:
    client = node.client()
    role = client.info("replication")["role"]
    client.close()
    return str(role)


@pytest.mark.slow
@pytest.mark.parametrize("make_any", ["threads", "asyncio"], indirect=True)
def test_a_failover(make_any: Maker, fragile: Cluster) -> None:
    """The primary dies and its replica takes over: within three seconds of that, calls are decided."""
    limiter = make_any(fragile.url, timeout=0.1).open()
    key = "failover"
    until(lambda: outcome(lambda: limiter.hit(key, cost=7)) == "allow")
    place = fragile.nodes.index(fragile.primary_of(key))
    pair = [fragile.nodes[place], fragile.nodes[place + fragile.primaries]]
    roles = [_role(node) for node in pair]  # an earlier test may have exchanged them
    dead, heir = pair[roles.index("master")], pair[roles.index("slave")]
    client = heir.client()
    dead.kill()
    try:
        # Calls go on all the time, as in production.
        def took_over() -> bool:
            outcome(lambda: limiter.hit(key))
            return bool(client.info("replication")["role"] == "master")

        until(took_over, 20.0)
        decides_within(limiter, key, 3.0)
    finally:
        client.close()
        dead.restart()
        fragile.wait()


def test_a_primary_that_became_a_replica(
    make_limiter: MakeLimiter, make_server: Callable[..., Server]
) -> None:
    """READONLY behind one fixed address: new connections, and no later reply of the old primary."""
    first, second = make_server(), make_server()
    admin = first.client()
    with Proxy((HOST, first.port)) as proxy:
        limiter = make_limiter(proxy.url, timeout=2.0).open()
        connections = [limiter._core.transport._node.take(time.monotonic() + 2) for _ in range(3)]  # type: ignore[attr-defined]
        for connection in connections:
            limiter._core.transport._node.give(connection)  # type: ignore[attr-defined]
        assert limiter.hit("u", cost=5)
        # The name now means another server; the old connections are left open.
        admin.replicaof(HOST, second.port)
        proxy.target = (HOST, second.port)
        assert limiter.hit("u").remaining == PLENTY.limit - 1
        assert [limiter.hit("u").remaining for _ in range(5)] == [
            PLENTY.limit - calls for calls in range(2, 7)
        ]
        # And neither has a primary: both are replicas.
        other = second.client()
        other.replicaof(HOST, first.port)
        with pytest.raises(StoreUnavailable, match="READONLY"):
            limiter.hit("u")
        other.replicaof("NO", "ONE")
        decides_within(limiter, "u", 3.0)
        other.close()
    admin.close()


@pytest.mark.slow
def test_a_planned_failover(make_limiter: MakeLimiter, fragile: Cluster) -> None:
    """CLUSTER FAILOVER under load: nothing is charged twice, and no call is refused."""
    limiter = make_limiter(fragile.url, timeout=1.0).open()
    key = "planned"
    primary = fragile.primary_of(key)
    pair = [primary, fragile.nodes[fragile.nodes.index(primary) + fragile.primaries]]
    clients = [node.client() for node in pair]
    old = next(n for n, c in enumerate(clients) if c.info("replication")["role"] == "master")
    outcomes: Counter[str] = Counter()
    outcomes[outcome(lambda: limiter.hit(key))] += 1
    until_all_know(fragile, pair[old], pair[1 - old])
    clients[1 - old].execute_command("CLUSTER FAILOVER")

    def took_over() -> bool:
        outcomes[outcome(lambda: limiter.hit(key))] += 1
        return bool(clients[1 - old].info("replication")["role"] == "master")

    try:
        until(took_over, 10.0)
        decides_within(limiter, key, 3.0)
        outcomes["allow"] += 1
        assert used(limiter, key) <= sum(outcomes.values())
        assert set(outcomes) <= {"allow", "StoreUnavailable"}
    finally:
        until_all_know(fragile, pair[1 - old], pair[old])
        clients[old].execute_command("CLUSTER FAILOVER")
        until(lambda: clients[old].info("replication")["role"] == "master")
        for client in clients:
            client.close()
        fragile.wait()


def test_silent_nodes_do_not_keep_us_from_the_table(
    make_any: Maker, cluster: Cluster, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first node that knows the table is used, long before the others' deadlines."""
    healthy = cluster.nodes[0].port
    ask_last(healthy, monkeypatch)
    with Proxy((HOST, healthy)) as one, Proxy((HOST, healthy)) as two:
        one.requests = two.requests = swallow
        store = f"redis+cluster://{HOST}:{one.port},{HOST}:{two.port},{HOST}:{healthy}"
        limiter = make_any(store, timeout=0.1, connect_timeout=4.0)
        decides_within(limiter, subject, 3.0)
        make_any(store, connect_timeout=4.0).open()


def test_a_silent_primary_does_not_keep_the_script_from_the_others(
    make_any: Maker, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each primary gets the script, and the error names a primary that did not take it."""
    limiter = make_any(cluster.url, connect_timeout=1.0).open()
    table = slot_table(limiter)
    healthy = table.node_at((HOST, cluster.nodes[0].port))
    client = cluster.nodes[0].client()
    shas = [script.sha for script in scripts_of(limiter.policies)]
    with Proxy((HOST, cluster.nodes[1].port)) as proxy:
        proxy.requests = swallow
        silent = table.node_at((HOST, proxy.port))
        monkeypatch.setattr(SlotTable, "primaries", [silent, healthy])
        client.script_flush()
        with pytest.raises(StoreUnavailable, match=f":{proxy.port}"):
            limiter.open()
    assert all(client.script_exists(*shas))
    client.close()


def test_a_store_that_comes_later(make_any: Maker, own: Server) -> None:
    """A limiter may be made, and used, before its store is up."""
    own.kill()
    limiter = make_any(own.url, on_error="allow", timeout=0.1)
    assert limiter.hit("u").degraded
    own.restart()
    decides_within(limiter, "u", 3.0)


def test_a_cluster_url_without_nodes() -> None:
    """At least one address."""
    with pytest.raises(InvalidSetting):
        Limiter("5/minute", store="redis+cluster://")


@pytest.mark.parametrize(
    "table", [b"+OK\r\n", b"*1\r\n:5\r\n", b"*1\r\n*3\r\n:0\r\n:9\r\n+x\r\n", b"*0\r\n"]
)
def test_a_wrong_slot_table(make_any: Maker, cluster: Cluster, table: bytes) -> None:
    """The reply is not a slot table, or a table without slots."""

    def answer(data: bytes) -> bytes:
        # The node's table begins so; the handshake passes.
        return table if data.startswith(b"*3\r\n*") else data

    with Proxy((HOST, cluster.nodes[0].port)) as proxy:
        proxy.replies = answer
        limiter = make_any(f"redis+cluster://{HOST}:{proxy.port}")
        if table == b"*0\r\n":
            with pytest.raises(StoreUnavailable, match="the cluster has no slots yet"):
                limiter.hit("u")
        else:
            with pytest.raises(StoreRefused, match="answered CLUSTER SLOTS with"):
                limiter.hit("u")


def test_nodes_that_are_gone_are_forgotten(make_any: Maker, cluster: Cluster, subject: str) -> None:
    """A node that no table names any more has no open connection."""
    limiter = make_any(f"redis+cluster://{HOST}:{cluster.nodes[0].port}").open()
    table, slot = slot_table(limiter), key_slot(subject.encode())
    with Proxy((HOST, cluster.primary_of(subject).port)) as proxy:
        table.owners[slot] = table.node_at((HOST, proxy.port))
        assert limiter.hit(subject)
        table.read_at -= REFRESH_EVERY
        limiter.open()
        assert (HOST, proxy.port) not in table.nodes
        until(lambda: limiter.hit(subject) and not proxy._open)


def test_the_table_is_read_again_now_and_then(
    make_any: Maker, cluster: Cluster, subject: str
) -> None:
    """Also if no call shows that the cluster has changed: it may have other replicas."""
    limiter = make_any(cluster.url).open()
    table = slot_table(limiter)
    assert limiter.hit(subject)
    assert table.readings == 1
    table.read_at = table.outdated_at = 0.0
    until(lambda: limiter.hit(subject) and table.readings > 1)
    assert table.outdated_at > time.monotonic()


def test_a_primary_of_a_cluster_that_became_a_replica(
    make_any: Maker, cluster: Cluster, subject: str
) -> None:
    """READONLY: the table is read again, and the call is sent to the new owner, once."""
    limiter = make_any(cluster.url).open()
    table, slot = slot_table(limiter), key_slot(subject.encode())
    with Proxy((HOST, cluster.primary_of(subject).port)) as proxy:
        table.owners[slot] = table.node_at((HOST, proxy.port))
        limiter.hit(subject)  # connects
        table.read_at -= REFRESH_EVERY  # as if it had been read a while ago
        proxy.requests = replace(b"NOTHING\r\n")  # so that it does not run there
        proxy.replies = replace(b"-READONLY You can't write against a read only replica.\r\n")
        assert limiter.hit(subject).remaining == PLENTY.limit - 2
    assert used(limiter, subject) == 2


def test_a_reading_that_outlasts_the_limiter_leaves_no_connection(
    make_limiter: MakeLimiter, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed call began to read the table before ``close``, and the reading connects afterwards."""
    transport: Any = make_limiter(cluster.url)._core.transport
    ask_all, closed = transport._ask_all, threading.Event()

    def ask_later(node: Any, deadline: float) -> Any:
        assert closed.wait(30)
        return ask_all(node, time.monotonic() + 30)

    monkeypatch.setattr(transport, "_ask_all", ask_later)
    transport._refresh()
    transport.close()
    closed.set()
    until(lambda: transport._table.readings == 1)
    until(lambda: not any(node.has_idle for node in transport._table.members()))
    assert transport._table.failure is None

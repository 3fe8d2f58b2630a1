"""Primaries that are cut off, die together, or become replicas: calls find the new primary, and soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool

import pytest

from limiter import Limiter
from limiter.transport.redirects import SEARCH_EVERY
from service.demo.servers import HOST, Cluster, Server
from tests.proxy import Proxy
from tests.topology import Partition, pairs, take_over, until_replicas_are_named
from tests.transport.conftest import Maker
from tests.transport.support import decides_within, outcome
from tests.waiting import until

both = pytest.mark.parametrize("make_any", ["threads", "asyncio"], indirect=True)


@pytest.fixture(scope="module")
def partition(fragile: Cluster) -> Iterator[Partition]:
    """The cluster whose nodes can be cut off from one another."""
    with Partition(fragile) as running:
        yield running


@pytest.mark.slow
@both
def test_a_primary_that_is_cut_off_is_not_believed(
    make_any: Maker, fragile: Cluster, partition: Partition
) -> None:
    """Its own word, that it still has its slots, does not count while other nodes can be asked."""
    key = "cut-off"
    pair = pairs(fragile)[fragile.nodes.index(fragile.primary_of(key))]
    limiter = make_any(f"redis+cluster://{HOST}:{pair.primary.port}", timeout=0.1)
    decides_within(limiter, key, 10.0)  # the only connection leads to that primary
    with pair.primary.client() as client:
        client.config_set("cluster-node-timeout", 200)  # it soon sees that it is alone
        partition.cut_off(pair.primary)
        try:
            take_over(pair.replica)
            until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "fail")
            decides_within(limiter, key, 1.0)
        finally:
            partition.heal()
            client.config_set("cluster-node-timeout", 2000)
            fragile.wait()


@pytest.mark.slow
@both
def test_all_primaries_die(make_any: Maker, fragile: Cluster) -> None:
    """Their replicas take over, of which the setting says nothing: the slot table has named them."""
    until_replicas_are_named(fragile)
    primaries, replicas = zip(*pairs(fragile), strict=True)
    hosts = ",".join(f"{HOST}:{node.port}" for node in primaries)
    limiter = make_any(f"redis+cluster://{hosts}", timeout=0.1).open()
    try:
        for node in primaries:
            node.kill()
        assert outcome(lambda: limiter.hit("u")) == "StoreUnavailable"
        take_over(*replicas)
        decides_within(limiter, "u", 3.0)
    finally:
        for node in primaries:
            node.restart()
        fragile.wait()


@pytest.mark.slow
@both
def test_a_replica_gets_few_new_connections(
    make_any: Maker, make_server: Callable[[], Server]
) -> None:
    """It answers READONLY to every call, and gets two a second, until one of them leads to a primary."""
    first, second = make_server(), make_server()
    with Proxy((HOST, first.port)) as proxy, first.client() as admin:
        limiter = make_any(proxy.url)
        assert limiter.hit("u")
        admin.replicaof(HOST, second.port)
        callers = 8 if isinstance(limiter, Limiter) else 1
        before, began = proxy.connections, time.monotonic()

        def load(_: int) -> int:
            failed = 0
            while time.monotonic() - began < 0.8 or failed <= 20:
                failed += outcome(lambda: limiter.hit("u")) == "StoreUnavailable"
            return failed

        with ThreadPool(callers) as threads:
            failed = sum(threads.map(load, range(callers)))
            made = proxy.connections - before
            assert failed > 20 * callers
            # Every thread has a connection, and has replaced it once.
            assert made <= 2 * callers + 1 + (time.monotonic() - began) / SEARCH_EVERY
            proxy.target = (HOST, second.port)
            decides_within(limiter, "u", SEARCH_EVERY)
            assert all(threads.map(lambda _: limiter.hit("u"), range(callers)))
        admin.replicaof("NO", "ONE")  # a primary does not end before its replicas

"""One call is one command, and one more if the server does not know the script."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import redis

from limiter import Limiter
from limiter.policies import Policy
from service.demo.servers import Cluster, Server
from tests.transport.conftest import MakeLimiter
from tests.transport.support import BUCKET, LOG, ONE_OF_EACH, PLENTY, used

SHAPES: list[list[Policy]] = [*[[policy] for policy in ONE_OF_EACH], [PLENTY, LOG, BUCKET]]


def commands(client: redis.Redis) -> dict[str, int]:
    """How often clients sent each command; the commands of scripts are left out."""
    stats = client.info("commandstats")
    names = ("evalsha", "eval", "script|load", "client|setinfo", "hello", "asking", "cluster|slots")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names}


def counted(client: redis.Redis, call: Callable[[], object]) -> dict[str, int]:
    """The commands that clients sent during a call."""
    before = commands(client)
    call()
    after = commands(client)
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize("policies", SHAPES, ids=lambda shape: f"{len(shape)}")
def test_one_command_for_each_call(
    make_limiter: MakeLimiter, own: Server, policies: list[Policy]
) -> None:
    """Allowed, denied, in part, peek, reset: EVALSHA once, on the ready connection."""
    limiter = make_limiter(own.url, policies).open()
    client = own.client()
    for call in (
        lambda: limiter.hit("u"),
        lambda: limiter.hit("u", cost=limiter._core.plan.most_cost),
        lambda: limiter.hit("u", cost=9, at_least=1),
        lambda: limiter.hit("u", cost=0),
        lambda: limiter.hit("u", tag="t"),
        lambda: limiter.hit(("a", b"b", 3), tag=7),
        lambda: limiter.peek("u"),
        lambda: limiter.reset("u"),
    ):
        assert counted(client, call) == {"evalsha": 1}
    connections = client.info("stats")["total_connections_received"]
    for _ in range(50):
        limiter.hit("u")
    assert client.info("stats")["total_connections_received"] == connections
    client.close()


def test_commands_in_all(make_limiter: MakeLimiter, own: Server) -> None:
    """The server's count of processed commands: the call, the script's own, no other."""
    limiter = make_limiter(own.url).open()
    limiter.hit("u")
    client = own.client()

    def processed() -> int:
        return int(client.info("stats")["total_commands_processed"])

    before = processed()
    between = processed() - before  # the cost of reading the count
    before = processed()
    for _ in range(100):
        limiter.hit("u")
    total = processed() - before - between
    assert total % 100 == 0
    assert total // 100 in (1, 4)  # with or without TIME, HGET and HSET of the script
    client.close()


@pytest.mark.parametrize("policies", SHAPES, ids=lambda shape: f"{len(shape)}")
def test_an_unknown_script_comes_with_the_call(
    make_limiter: MakeLimiter, own: Server, policies: list[Policy]
) -> None:
    """NOSCRIPT proves that nothing ran: EVAL follows on the same connection, then EVALSHA works."""
    limiter = make_limiter(own.url, policies).open()
    client = own.client()
    limiter.hit("u")
    client.script_flush()
    connections = client.info("stats")["total_connections_received"]
    assert counted(client, lambda: limiter.hit("u")) == {"evalsha": 1, "eval": 1}
    assert counted(client, lambda: limiter.hit("u")) == {"evalsha": 1}
    assert client.info("stats")["total_connections_received"] == connections
    assert limiter.peek("u").remaining == min(policy.capacity for policy in policies) - 3
    client.close()


def test_flushed_all_the_time(make_limiter: MakeLimiter, own: Server) -> None:
    """SCRIPT FLUSH every few milliseconds: no error, and every call counts once."""
    limiter = make_limiter(own.url, timeout=10.0).open()
    client = own.client()
    ended = threading.Event()

    def flush() -> None:
        while not ended.wait(0.003):  # often, but not always
            client.script_flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        for _ in range(400):
            limiter.hit("u")
    finally:
        ended.set()
        flusher.join()
    assert used(limiter, "u") == 400
    client.close()


def test_evicted_by_others(make_limiter: MakeLimiter, own: Server) -> None:
    """A server keeps 500 scripts that came by EVAL; after that ours is sent again."""
    limiter = make_limiter(own.url)
    limiter.hit("u")  # not opened: the script came by EVAL
    client = own.client()
    pipeline = client.pipeline(transaction=False)
    for number in range(600):
        pipeline.eval(f"return {number}", 0)
    pipeline.execute()
    assert limiter.hit("u").remaining == PLENTY.limit - 2
    client.close()


def test_open_sends_the_scripts(make_limiter: MakeLimiter, own: Server) -> None:
    """After ``open`` the first call is one command."""
    client = own.client()
    limiter: Limiter = make_limiter(own.url, [PLENTY, LOG])
    assert counted(client, limiter.open)["script|load"] == 1
    assert counted(client, lambda: limiter.hit("u")) == {"evalsha": 1}
    client.close()


def test_one_command_on_a_cluster(
    make_limiter: MakeLimiter, cluster: Cluster, new_subject: Callable[[], str]
) -> None:
    """The call is sent at once to the node that owns the subject."""
    limiter = make_limiter(cluster.url, [PLENTY, LOG]).open()
    clients = [node.client() for node in cluster.nodes]
    keys = [new_subject() for _ in range(30)]
    for key in keys:
        limiter.hit(key)
    before = [commands(client) for client in clients]
    for key in keys:
        limiter.hit(key)
    after = [commands(client) for client in clients]
    added = [
        {name: now[name] - then[name] for name in now if now[name] != then[name]}
        for then, now in zip(before, after, strict=True)
    ]
    assert sum(each.get("evalsha", 0) for each in added) == 30
    assert all(set(each) <= {"evalsha"} for each in added)
    assert len([each for each in added if each]) == 3  # the subjects are spread
    for client in clients:
        client.close()

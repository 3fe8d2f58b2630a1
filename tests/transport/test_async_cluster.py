"""Coroutines on a cluster: slots that move, nodes that die, primaries that change; once each."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from limiter import StoreRefused, StoreUnavailable
from limiter.transport.redirects import MOST_REDIRECTS, TRYAGAIN_PAUSES
from limiter.transport.slots import REFRESH_EVERY, SlotTable
from limiter.transport.wire import script_of
from service.demo.servers import HOST, Cluster, Server
from tests.proxy import Proxy, replace, swallow
from tests.transport.support import (
    LOG,
    PLENTY,
    SLOT,
    TAG,
    Asker,
    Move,
    ask_last,
    decides_soon,
    in_loop,
    soon,
    spent,
)


def table(asker: Asker) -> Any:
    """The table of the running loop."""
    loop_transport: Any = asker.transport._last
    return loop_transport._table


@pytest.mark.parametrize("policies", [[PLENTY], [LOG], [PLENTY, LOG]], ids=len)
def test_a_slot_that_moved(
    cluster: Cluster, move: Move, subject: str, kind: str, policies: Any
) -> None:
    """MOVED: asked there at once, without the script too, and known from then on."""

    async def main() -> None:
        async with Asker(cluster.url, policies) as asker:
            await asker.open()
            least = min(policy.capacity for policy in policies)
            assert (await asker.hit(subject, tag=TAG)).remaining == least - 1
            move.begin()
            move.keys()
            move.end()
            move.clients[move.source].script_flush()  # where it is now
            found = await asyncio.gather(*(asker.hit(subject, tag=TAG) for _ in range(20)))
            assert sorted(each.remaining for each in found) == list(range(least - 21, least - 1))
            before = move.clients[move.target].info("commandstats")["cmdstat_evalsha"]["calls"]
            assert (await asker.hit(subject, tag=TAG)).remaining == least - 22
            after = move.clients[move.target].info("commandstats")["cmdstat_evalsha"]["calls"]
            assert before == after  # nobody asked where it was

    in_loop(main(), kind)


@pytest.mark.parametrize("policy", [PLENTY, LOG], ids=lambda policy: policy.algorithm)
def test_a_slot_half_moved(
    cluster: Cluster, move: Move, new_subject: Callable[[], str], kind: str, policy: Any
) -> None:
    """ASK, for many calls at once: new subjects live in the new place already, old ones in the old."""

    async def main() -> None:
        async with Asker(cluster.url, policy) as asker:
            await asker.open()
            olds = [new_subject() for _ in range(10)]
            news = [new_subject() for _ in range(10)]
            for old in olds:
                await asker.hit(old, tag=TAG)
            move.begin()
            for flushed in (False, True, False):
                if flushed:
                    for client in move.clients:
                        client.script_flush()
                assert all(
                    await asyncio.gather(*(asker.hit(key, tag=TAG) for key in (*olds, *news)))
                )
            for key in (*olds, *news):
                charged = 4 if key in olds else 3
                left = (await asker.ask("peek", key, tag=TAG)).remaining
                assert left == policy.capacity - charged

    in_loop(main(), kind)


def test_cancelled_while_half_moved(
    cluster: Cluster, move: Move, new_subject: Callable[[], str], kind: str
) -> None:
    """An ASKING and its command stay together, whoever gives up: nobody else's call is hurt."""
    draw = random.Random(4)

    async def main() -> None:
        async with Asker(cluster.url, timeout=5.0) as asker:
            await asker.open()
            move.begin()
            keys = [new_subject() for _ in range(10)]
            elsewhere = [new_subject() for _ in range(10)]
            sent: Counter[str] = Counter()
            answered: Counter[str] = Counter()

            async def caller(key: str, tag: str | None) -> None:
                for _ in range(15):
                    sent[key] += 1
                    task = asyncio.ensure_future(asker.hit(key, tag=tag))
                    if tag and draw.random() < 0.5:
                        await asyncio.sleep(draw.choice([0.0, draw.uniform(0.0, 0.002)]))
                        task.cancel()
                    await asyncio.wait([task])
                    if not task.cancelled():
                        answered[key] += 1
                        charged = PLENTY.limit - task.result().remaining
                        assert answered[key] <= charged <= sent[key]

            await asyncio.gather(
                *(caller(key, TAG) for key in keys), *(caller(key, None) for key in elsewhere)
            )
            assert sum(answered.values()) < sum(sent.values())
            for key in elsewhere:
                assert await asker.used(key) == 15

    in_loop(main(), kind)


@pytest.mark.slow
def test_a_slot_that_moves_to_and_fro_under_load(
    cluster: Cluster, move: Move, subject: str, kind: str
) -> None:
    """No error for limiters of one key, and every call counts once."""

    async def main() -> None:
        async with Asker(cluster.url, timeout=5.0) as asker:
            await asker.open()
            counts: Counter[str] = Counter()
            ended = False

            async def load(number: int) -> None:
                while not ended:
                    key = f"{subject}-{number}-{counts.total() % 3}"
                    assert (await asker.hit(key, tag=TAG)).granted == 1
                    counts[key] += 1
                    await asyncio.sleep(0.001)

            async def moves() -> None:
                loop = asyncio.get_running_loop()
                for _ in range(4):
                    for step in (move.begin, move.keys, move.end):
                        await loop.run_in_executor(None, step)
                        await asyncio.sleep(0.2)

            callers = [asyncio.ensure_future(load(number)) for number in range(16)]
            await moves()
            ended = True
            await asyncio.gather(*callers)
            for key, count in counts.items():
                left = (await asker.ask("peek", key, tag=TAG)).remaining
                assert left == PLENTY.limit - count

    in_loop(main(), kind)


def test_several_keys_wait_for_the_move(
    cluster: Cluster, move: Move, new_subject: Callable[[], str], kind: str
) -> None:
    """TRYAGAIN for new subjects, after three more tries; old ones are decided all the while."""

    async def main() -> None:
        async with Asker(cluster.url, [PLENTY, LOG]) as asker:
            await asker.open()
            old, new = new_subject(), new_subject()
            await asker.hit(old, tag=TAG)
            move.begin()
            (took, error), (_, fine) = await asyncio.gather(
                spent(asker.hit(new, tag=TAG)), spent(asker.hit(old, tag=TAG))
            )
            assert isinstance(error, StoreUnavailable)
            assert "TRYAGAIN" in str(error)
            assert took >= sum(TRYAGAIN_PAUSES)
            assert fine
            move.keys()
            move.end()
            assert await asker.hit(new, tag=TAG)
            assert (await asker.ask("peek", old, tag=TAG)).remaining == LOG.limit - 2

    in_loop(main(), kind)


def test_sent_round_in_circles(cluster: Cluster, kind: str) -> None:
    """More than three redirections are a cluster in trouble."""

    async def main(proxy: Proxy) -> None:
        async with Asker(cluster.url) as asker:
            await asker.open()
            key = next(
                f"u{n}" for n in range(99) if cluster.primary_of(f"u{n}") is cluster.nodes[0]
            )
            slot = key_slot(key.encode())
            node = table(asker).node_at((HOST, proxy.port))
            table(asker).owners[slot] = node
            sent = []

            def moved(data: bytes) -> bytes:
                if data.startswith(b"*4"):
                    return data  # the table
                sent.append(data)
                return f"-MOVED {slot} {HOST}:{proxy.port}\r\n".encode()

            assert await asker.hit(key)
            proxy.replies = moved
            with pytest.raises(StoreUnavailable, match="more than 3 redirections"):
                await asker.hit(key)
            assert len(sent) == 1 + MOST_REDIRECTS

    with Proxy((HOST, cluster.nodes[0].port)) as proxy:
        in_loop(main(proxy), kind)


@pytest.fixture
def nameless(move: Move) -> Iterator[None]:
    """Nodes that do not know their own name."""
    for client in move.clients:
        client.config_set("cluster-preferred-endpoint-type", "unknown-endpoint")
    yield
    for client in move.clients:
        client.config_set("cluster-preferred-endpoint-type", "ip")


@pytest.mark.usefixtures("nameless")
def test_a_node_that_does_not_know_its_own_name(
    move: Move, cluster: Cluster, subject: str, kind: str
) -> None:
    """Table and redirections without a host mean the host that was asked."""

    async def main() -> None:
        async with Asker(cluster.url) as asker:
            await asker.hit(subject, tag=TAG)
            move.begin()
            assert await asker.hit(f"{subject}-new", tag=TAG)  # ASK
            move.keys()
            move.end()
            assert (await asker.hit(subject, tag=TAG)).remaining == PLENTY.limit - 2  # MOVED

    in_loop(main(), kind)


def test_a_primary_that_became_a_replica(make_server: Callable[..., Server], kind: str) -> None:
    """READONLY behind one fixed address: a new connection for all, and each call counts once."""
    first, second = make_server(), make_server()
    admin, other = first.client(), second.client()

    async def main(proxy: Proxy) -> None:
        async with Asker(proxy.url) as asker:
            assert await asker.hit("u", 5)
            # The name now means another server; the old connection is left open.
            admin.replicaof(HOST, second.port)
            proxy.target = (HOST, second.port)
            made = proxy.connections
            found = await asyncio.gather(*(asker.hit("u") for _ in range(10)))
            assert sorted(PLENTY.limit - each.remaining for each in found) == list(range(1, 11))
            assert proxy.connections == made + 1
            # And nobody is there: both are replicas.
            other.replicaof(HOST, first.port)
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await asker.hit("u")
            other.replicaof("NO", "ONE")
            await decides_soon(asker, "u")

    with Proxy((HOST, first.port)) as proxy:
        in_loop(main(proxy), kind)
    admin.close()
    other.close()


def test_a_primary_of_a_cluster_that_became_a_replica(
    cluster: Cluster, subject: str, kind: str
) -> None:
    """READONLY: the table is read anew, and the call is sent to the new owner, once."""

    async def main(proxy: Proxy) -> None:
        async with Asker(cluster.url) as asker:
            await asker.open()
            node = table(asker).node_at((HOST, proxy.port))
            table(asker).owners[key_slot(subject.encode())] = node
            table(asker).read_at -= REFRESH_EVERY  # as if it had been read a while ago
            assert await asker.hit(f"{subject}-other")
            await asker.hit(subject)  # connects
            proxy.requests = replace(b"NOTHING\r\n")  # so that it does not run there
            proxy.replies = replace(b"-READONLY You can't write against a read only replica.\r\n")
            table(asker).read_at -= REFRESH_EVERY
            assert (await asker.hit(subject)).remaining == PLENTY.limit - 2
            assert await asker.used(subject) == 2

    owner = cluster.primary_of(subject)
    with Proxy((HOST, owner.port)) as proxy:
        in_loop(main(proxy), kind)


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"*1\r\n:5\r\n", b"*0\r\n"])
def test_a_table_that_is_none(cluster: Cluster, reply: bytes, kind: str) -> None:
    """Something that is no cluster answered, or one without slots."""

    def answer(data: bytes) -> bytes:
        # The node's table begins so; the handshake passes.
        return reply if data.startswith(b"*3\r\n*") else data

    async def main(proxy: Proxy) -> None:
        async with Asker(f"redis+cluster://{HOST}:{proxy.port}") as asker:
            proxy.replies = answer
            expected = StoreUnavailable if reply == b"*0\r\n" else StoreRefused
            found = await asyncio.gather(*(spent(asker.hit("u")) for _ in range(3)))
            assert {type(error) for _, error in found} == {expected}

    with Proxy((HOST, cluster.nodes[0].port)) as proxy:
        in_loop(main(proxy), kind)


def test_one_reading_for_all_callers(cluster: Cluster, subject: str, kind: str) -> None:
    """Nobody read the slot table before: one reads it, the others wait for that."""

    async def main() -> None:
        async with Asker(cluster.url) as asker:
            found = await asyncio.gather(*(asker.hit(f"{subject}-{n}") for n in range(64)))
            assert {each.remaining for each in found} == {PLENTY.limit - 1}
            assert table(asker).readings == 1

    in_loop(main(), kind)


def test_nodes_that_are_gone_are_forgotten(cluster: Cluster, subject: str, kind: str) -> None:
    """What no table names any more keeps no connection open."""

    async def main(proxy: Proxy) -> None:
        async with Asker(f"redis+cluster://{HOST}:{cluster.nodes[0].port}") as asker:
            assert await asker.hit(subject)
            gone = table(asker).node_at((HOST, proxy.port))
            connection = await gone.take(asyncio.get_running_loop().time() + 1)
            table(asker).read_at -= REFRESH_EVERY
            await asker.open()
            assert (HOST, proxy.port) not in table(asker).nodes
            assert connection.closed
            assert await asker.hit(subject)

    with Proxy((HOST, cluster.nodes[1].port)) as proxy:
        in_loop(main(proxy), kind)


def test_a_refusal_is_none_the_less_one_where_another_node_is_down(
    make_server: Callable[..., Server], kind: str
) -> None:
    """Wrong credentials never admit everybody, whichever node is asked last."""
    locked = make_server(password="right")  # noqa: S106
    store = f"redis+cluster://127.0.0.1:1,{locked.host}:{locked.port}"

    async def main() -> None:
        for _ in range(8):
            async with Asker(store) as asker:
                with pytest.raises(StoreRefused):
                    await asker.hit("u")

    in_loop(main(), kind)


@pytest.mark.parametrize("where", ["single", "cluster"])
def test_one_slot(store: str, cluster: Cluster, where: str) -> None:
    """Keys may be in one call where one node has them all, or they share a slot."""
    asker = Asker(store if where == "single" else cluster.url)
    one = [TAG.encode(), TAG.encode()]
    same = next(b"%d" % n for n in range(99_999) if key_slot(b"%d" % n) == SLOT)
    assert asker.transport.one_slot([])
    assert asker.transport.one_slot(one)
    assert asker.transport.one_slot([*one, same])
    assert asker.transport.one_slot([*one, b"another"]) is (where == "single")


@pytest.mark.slow
def test_a_failover(fragile: Cluster, kind: str) -> None:
    """The primary dies, its replica takes over: within three seconds of that, calls are decided."""

    async def main() -> None:
        async with Asker(fragile.url, timeout=0.1) as asker:
            await asker.open()
            key = "async-failover"
            await asker.hit(key, 7)
            place = fragile.nodes.index(fragile.primary_of(key))
            pair = [fragile.nodes[place], fragile.nodes[place + fragile.primaries]]
            clients = [node.client() for node in pair]
            old = next(
                n for n, c in enumerate(clients) if c.info("replication")["role"] == "master"
            )
            pair[old].kill()
            try:

                async def took_over() -> bool:
                    await spent(asker.hit(key))
                    return bool(clients[1 - old].info("replication")["role"] == "master")

                await soon(took_over, 20.0)
                await decides_soon(asker, key, 3.0)
            finally:
                for client in clients:
                    client.close()
                pair[old].restart()
                fragile.wait()

    in_loop(main(), kind)


def test_silent_nodes_do_not_keep_us_from_the_table(
    cluster: Cluster, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first who can say says it, long before the others have had all of their time."""
    healthy = cluster.nodes[0].port
    ask_last(healthy, monkeypatch)

    async def main(store: str) -> None:
        async with Asker(store, timeout=0.1, connect_timeout=4.0) as asker:
            await decides_soon(asker, subject, 3.0)
        async with Asker(store, connect_timeout=4.0) as asker:
            await asker.open()

    with Proxy((HOST, healthy)) as one, Proxy((HOST, healthy)) as two:
        one.requests = two.requests = swallow
        in_loop(main(f"redis+cluster://{HOST}:{one.port},{HOST}:{two.port},{HOST}:{healthy}"))


def test_a_silent_primary_does_not_keep_the_script_from_the_others(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each primary gets it, and who did not take it is told about in the end."""
    client = cluster.nodes[0].client()

    async def main(proxy: Proxy) -> None:
        async with Asker(cluster.url, connect_timeout=1.0) as asker:
            await asker.open()
            healthy = table(asker).node_at((HOST, cluster.nodes[0].port))
            silent = table(asker).node_at((HOST, proxy.port))
            monkeypatch.setattr(SlotTable, "primaries", [silent, healthy])
            client.script_flush()
            with pytest.raises(StoreUnavailable, match=f":{proxy.port}"):
                await asker.open()
            assert client.script_exists(script_of(asker.policies).sha) == [True]

    with Proxy((HOST, cluster.nodes[1].port)) as proxy:
        proxy.requests = swallow
        in_loop(main(proxy))
    client.close()

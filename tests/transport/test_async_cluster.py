"""Coroutines on a cluster: slots that move, nodes that die, primaries that change; once each."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from limiter import StoreUnavailable
from service.demo.servers import HOST, Cluster, Server
from tests.proxy import Proxy
from tests.topology import SLOT, TAG, Move
from tests.transport.support import LOG, PLENTY, Asker, decides_soon, in_loop


def table(asker: Asker) -> Any:
    """The table of the running loop."""
    loop_transport: Any = asker.transport._last
    return loop_transport._table


@pytest.mark.parametrize("policy", [PLENTY, LOG], ids=lambda policy: policy.algorithm)
async def test_a_slot_half_moved(
    cluster: Cluster, move: Move, new_subject: Callable[[], str], kind: str, policy: Any
) -> None:
    """ASK, for many calls at once: new subjects live in the new place already, old ones in the old."""
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
            assert all(await asyncio.gather(*(asker.hit(key, tag=TAG) for key in (*olds, *news))))
        for key in (*olds, *news):
            charged = 4 if key in olds else 3
            left = (await asker.ask("peek", key, tag=TAG)).remaining
            assert left == policy.capacity - charged


async def test_cancelled_while_half_moved(
    cluster: Cluster, move: Move, new_subject: Callable[[], str], kind: str
) -> None:
    """An ASKING and its command stay together if a caller gives up: no other call is disturbed."""
    draw = random.Random(4)
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


@pytest.mark.slow
async def test_a_slot_that_moves_to_and_fro_under_load(
    cluster: Cluster, move: Move, subject: str, kind: str
) -> None:
    """No error for limiters of one key, and every call counts once."""
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
            # And neither has a primary: both are replicas.
            other.replicaof(HOST, first.port)
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await asker.hit("u")
            other.replicaof("NO", "ONE")
            await decides_soon(asker, "u")

    with Proxy((HOST, first.port)) as proxy:
        in_loop(main(proxy), kind)
    admin.close()
    other.close()


async def test_one_reading_for_all_callers(cluster: Cluster, subject: str, kind: str) -> None:
    """The slot table was not read before: one call reads it, and the others wait for that."""
    async with Asker(cluster.url) as asker:
        found = await asyncio.gather(*(asker.hit(f"{subject}-{n}") for n in range(64)))
        assert {each.remaining for each in found} == {PLENTY.limit - 1}
        assert table(asker).readings == 1


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

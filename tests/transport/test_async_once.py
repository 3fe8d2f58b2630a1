"""Coroutines: each reply reaches its own call, and each call is sent once, also if callers give up."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio

from limiter import Decision, FixedWindow, LimiterError, StoreUnavailable
from limiter.keys import KeySpeller
from limiter.plan import Plan
from limiter.transport.async_node import AsyncNode, ConnectionCloser
from service.demo.servers import Cluster, Server
from tests.proxy import Proxy, cut, delay
from tests.transport.support import PLENTY, Asker, in_loop, spent, until
from tests.transport.test_round_trip import commands


class Subject:
    """A key with a limit that no other test uses, and what is known of its calls."""

    def __init__(self, key: str, number: int) -> None:
        self.key = key
        self.policies = (FixedWindow(10_000_000 + number * 10_000, "day"),)
        self.plan = Plan(self.policies, KeySpeller("rl", "default", None))
        self.called = self.answered = 0

    async def hit(self, asker: Asker, cost: int, seconds: float | None) -> None:
        """Call, and check that the reply is for this key."""
        call = self.plan.call("hit", self.key, cost)
        deadline = None if seconds is None else time.monotonic() + seconds
        self.called += cost
        reply = await asker.transport.run(call, deadline)
        self.answered += cost
        self.check(Decision(self.policies, reply))

    def check(self, decision: Decision) -> int:
        """Check that the reply is for this key, and return its charge."""
        charged = self.policies[0].limit - decision.remaining
        assert self.answered <= charged <= self.called
        return charged


@pytest.mark.parametrize("where", ["single", "cluster"])
def test_a_caller_that_gives_up_disturbs_no_other(
    store: str, cluster: Cluster, new_subject: Callable[[], str], where: str, kind: str
) -> None:
    """Many keys with their own limits, cancelled and late at random: each reply reaches its own call."""
    draw = random.Random(3)
    subjects = [Subject(new_subject(), number) for number in range(20)]
    ends: Counter[str] = Counter()

    async def one(asker: Asker, subject: Subject) -> None:
        cost = draw.randrange(1, 5)
        late = draw.choice([None, None, None, draw.uniform(0.0, 0.004)])
        try:
            await subject.hit(asker, cost, late)
            ends["answered"] += 1
        except StoreUnavailable:
            ends["late"] += 1

    async def caller(asker: Asker, subject: Subject) -> None:
        for _ in range(10):
            task = asyncio.ensure_future(one(asker, subject))
            if draw.random() < 0.4:
                await asyncio.sleep(draw.choice([0.0, 0.0, draw.uniform(0.0, 0.003)]))
                ends["cancelled"] += task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def main() -> None:
        url = store if where == "single" else cluster.url
        async with Asker(url, timeout=20.0) as asker:
            await asyncio.gather(*(caller(asker, each) for each in subjects * 4))
            for subject in subjects:
                reply = await asker.transport.run(subject.plan.call("peek", subject.key, 0))
                subject.check(Decision(subject.policies, reply))

    in_loop(main(), kind)
    assert min(ends["answered"], ends["cancelled"], ends["late"]) > 10, ends


def test_one_turn_is_one_write(proxy: Proxy, subject: str, kind: str) -> None:
    """64 calls at once leave in one piece, in their order."""
    pieces: list[bytes] = []

    def heard(data: bytes) -> bytes:
        pieces.append(data)
        return data

    async def main() -> list[Decision]:
        async with Asker(proxy.url) as asker:
            await asker.hit(subject)
            proxy.requests = heard
            found = await asyncio.gather(*(asker.hit(subject, number) for number in range(1, 65)))
            proxy.mend()
            return found

    found = in_loop(main(), kind)
    assert [piece.count(b"EVALSHA") for piece in pieces] == [64]
    left = PLENTY.limit - 1
    for number, decision in enumerate(found, 1):
        left -= number
        assert decision.remaining == left


def test_a_call_that_was_cancelled_before_it_was_sent_is_not_sent(
    store: str, subject: str, kind: str
) -> None:
    """Cancelled in the turn in which it was made: nothing is charged, and the others go on."""

    async def main() -> int:
        async with Asker(store) as asker:
            await asker.hit(subject)
            tasks = [asyncio.ensure_future(asker.hit(subject)) for _ in range(5)]
            loop = asyncio.get_running_loop()
            loop.call_soon(tasks[1].cancel)  # made, but not sent yet
            await asyncio.wait(tasks)
            assert [task.cancelled() for task in tasks] == [False, True, False, False, False]
            return await asker.used(subject)

    assert in_loop(main(), kind) == 5


async def test_late_replies_are_read_and_dropped(proxy: Proxy, subject: str, kind: str) -> None:
    """The connection stays; a late reply reaches no other call, and its call counts once."""
    late_ones_ended = threading.Event()

    def hold_back(data: bytes) -> bytes:
        late_ones_ended.wait(10)
        return data

    async with Asker(proxy.url, timeout=20.0) as asker:
        await asker.open()
        await asker.hit(subject, 7)
        made = proxy.connections
        proxy.replies = hold_back
        # A busy loop needs some time to send calls that are too late to be answered.
        soon_over = time.monotonic() + 0.5
        late = [spent(asker.hit(subject, 5, deadline=soon_over)) for _ in range(4)]
        in_time = [asyncio.ensure_future(asker.hit(f"{subject}-{n}", 3)) for n in range(4)]
        found = await asyncio.gather(*late)
        assert {type(answer) for _, answer in found} == {StoreUnavailable}
        late_ones_ended.set()
        assert [(await call).remaining for call in in_time] == [PLENTY.limit - 3] * 4
        proxy.mend()
        assert (await asker.hit(subject)).remaining == PLENTY.limit - 28
        assert proxy.connections == made


async def test_a_silent_connection_is_given_up(proxy: Proxy, subject: str, kind: str) -> None:
    """No data comes for the whole timeout, also if no caller waits for it any more."""
    arrived = threading.Event()

    def keep(data: bytes) -> bytes:
        arrived.set()
        return b""

    async with Asker(proxy.url, timeout=0.5) as asker:
        await asker.ready(subject)
        connection = asker.connection
        proxy.requests = keep
        task = asyncio.ensure_future(asker.hit(subject))
        await asyncio.get_running_loop().run_in_executor(None, arrived.wait, 10)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.wait([connection.ended], timeout=10.0)
        assert connection.closed
        proxy.mend()
        assert (await asker.ready(subject)).remaining == PLENTY.limit - 2


def test_flushed_with_many_calls_under_way(own: Server, kind: str) -> None:
    """NOSCRIPT for many calls at once: each is sent once more with the script, and counts once."""
    client = own.client()

    async def main() -> int:
        async with Asker(own.url, timeout=20.0) as asker:
            await asker.open()
            await asker.hit("u")
            before = commands(client)
            client.script_flush()
            await asyncio.gather(*(asker.hit("u") for _ in range(200)))
            after = commands(client)
            assert after["evalsha"] - before["evalsha"] == 200
            assert after["eval"] - before["eval"] == 200
            return await asker.used("u")

    assert in_loop(main(), kind) == 201
    client.close()


def test_flushed_all_the_time(own: Server, kind: str) -> None:
    """SCRIPT FLUSH every few milliseconds: no error, and every call counts once."""
    client = own.client()
    ended = threading.Event()

    def flush() -> None:
        while not ended.wait(0.003):  # often, but not always
            client.script_flush()

    async def worker(asker: Asker) -> None:
        for _ in range(20):
            await asker.hit("u")

    async def main() -> int:
        async with Asker(own.url, timeout=20.0) as asker:
            await asyncio.gather(*(worker(asker) for _ in range(16)))
            return await asker.used("u")

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        assert in_loop(main(), kind) == 320
    finally:
        ended.set()
        flusher.join()
        client.close()


async def test_closed_while_calls_are_under_way(proxy: Proxy, subject: str, kind: str) -> None:
    """They get their replies; later calls have another connection."""
    async with Asker(proxy.url) as asker:
        await asker.hit(subject)
        proxy.replies = delay(0.1)
        calls = [asyncio.ensure_future(asker.hit(subject)) for _ in range(5)]
        while len(asker.connection.sent) < 5:
            await asyncio.sleep(0)
        connection = asker.connection
        await asyncio.gather(asker.transport.close(), *calls)
        assert connection.ended.done()
        assert [call.result().granted for call in calls] == [1] * 5
        proxy.mend()
        assert await asker.used(subject) == 6


async def test_closed_while_it_connects(proxy: Proxy, subject: str, kind: str) -> None:
    """A call that waits for a connection gets another one."""
    async with Asker(proxy.url) as asker:
        proxy.replies = delay(0.05)
        call = asyncio.ensure_future(asker.hit(subject))
        await asyncio.sleep(0.02)
        closed = asker.transport._last
        await asker.transport.close()
        assert (await call).granted == 1
        assert all_ended(closed)


@pytest.mark.parametrize("where", ["single", "cluster"])
async def test_closed_in_the_turn_in_which_a_call_began(
    store: str, cluster: Cluster, subject: str, kind: str, where: str
) -> None:
    """The task that it waits for is cancelled before its first step: the call makes another one."""
    async with Asker(store if where == "single" else cluster.url) as asker:
        call = asyncio.ensure_future(asker.hit(subject))
        await asyncio.sleep(0)
        closed = asker.transport._last
        await asker.transport.close()
        assert (await asyncio.wait_for(call, 10)).granted == 1
        assert all_ended(closed)


async def test_a_reading_that_began_after_close_leaves_no_connection(
    cluster: Cluster, subject: str, kind: str
) -> None:
    """As when a call that was under way failed after ``close``: the slot table is then read anew."""
    async with Asker(cluster.url) as asker:
        await asker.ready(subject)
        closed: Any = asker.transport._last
        await asker.transport.close()
        closed._table.read_at = -math.inf  # so long ago that it may be read again
        closed.failed(asker.plan.call("hit", subject, 1))
        await asyncio.wait([closed._reading])
        assert closed._table.readings == 2
        assert closed.closer.connections
        assert all_ended(closed)


def all_ended(loop_transport: Any) -> bool:
    """Whether a transport that was closed accepts no call on any of its connections."""
    return all(connection.closed for connection in loop_transport.closer.connections)


@pytest.mark.parametrize("where", ["single", "cluster"])
async def test_every_task_cancelled_in_the_turn_in_which_a_call_began(
    store: str, cluster: Cluster, subject: str, kind: str, where: str
) -> None:
    """As when a program is terminated; the next call is decided."""
    async with Asker(store if where == "single" else cluster.url) as asker:
        call = asyncio.ensure_future(asker.hit(subject))
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await asyncio.wait_for(asker.hit(subject), 10)).remaining == PLENTY.limit - 1


class Ended(asyncio.Future[Any]):
    """An object that looks like a task that has ended."""

    def set_name(self, name: object) -> None:
        """Accept the name that a loop gives to a factory's task."""


def first_step_at_once(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **settings: Any
) -> asyncio.Future[Any]:
    """As ``asyncio.eager_task_factory`` of Python 3.12, for a task whose first step is its last."""
    ended = Ended(loop=loop)
    try:
        coroutine.send(None)
    except StopIteration as end:
        ended.set_result(end.value)
    return ended


async def test_a_task_that_ends_before_it_is_assigned(store: str, kind: str) -> None:
    """A failure at once is reported to its own caller, and not to every later one."""
    settings = redis.asyncio.ConnectionPool.from_url(store).connection_kwargs
    troubles = [redis.ConnectionError("not yet")]

    def connection() -> redis.asyncio.Connection:
        if troubles:
            raise troubles.pop()
        return redis.asyncio.Connection(**settings)

    loop = asyncio.get_running_loop()
    closer = ConnectionCloser(loop, lambda _: None)
    node = AsyncNode(connection, "store", 2.0, 2.0, ("localhost", 0), closer)
    loop.set_task_factory(first_step_at_once)
    with pytest.raises(StoreUnavailable, match="not yet"):
        await node.take(time.monotonic() + 2)
    loop.set_task_factory(None)
    assert (await node.take(time.monotonic() + 2)).is_ready()
    await closer.close(2.0)


async def test_a_node_that_has_left_keeps_no_connection(store: str, kind: str) -> None:
    """A call that still waits for one gets it: as after a failover with dead machines."""
    settings = redis.asyncio.ConnectionPool.from_url(store).connection_kwargs
    closer = ConnectionCloser(asyncio.get_running_loop(), lambda _: None)
    connect = partial(redis.asyncio.Connection, **settings)
    node = AsyncNode(connect, "store", 0.1, 2.0, ("localhost", 0), closer)
    used = await node.take(time.monotonic() + 2)
    node.leave()
    waited = await node.take(time.monotonic() + 2)
    assert waited.is_ready()
    await asyncio.wait_for(asyncio.wait([used.ended, waited.ended]), 10)
    assert not node.has_idle


async def test_cancelled_while_it_connects(proxy: Proxy, subject: str, kind: str) -> None:
    """Another caller that waits gets the connection; the cancelled call charges nothing."""
    async with Asker(proxy.url) as asker:
        proxy.replies = delay(0.03)
        first = asyncio.ensure_future(asker.hit(subject))
        second = asyncio.ensure_future(asker.hit(subject))
        await asyncio.sleep(0.02)
        first.cancel()
        assert (await second).remaining == PLENTY.limit - 1
        assert first.cancelled()
        proxy.mend()
        assert proxy.connections == 1


async def test_connections_that_were_killed(own: Server, kind: str) -> None:
    """CLIENT KILL between two calls: noticed before anything is sent, also by a loop that was busy."""
    async with Asker(own.url, timeout=5.0) as asker:
        await asker.hit("u")
        client = own.client()
        for calls in range(2, 5):
            client.execute_command("CLIENT KILL TYPE normal SKIPME yes")  # blocks the loop
            until(lambda: client.info("clients")["connected_clients"] == 1)
            await asyncio.sleep(0.002 * (calls == 3))
            time.sleep(0.05)  # blocks the loop on purpose: it does not learn of the end
            assert (await asker.hit("u")).remaining == PLENTY.limit - calls
        client.close()


async def test_errors_are_each_callers_own(proxy: Proxy, kind: str) -> None:
    """Callers that fail together do not share one exception, which would collect their tracebacks."""
    async with Asker(proxy.url) as asker:
        await asker.hit("u")
        proxy.requests = cut
        found = [
            answer for _, answer in await asyncio.gather(*(spent(asker.hit("u")) for _ in range(3)))
        ]
        assert all(isinstance(error, LimiterError) for error in found)
        assert len({id(error) for error in found}) == 3

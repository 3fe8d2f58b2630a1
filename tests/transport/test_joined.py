"""Joined calls: each caller gets the decision that it would have got alone, with few script calls."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as some

from limiter import (
    GCRA,
    Decision,
    FixedWindow,
    LeakyBucket,
    Limiter,
    SlidingLog,
    SlidingWindow,
    StoreRefused,
    StoreUnavailable,
    TokenBucket,
)
from limiter.aio import AsyncLimiter
from limiter.keys import KeySpeller
from limiter.plan import Plan
from limiter.policies import Policy
from limiter.testing import set_time
from limiter.transport import joined
from limiter.transport.async_connection import AsyncConnection
from service.demo.servers import Cluster, Server
from tests.proxy import Proxy, cut
from tests.topology import TAG, Move
from tests.transport.support import (
    PLENTY,
    Asker,
    in_loop,
    scripts_run,
    spent,
    used,
)
from tests.transport.test_round_trip import commands
from tests.waiting import STALL

NOW_US = 1_790_000_000_000_000
LIMITS, CALLERS, COSTS = (1, 5, 64, 200), (2, 64, 300), (1, 2, 3)

#: Sets of policies, all with the same limit: of one policy each, for ``few``, and for ``several``.
SETS: dict[str, Callable[[int], list[Policy]]] = {
    "fixed_window": lambda limit: [FixedWindow(limit, 60)],
    "sliding_window": lambda limit: [SlidingWindow(limit, 60)],
    "sliding_log": lambda limit: [SlidingLog(limit, 60)],
    "token_bucket": lambda limit: [TokenBucket(limit, 7)],
    "gcra": lambda limit: [GCRA(limit, 60, burst=limit)],
    "few": lambda limit: [FixedWindow(limit + 3, 60), TokenBucket(limit, 7), GCRA(limit + 1, 9)],
    "several": lambda limit: [FixedWindow(limit, 60), SlidingLog(limit + 2, 9)],
}


def numbers(decision: Decision) -> list[tuple[Policy, int, int]]:
    """The numbers of a decision that are the same whether it was joined or not."""
    return [(policy, left, retry_us) for policy, left, retry_us, _ in decision.numbers]


async def together(limiter: AsyncLimiter, callers: int, *hit: Any) -> list[Decision]:
    """Hit as many times in one turn of the loop."""
    return await asyncio.gather(*(limiter.hit(*hit) for _ in range(callers)))


async def check_joined(
    url: str, policies: list[Policy], subject: str, callers: int, cost: int
) -> None:
    """Compare joined hits with hits that a limiter in this process decides one after the other."""
    alone = Limiter(policies, store="memory://")
    async with AsyncLimiter(policies, store=url, timeout=20.0) as limiter:
        set_time(alone, NOW_US)
        set_time(limiter, NOW_US)
        with redis.Redis.from_url(url) as client:
            before = scripts_run(client)
            decisions = await together(limiter, callers, subject, cost)
            assert scripts_run(client) - before <= 3
        expected = [alone.hit(subject, cost) for _ in range(callers)]
        assert [decision.granted for decision in decisions] == [each.granted for each in expected]
        assert [*map(numbers, decisions)] == [*map(numbers, expected)]
        # All that differs is the time until a bucket is full: it is that of the state after all.
        assert {each.reset_after for each in decisions} == {expected[-1].reset_after}
        assert await limiter.peek(subject) == alone.peek(subject)
        if not decisions[-1]:
            retry_us = round(decisions[-1].retry_after * 1e6)
            set_time(limiter, NOW_US + retry_us - 1)
            assert not any(await together(limiter, 2, subject, cost))
            set_time(limiter, NOW_US + retry_us)
            assert (await together(limiter, 2, subject, cost))[0]


@pytest.mark.parametrize("policies", SETS.values(), ids=SETS)
async def test_decisions_are_those_of_single_calls(
    request: pytest.FixtureRequest, new_subject: Callable[[], str], policies: Any, kind: str
) -> None:
    """Counts, order, the numbers of each policy, and the number of script calls."""
    # Each loop and each server once: what joins the calls knows no server.
    url = request.getfixturevalue("store" if kind == "asyncio" else "redis_store")
    asyncio.get_running_loop().set_debug(False)  # it takes most of the time of thousands of tasks
    for limit in LIMITS:
        for callers in CALLERS:
            for cost in COSTS:
                if cost <= limit:
                    subject = new_subject()
                    await check_joined(url, policies(limit), subject, callers, cost)


def test_on_a_cluster(cluster: Cluster, new_subject: Callable[[], str], kind: str) -> None:
    """Subjects of every node, hit in one turn: each node decides about its own."""
    subjects = [new_subject() for _ in range(20)]

    async def main() -> None:
        limiter = AsyncLimiter(FixedWindow(5, 3600), store=cluster.url, timeout=20.0)
        async with limiter:
            await asyncio.gather(*(limiter.peek(subject) for subject in subjects))
            before = sum(map(scripts_run, clients))
            rows = await asyncio.gather(
                *(limiter.hit(subject) for _ in range(8) for subject in subjects)
            )
            assert sum(map(scripts_run, clients)) - before == 2 * len(subjects)
            for number in range(len(subjects)):
                own = rows[number :: len(subjects)]
                assert [decision.allowed for decision in own] == [True] * 5 + [False] * 3
                assert [decision.remaining for decision in own] == [4, 3, 2, 1, 0, 0, 0, 0]

    clients = [node.client() for node in cluster.nodes]
    in_loop(main(), kind)
    for client in clients:
        client.close()


@pytest.mark.usefixtures("unmeasured")
@given(data=some.data())
def test_any_turns(store: str, data: some.DataObject) -> None:
    """Turns with hits on several keys, of costs that change from turn to turn, while time passes."""
    policies = data.draw(some.sampled_from([*SETS.values()]))(data.draw(some.integers(3, 12)))
    keys = [f"joined-{secrets.token_hex(6)}" for _ in range(3)]
    turn = some.tuples(
        some.sampled_from([0, 1, 100_000, 700_001, 9_000_000]),
        some.lists(some.sampled_from(keys), max_size=12),
        some.lists(some.integers(1, 3), min_size=3, max_size=3),
    )
    turns = data.draw(some.lists(turn, min_size=1, max_size=6))

    async def main() -> None:
        now_us = NOW_US
        alone = Limiter(policies, store="memory://")
        async with AsyncLimiter(policies, store=store, timeout=20.0) as limiter:
            for passed_us, hits, costs in turns:
                now_us += passed_us
                cost_of = dict(zip(keys, costs, strict=True))
                for each in (limiter, alone):
                    set_time(each, now_us)
                decisions = await asyncio.gather(*(limiter.hit(key, cost_of[key]) for key in hits))
                expected = [alone.hit(key, cost_of[key]) for key in hits]
                assert [*map(numbers, decisions)] == [*map(numbers, expected)]
                assert [each.granted for each in decisions] == [each.granted for each in expected]

    asyncio.run(main())


def calls_for(url: str, limits: Any, call: Any, kind: str, **settings: Any) -> int:
    """The script calls for eight hits in one turn."""

    async def main() -> int:
        async with AsyncLimiter(limits, store=url, timeout=20.0, **settings) as limiter:
            await call(limiter)  # the server then knows the script
            with redis.Redis.from_url(url) as client:
                before = scripts_run(client)
                await asyncio.gather(*(call(limiter) for _ in range(8)))
                return scripts_run(client) - before

    return in_loop(main(), kind)


def test_what_is_joined(store: str, subject: str, kind: str) -> None:
    """Equal hits, also those of ``wait`` and ``reserve``, and with other numbers or a tag."""

    async def reserve(limiter: AsyncLimiter) -> None:
        async with limiter.reserve(subject, 2) as reserved:
            await reserved.settle(2)

    for call in (
        lambda limiter: limiter.hit(subject),
        lambda limiter: limiter.hit(("tuple", subject), 3),
        lambda limiter: limiter.wait(subject),
        lambda limiter: limiter.hit(subject, limits=FixedWindow(999_999, "day")),
        lambda limiter: limiter.hit(subject, tag="t"),
        reserve,
    ):
        assert calls_for(store, PLENTY, call, kind) == 1


def test_what_is_not_joined(store: str, subject: str, kind: str) -> None:
    """Hits with ``at_least`` or of cost 0, those of a queue, joint calls, and all with ``join=False``."""
    queue = [FixedWindow(1000, "day"), LeakyBucket(1000, "day")]
    for limits, call, settings in (
        (PLENTY, lambda limiter: limiter.hit(subject, 3, at_least=1), {}),
        (PLENTY, lambda limiter: limiter.hit(subject, 0), {}),
        (PLENTY, lambda limiter: limiter.peek(subject), {}),
        (PLENTY, lambda limiter: limiter.hit_all([(subject, 1), ("other", 1)], tag="t"), {}),
        (queue, lambda limiter: limiter.hit(subject), {}),
        (PLENTY, lambda limiter: limiter.hit(subject), {"join": False}),
        (PLENTY, lambda limiter: limiter.hit(subject, limits=PLENTY), {"join": False}),
    ):
        assert calls_for(store, limits, call, kind, **settings) == 8


def test_callers_that_wait_for_a_connection(proxy: Proxy, store: str, subject: str) -> None:
    """They are joined, too, when it is made."""

    async def main() -> list[Decision]:
        limiter = AsyncLimiter(FixedWindow(5, 3600), store=proxy.url, timeout=20.0)
        with redis.Redis.from_url(store) as client:
            before = scripts_run(client)
            decisions = await together(limiter, 300, subject)
            # NOSCRIPT may add one for each of the two calls.
            assert scripts_run(client) - before <= 4
        await limiter.close()
        return decisions

    assert [each.allowed for each in in_loop(main())] == [True] * 5 + [False] * 295


async def test_cancelled_before_it_is_sent(store: str, subject: str, kind: str) -> None:
    """The cancelled calls are not charged, and those behind take their places."""
    async with AsyncLimiter(FixedWindow(5, 3600), store=store, timeout=20.0) as limiter:
        await limiter.peek(subject)
        tasks = [asyncio.ensure_future(limiter.hit(subject)) for _ in range(8)]
        for number in (0, 2, 3, 7):
            asyncio.get_running_loop().call_soon(tasks[number].cancel)
        await asyncio.wait(tasks)
        ends = [None if task.cancelled() else task.result().remaining for task in tasks]
        assert ends == [None, 4, None, None, 3, 2, 1, None]
        assert (await limiter.peek(subject)).remaining == 1

        tasks = [asyncio.ensure_future(limiter.hit(f"{subject}-2")) for _ in range(3)]
        for task in tasks:
            asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait(tasks)
        assert (await limiter.peek(f"{subject}-2")).remaining == 5


async def held(proxy: Proxy, calls: Callable[[], list[Any]]) -> list[Any]:
    """Start calls, and hold their one reply back until ``proxy.mend``."""
    loop, arrived, mended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    mend = proxy.mend

    def hold(data: bytes) -> bytes:
        loop.call_soon_threadsafe(arrived.set)
        asyncio.run_coroutine_threadsafe(mended.wait(), loop).result(20)
        return data

    def go_on() -> None:
        mend()
        mended.set()

    proxy.mend = go_on  # type: ignore[method-assign]
    proxy.replies = hold
    tasks = [asyncio.ensure_future(call) for call in calls()]
    await arrived.wait()
    return tasks


class Joining(Asker):
    """An ``Asker`` whose calls are joined, as those of an ``AsyncLimiter`` are."""

    def __init__(self, store: Any, policies: Any = PLENTY, **settings: float) -> None:
        super().__init__(store, policies, **settings)
        self.plan = Plan(self.policies, KeySpeller("rl", "default", None), join=True)


async def test_cancelled_under_way(proxy: Proxy, subject: str, kind: str) -> None:
    """A cancelled call's unit goes to the next caller; units that no caller takes stay charged."""
    async with Joining(proxy.url, FixedWindow(5, 3600), timeout=20.0) as asker:
        await asker.open()
        for callers, cancelled, ends, left in (
            (8, (1, 2), [4, None, None, 3, 2, 1, 0, 0], 0),
            (4, (0, 2), [None, 4, None, 3], 1),
        ):
            key = f"{subject}-{callers}"
            await asker.ask("peek", key)
            tasks = await held(proxy, lambda: [asker.hit(key) for _ in range(callers)])  # noqa: B023
            for number in cancelled:
                tasks[number].cancel()
            await asyncio.sleep(0)
            proxy.mend()
            await asyncio.wait(tasks)
            assert [None if task.cancelled() else task.result().remaining for task in tasks] == ends
            assert (await asker.ask("peek", key)).remaining == left


async def test_each_caller_keeps_its_own_deadline(proxy: Proxy, subject: str, kind: str) -> None:
    """One is late while the call is under way; the others get their decisions."""
    async with Joining(proxy.url, FixedWindow(5, 3600), timeout=20.0) as asker:
        await asker.open()
        await asker.ask("peek", subject)
        soon_over = time.monotonic() + STALL
        tasks = await held(
            proxy,
            lambda: [
                asker.hit(subject),
                spent(asker.hit(subject, deadline=soon_over)),
                asker.hit(subject),
            ],
        )
        took, late = await asyncio.wait_for(tasks[1], 15)
        assert isinstance(late, StoreUnavailable)
        assert "no answer within the deadline" in str(late)
        assert took < 10
        assert not tasks[0].done()
        proxy.mend()
        assert [(await tasks[0]).remaining, (await tasks[2]).remaining] == [4, 3]
        assert (await asker.ask("peek", subject)).remaining == 2


async def test_late_before_it_is_sent(store: str, subject: str, kind: str) -> None:
    """A busy loop sends the group after the deadline of one caller, which is not charged."""
    async with Joining(store, FixedWindow(5, 3600), timeout=20.0) as asker:
        await asker.open()
        await asker.ask("peek", subject)

        async def block() -> None:
            time.sleep(0.1)  # blocks the loop on purpose

        soon_over = time.monotonic() + 0.05
        late, *others, _ = await asyncio.gather(
            spent(asker.hit(subject, deadline=soon_over)),
            asker.hit(subject),
            asker.hit(subject),
            block(),
        )
        assert "not sent within the deadline" in str(late[1])
        assert [decision.remaining for decision in others] == [4, 3]
        assert (await asker.ask("peek", subject)).remaining == 3


def test_the_server_lost_its_scripts(own: Server, kind: str) -> None:
    """NOSCRIPT for a group: the group is sent once more with the script's text."""
    client = own.client()

    async def main() -> None:
        async with AsyncLimiter(FixedWindow(150, 3600), store=own.url, timeout=20.0) as limiter:
            await limiter.peek("u")
            before = commands(client)
            client.script_flush()
            decisions = await together(limiter, 200, "u")
            after = commands(client)
            assert after["eval"] - before["eval"] == 1
            assert after["evalsha"] - before["evalsha"] <= 2  # unknown; and those that were left
            left = [decision.remaining for decision in decisions]
            assert left == [*range(149, -1, -1), *[0] * 50]
            assert [decision.allowed for decision in decisions] == [True] * 150 + [False] * 50

    in_loop(main(), kind)
    client.close()


def test_late_while_the_group_is_sent_again(
    proxy: Proxy, own: Server, subject: str, kind: str
) -> None:
    """After NOSCRIPT each caller still keeps its own deadline."""
    proxy.target = (own.host, own.port)
    client = own.client()

    def hold_text(data: bytes) -> bytes:
        return b"" if b"$4\r\nEVAL\r\n" in data else data

    async def main() -> None:
        async with Joining(proxy.url, FixedWindow(5, 3600), timeout=0.5) as asker:
            await asker.ready(subject)
            client.script_flush()
            proxy.requests = hold_text
            now = time.monotonic()
            calls = [
                asyncio.ensure_future(spent(asker.hit(subject, deadline=now + seconds)))
                for seconds in (0.1, STALL, 0.1, STALL)
            ]
            ends = [await calls[0], await calls[2]]
            assert not calls[1].done()
            assert not calls[3].done()
            ends += [await calls[1], await calls[3]]
            assert [type(end) for _, end in ends] == [StoreUnavailable] * 4
            proxy.mend()

    in_loop(main(), kind)
    client.close()


def test_interrupted_while_the_group_is_sent_again(
    proxy: Proxy, own: Server, subject: str, kind: str
) -> None:
    """If the program cancels every other task, the callers get an error, and wait for nothing."""
    proxy.target = (own.host, own.port)
    client = own.client()
    arrived = threading.Event()

    def hold_text(data: bytes) -> bytes:
        if b"$4\r\nEVAL\r\n" not in data:
            return data
        arrived.set()
        return b""

    async def main() -> None:
        async with Joining(proxy.url, FixedWindow(5, 3600), timeout=20.0) as asker:
            await asker.ready(subject)
            client.script_flush()
            proxy.requests = hold_text
            calls = [asyncio.ensure_future(spent(asker.hit(subject))) for _ in range(4)]
            await asyncio.get_running_loop().run_in_executor(None, arrived.wait, 10)
            for task in asyncio.all_tasks() - {asyncio.current_task(), *calls}:
                task.cancel()
            ends = [error for _, error in await asyncio.wait_for(asyncio.gather(*calls), 10)]
            assert [type(error) for error in ends] == [StoreUnavailable] * 4
            assert all("interrupted before a decision" in str(error) for error in ends)
            proxy.mend()
            proxy.cut_all()

    in_loop(main(), kind)
    client.close()


async def test_a_slot_that_moves(cluster: Cluster, move: Move, subject: str, kind: str) -> None:
    """ASK and MOVED for a group: it follows them as one call."""
    async with Joining(cluster.url, FixedWindow(100, 3600), timeout=20.0) as asker:
        await asker.open()
        await asker.hit(subject, tag=TAG)
        move.begin()
        target = move.clients[move.target]
        move.keys()
        hits = [asker.hit(subject, tag=TAG) for _ in range(20)]
        before = commands(target)
        asked = await asyncio.gather(*hits)
        after = commands(target)
        assert after["asking"] - before["asking"] == 1
        move.end()
        before = scripts_run(target)
        moved = await asyncio.gather(*(asker.hit(subject, tag=TAG) for _ in range(100)))
        assert scripts_run(target) - before == 2
        left = [decision.remaining for decision in (*asked, *moved)]
        assert left == [*range(98, -1, -1), *[0] * 21]
        assert sum(map(bool, moved)) == 79


async def test_errors_are_each_callers_own(
    proxy: Proxy, store: str, subject: str, kind: str
) -> None:
    """An error of the server or the connection: each caller raises its own, or falls back."""

    async def errors(limiter: AsyncLimiter, key: str) -> list[Any]:
        hits = (limiter.hit(key) for _ in range(5))
        return await asyncio.gather(*hits, return_exceptions=True)

    async with AsyncLimiter(PLENTY, store=proxy.url, timeout=20.0) as limiter:
        await limiter.hit(subject)
        with redis.Redis.from_url(store) as client:
            client.set(f"rl:{{{subject}-2}}:default:v1", "another type")
        refused = await errors(limiter, f"{subject}-2")
        assert [type(error) for error in refused] == [StoreRefused] * 5
        assert len({id(error) for error in refused}) == 5
        assert all("WRONGTYPE" in str(error) for error in refused)

        proxy.requests = cut
        failed = await errors(limiter, subject)
        assert [type(error) for error in failed] == [StoreUnavailable] * 5
        assert len({id(error) for error in failed}) == 5
        proxy.mend()
    limiter = AsyncLimiter(PLENTY, store=proxy.url, timeout=20.0, on_error="allow")
    async with limiter:
        await limiter.hit(subject)
        proxy.requests = cut
        decisions = await together(limiter, 5, subject)
        assert [decision.degraded for decision in decisions] == [True] * 5
        assert all(decisions)


async def test_an_answer_of_another_form(proxy: Proxy, subject: str, kind: str) -> None:
    """A reply that is no decision fails the whole group."""
    async with AsyncLimiter(PLENTY, store=proxy.url, timeout=20.0) as limiter:
        await limiter.hit(subject)
        proxy.replies = lambda _: b":7\r\n"
        hits = [limiter.hit(subject) for _ in range(3)]
        found: list[Any] = await asyncio.gather(*hits, return_exceptions=True)
        assert [type(error) for error in found] == [StoreRefused] * 3
        assert len({id(error) for error in found}) == 3
        proxy.mend()


async def test_closed_while_some_are_left(proxy: Proxy, subject: str, kind: str) -> None:
    """Closing waits for the callers that have to ask again."""
    async with Joining(proxy.url, FixedWindow(5, 3600), timeout=20.0) as asker:
        await asker.open()
        await asker.ask("peek", subject)
        tasks = await held(proxy, lambda: [asker.hit(subject) for _ in range(8)])
        closing = asyncio.ensure_future(asker.transport.close())
        await asyncio.sleep(0)
        proxy.mend()
        await asyncio.gather(closing, *tasks)
        assert [task.result().remaining for task in tasks] == [4, 3, 2, 1, 0, 0, 0, 0]


async def test_while_the_write_buffer_is_full(store: str, subject: str, kind: str) -> None:
    """Groups are held back like other calls; callers that give up meanwhile are not charged."""
    async with Joining(store, FixedWindow(5, 3600), timeout=20.0) as asker:
        await asker.open()
        await asker.ask("peek", subject)
        asker.connection.pause_writing()
        first = [asyncio.ensure_future(asker.hit(subject)) for _ in range(3)]
        await asyncio.sleep(0.01)
        second = [asyncio.ensure_future(asker.hit(subject)) for _ in range(4)]
        await asyncio.sleep(0.01)
        first[1].cancel()
        second[0].cancel()
        await asyncio.sleep(0)
        asker.connection.resume_writing()
        tasks = first + second
        await asyncio.wait(tasks)
        ends = [None if task.cancelled() else task.result().remaining for task in tasks]
        assert ends == [4, None, 3, None, 2, 1, 0]


def on_each_reply(patch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act before each piece of replies is read."""
    receive = AsyncConnection.data_received

    def data_received(self: AsyncConnection, data: bytes) -> None:
        act()
        receive(self, data)

    patch.setattr(AsyncConnection, "data_received", data_received)


def check_newcomers(store: str, subject: str, kind: str, patch: pytest.MonkeyPatch) -> None:
    """Five of eight callers pass; then the count is reset, and five newcomers come.

    The three that are left ask before them.
    """
    actions: list[Callable[[], object]] = []
    newcomers: list[Any] = []
    on_each_reply(patch, lambda: actions and actions.pop()())
    client = redis.Redis.from_url(store)

    async def main() -> None:
        async with Joining(store, FixedWindow(5, 3600), timeout=20.0) as asker:
            await asker.open()
            await asker.ask("peek", subject)
            call = asker.plan.call("hit", subject, 1)

            def reset_and_come() -> None:
                client.delete(call.keys[0])
                newcomers.extend(asker.transport.begin(call) for _ in range(5))

            actions.append(reset_and_come)
            decisions = await asyncio.gather(*(asker.hit(subject) for _ in range(8)))
            assert [each.remaining for each in decisions] == [4, 3, 2, 1, 0, 4, 3, 2]
            assert all(decisions)
            later = [await sent[0] for sent in newcomers]
            assert [reply[:2] for reply in later] == [(1, 1), (1, 0), (0, 0), (0, 0), (0, 0)]

    in_loop(main(), kind)
    client.close()


def test_those_left_ask_before_newcomers(
    store: str, subject: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of arrival holds between a group and later calls."""
    check_newcomers(store, subject, kind, monkeypatch)


def test_a_limit_that_refills_as_fast_as_replies_come(
    store: str, subject: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three calls that each admit a few, the callers that are left are sent alone."""
    plan = Plan((FixedWindow(5, 3600),), KeySpeller("rl", "default", None))
    (key,) = plan.call("hit", subject, 1).keys
    client = redis.Redis.from_url(store)
    on_each_reply(monkeypatch, lambda: client.delete(key))

    async def main() -> None:
        async with AsyncLimiter(FixedWindow(5, 3600), store=store, timeout=20.0) as limiter:
            await limiter.peek(subject)
            before = scripts_run(client)
            decisions = await together(limiter, 40, subject)
            assert scripts_run(client) - before == 3 + 25
            allowed = [decision.allowed for decision in decisions]
            assert allowed[:20] == [True] * 20
            assert 20 <= sum(allowed) < 40

    in_loop(main(), kind)
    client.close()


def test_prepared_templates_are_bounded(store: str, subject: str) -> None:
    """A group of any size leaves the limiter's own templates alone; those of groups are forgotten."""

    async def main() -> None:
        async with AsyncLimiter(PLENTY, store=store, timeout=20.0) as limiter:
            for callers in range(1, 40):
                await together(limiter, callers, subject)
            assert len(limiter._core.plan.templates) == 1
        with Limiter(PLENTY, store=store) as other:
            assert used(other, subject) == sum(range(1, 40))

    in_loop(main())
    assert joined._joint_template.cache_info().maxsize == 1024


def reversed_order(patch: pytest.MonkeyPatch) -> None:
    """The last callers are served first."""
    share = joined._share
    patch.setattr(joined, "_share", lambda pending, *reply: share(pending[::-1], *reply))


def same_remaining(patch: pytest.MonkeyPatch) -> None:
    """All callers get the same remaining."""

    def share(pending: list[Any], reply: Any, cost: int) -> None:
        for each in pending:
            each.set_result((cost, *reply[1:]))

    patch.setattr(joined, "_share", share)


def cancelled_charged(patch: pytest.MonkeyPatch) -> None:
    """Callers that have gone before the call is sent are charged."""
    joint_call = joined._joint_call
    patch.setattr(joined, "_joint_call", lambda call, calls: joint_call(call, calls + 4))


def newcomers_first(patch: pytest.MonkeyPatch) -> None:
    """Callers that are left ask after newcomers."""

    def not_sent(self: Any) -> Any:
        return self._held_back + self.unsent + self._asks_again

    patch.setattr(AsyncConnection, "_not_sent", not_sent)


@pytest.mark.parametrize("plant", [reversed_order, same_remaining, cancelled_charged])
def test_faults_are_found(
    store: str, subject: str, monkeypatch: pytest.MonkeyPatch, plant: Any
) -> None:
    """The comparison with single calls, or the test of cancelled ones, fails with each fault."""
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        asyncio.run(check_joined(store, [FixedWindow(64, 60)], subject, 20, 1))
    if plant is cancelled_charged:
        with pytest.raises(AssertionError):
            in_loop(test_cancelled_before_it_is_sent(store, f"{subject}-3", "asyncio"))


def test_a_wrong_place_is_found(store: str, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of newcomers fails if those left ask after them."""
    newcomers_first(monkeypatch)
    with pytest.raises(AssertionError):
        check_newcomers(store, subject, "asyncio", monkeypatch)

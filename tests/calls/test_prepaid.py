"""Prepaid units on real servers: exact counts, and what happens to units when processes and stores fail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import pytest
import redis

from limiter import (
    GCRA,
    AsyncLimiter,
    Decision,
    FixedWindow,
    InvalidCost,
    Limiter,
    SlidingLog,
    SlidingWindow,
    StoreUnavailable,
    TokenBucket,
    prepaid_subjects,
)
from limiter.policies import Policy
from limiter.testing import set_time
from service.demo.servers import Server
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, PATIENCE, by_algorithm
from tests.parallel import child, in_child, in_threads
from tests.proxy import Proxy, cut, swallow
from tests.transport.support import scripts_run
from tests.waiting import STALL, soon, until

DAY = FixedWindow(100_000, "day")
#: A hold in which nothing expires while a test runs, on a busy machine.
LONG = 50.0
POLICIES = [
    DAY,
    SlidingLog(10_000, "day"),
    SlidingWindow(100_000, "day"),
    TokenBucket(100_000, "day"),
    GCRA(100_000, "day"),
]


def warm(limiter: Any, subject: str, hits: int = 300) -> int:
    """Hit until many units are taken at once; return how many hits there were."""
    for _ in range(hits):
        assert limiter.hit(subject).allowed
    return hits


def left(limiter: Any, subject: str) -> int:
    """The number of units that are here."""
    return len(getattr(limiter, "inner", limiter)._core.prepaid.subject(subject).units.unspent)


def used(limiter: Any, subject: str) -> int:
    """The units that the store has charged, seen by a limiter without prepaid units."""
    policy = limiter.policies[0]
    return int(policy.capacity - limiter.peek(subject).remaining)


# --- counts ---


@pytest.mark.parametrize("policy", POLICIES, ids=by_algorithm)
def test_few_calls_and_exact_numbers(
    make_on: Make, store: str, subject: str, policy: Policy
) -> None:
    """1,000 hits take some thirty calls, and each decision is that of a limiter that asks every time."""
    limiter = make_on(store, policy, prepaid=100, prepaid_hold=LONG)
    client = redis.Redis.from_url(store)
    before = scripts_run(client)
    decisions = [limiter.hit(subject) for _ in range(1_000)]
    assert scripts_run(client) - before < 40
    capacity = policy.capacity
    tolerance = 2 if policy.algorithm in ("token_bucket", "gcra") else 0  # they refill meanwhile
    for number, decision in enumerate(decisions, 1):
        assert decision.allowed
        assert decision.granted == 1
        assert 0 <= decision.remaining - (capacity - number) <= tolerance
    assert sum(decision.cached for decision in decisions) > 960
    assert limiter.peek(subject).remaining - (capacity - 1_000) <= tolerance


def test_every_kind_of_store(make: Make, kind: str, subject: str) -> None:
    """Also on a cluster; ``memory://`` saves no round trip, and has no prepaid units."""
    limiter = make([DAY, SlidingLog(10_000, "day")], prepaid=100, prepaid_hold=LONG)
    decisions = [limiter.hit(subject) for _ in range(300)]
    remaining = [decision.remaining for decision in decisions]
    assert remaining == list(range(9_999, 9_699, -1))
    assert any(decision.cached for decision in decisions) == (kind != "memory")
    limiter.close()
    assert limiter.peek(subject).remaining == 9_700


def test_times_of_a_spent_unit(make_on: Make, store: str, subject: str) -> None:
    """They go on, though no call is made: reset_after falls, and decided_at rises."""
    limiter = make_on(store, FixedWindow(1_000, 60), prepaid=100, prepaid_hold=LONG)
    warm(limiter, subject)
    first = limiter.hit(subject)
    time.sleep(0.05)  # time that the next decision must count
    second = limiter.hit(subject)
    assert first.cached
    assert second.cached
    assert 0.05 <= first.reset_after - second.reset_after < PATIENCE
    both = [each.decided_at + each.reset_after for each in (first, second)]
    assert both[0] == pytest.approx(both[1], abs=1e-4)


def test_several_policies(make_on: Make, store: str, subject: str) -> None:
    """All are charged the same; the smallest decides."""
    policies = [FixedWindow(500, "day"), SlidingLog(300, "day"), GCRA(1_000, "day")]
    limiter = make_on(store, policies, prepaid=100, prepaid_hold=LONG)
    decisions = [limiter.hit(subject) for _ in range(400)]
    assert [decision.allowed for decision in decisions] == [True] * 300 + [False] * 100
    assert [decision.remaining for decision in decisions[:300]] == list(range(299, -1, -1))
    assert [each.remaining for each in decisions[299].each][:2] == [200, 0]
    assert sum(decision.cached for decision in decisions) > 200


def test_costs(make_on: Make, store: str, subject: str) -> None:
    """Units that are here count first: a cost above them takes only what is lacking."""
    limiter = make_on(store, FixedWindow(1_000, "day"), prepaid=100, prepaid_hold=LONG)
    plain = make_on(store, FixedWindow(1_000, "day"))
    spent = warm(limiter, subject)
    for cost in (7, 3, 50, 1, 120, 90, 1):
        decision = limiter.hit(subject, cost)
        spent += cost
        assert (decision.granted, decision.remaining) == (cost, 1_000 - spent)
        assert used(plain, subject) == spent + left(limiter, subject)
    remaining = 1_000 - spent
    denied = limiter.hit(subject, remaining + 1)
    assert (denied.allowed, denied.granted, denied.remaining) == (False, 0, remaining)
    assert limiter.hit(subject, remaining).remaining == 0
    assert not limiter.hit(subject)
    assert used(plain, subject) == 1_000
    with pytest.raises(InvalidCost):
        limiter.hit(subject, 1_001)


def test_a_cost_that_could_never_pass(make_on: Make, store: str, subject: str) -> None:
    """Not even with the units that are here, of which only the rest would have to be taken."""
    limiter = make_on(store, FixedWindow(200, "day"), prepaid=100, prepaid_hold=LONG)
    warm(limiter, subject, 60)
    assert left(limiter, subject)
    with pytest.raises(InvalidCost):
        limiter.hit(subject, 201)


def test_the_end_of_a_limit_is_exact(make_on: Make, store: str, new_subject: Any) -> None:
    """For every small limit: as many pass as the limit says."""
    for limit in range(1, 40):
        subject = new_subject()
        limiter = make_on(store, FixedWindow(limit, "day"), prepaid=100, prepaid_hold=LONG)
        allowed = [limiter.hit(subject).allowed for _ in range(limit + 3)]
        assert allowed == [True] * limit + [False] * 3


def test_threads_share_units(store: str, subject: str) -> None:
    """No unit is spent twice, none is lost, and no caller is denied while units are left."""
    limiter = Limiter(
        FixedWindow(5_000, "day"), store=store, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE
    )
    counts = [0] * 16

    def work(number: int) -> None:
        while limiter.hit(subject):
            counts[number] += 1

    in_threads(16, work)
    assert sum(counts) == 5_000
    limiter.close()


async def test_coroutines_share_units(store: str, subject: str) -> None:
    """The same for tasks; some are cancelled, and each of these costs one unit at most."""
    limiter = AsyncLimiter(
        FixedWindow(5_000, "day"), store=store, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE
    )
    plain = AsyncLimiter(FixedWindow(5_000, "day"), store=limiter)
    hits = [asyncio.create_task(limiter.hit(subject)) for _ in range(1_000)]
    for hit in hits[::50]:
        hit.cancel()
    decisions = await asyncio.gather(*hits, return_exceptions=True)
    allowed = [each for each in decisions if isinstance(each, Decision) and each.allowed]
    assert len(allowed) == 980
    await asyncio.sleep(0)
    charged = 5_000 - (await plain.peek(subject)).remaining
    here = left(limiter, subject)
    assert 980 <= charged - here <= 1_000

    async def work() -> int:
        count = 0
        while await limiter.hit(subject):
            count += 1
        return count

    more = sum(await asyncio.gather(*[work() for _ in range(32)]))
    assert more == 5_000 - (charged - here)
    await limiter.close()


def test_a_cancelled_taker_leaves_its_units(proxy: Proxy, subject: str) -> None:
    """Its call goes on in a task: those who wait for it get the units."""

    async def main() -> None:
        limiter = AsyncLimiter(
            DAY, store=proxy.url, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE
        )
        while left_here(limiter) < 50:
            await limiter.hit(subject)
        while left_here(limiter):
            await limiter.hit(subject)
        proxy.replies = slow
        first = asyncio.create_task(limiter.hit(subject))
        await asyncio.sleep(0)
        others = [asyncio.create_task(limiter.hit(subject)) for _ in range(20)]
        await asyncio.sleep(0)
        first.cancel()
        decisions = await asyncio.gather(*others)
        assert all(decision.cached for decision in decisions)
        proxy.mend()
        await limiter.close()

    def left_here(limiter: AsyncLimiter) -> int:
        return left(limiter, subject)

    def slow(data: bytes) -> bytes:
        time.sleep(0.1)  # the call is under way when it is cancelled
        return data

    asyncio.run(main())


@pytest.mark.parametrize("cost", [1, 2, 3])
@pytest.mark.parametrize("spend", [AsyncLimiter.hit, AsyncLimiter.wait])
def test_spending_lets_other_tasks_run(store: str, subject: str, spend: Any, cost: int) -> None:
    """A call that spends a unit waits for nothing: a loop of calls still pauses now and then."""

    async def main() -> None:
        limiter = AsyncLimiter(
            DAY, store=store, prepaid=10_000, prepaid_hold=LONG, timeout=PATIENCE
        )
        while left(limiter, subject) < 2_000:
            await limiter.hit(subject)
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        decisions = [await spend(limiter, subject, cost) for _ in range(600)]
        assert all(decision.cached for decision in decisions)
        assert turns >= 600 * cost // 64 - 1
        ticker.cancel()
        await limiter.close()

    asyncio.run(main())


def test_several_loops_share_a_limiter(store: str, subject: str) -> None:
    """In threads at the same time; the count is exact."""
    limiter = AsyncLimiter(
        FixedWindow(3_000, "day"), store=store, prepaid=50, prepaid_hold=LONG, timeout=PATIENCE
    )

    async def work() -> int:
        count = 0
        while await limiter.hit(subject):
            count += 1
        return count

    async def main() -> int:
        counts = await asyncio.gather(*[work() for _ in range(8)])
        await limiter.close()
        return sum(counts)

    with ThreadPoolExecutor(3) as pool:
        total = sum(pool.map(lambda _: asyncio.run(main()), range(3)))
    # When a loop ends, its limiter is closed, and returns what the others then take again.
    assert total == 3_000


def test_a_loop_that_is_closed_too_early(
    store: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task that would return units never ends: one of a later loop returns all of them."""
    monkeypatch.setattr(prepaid_subjects, "_LATE", 0.3 - PATIENCE)
    limiter = AsyncLimiter(DAY, store=store, prepaid=100, prepaid_hold=0.2, timeout=PATIENCE)
    prepaid = limiter._core.prepaid
    assert prepaid is not None

    async def hits() -> None:
        for _ in range(50):
            await limiter.hit(subject)

    async def hits_until_all_are_back() -> None:
        await hits()
        await soon(lambda: asyncio.sleep(0, not prepaid._out and not limiter._core.tasks))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(hits())
    loop.close()
    assert prepaid._out
    time.sleep(0.6)  # until a look is late
    asyncio.run(hits_until_all_are_back())


# --- what does not use them ---


def test_other_calls_go_to_the_store(make_on: Make, store: str, subject: str) -> None:
    """A tag, other limits and ``at_least``; they see the units as charged, and a tag counts apart."""
    limiter = make_on(store, FixedWindow(1_000, "day"), prepaid=100, prepaid_hold=LONG)
    warm(limiter, subject)
    here = left(limiter, subject)
    assert here
    assert limiter.hit(subject, tag="t").remaining == 999
    assert limiter.hit(subject, limits="2000/day").remaining == 2_000 - 301 - here
    assert limiter.hit(subject, 2, at_least=1).remaining == 1_000 - 303 - here
    assert [each.remaining for each in limiter.hit_all([(subject, 1)])] == [1_000 - 304 - here]
    assert left(limiter, subject) == here
    assert limiter.peek(subject, limits="2000/day").remaining == 2_000 - 304 - here
    assert limiter.peek(subject).remaining == 1_000 - 304


def test_wait_and_reserve_spend_units(make_on: Make, store: str, subject: str) -> None:
    """They are denied only if neither the store nor this process has room."""
    limiter = make_on(store, FixedWindow(400, "day"), prepaid=100, prepaid_hold=LONG)
    plain = make_on(store, FixedWindow(400, "day"))
    warm(limiter, subject)
    here = left(limiter, subject)
    assert plain.hit(subject, 100 - here).remaining == 0
    assert limiter.peek(subject, here).allowed
    assert not limiter.peek(subject, here + 1).allowed
    assert limiter.wait(subject, timeout=0).cached
    with limiter.reserve(subject, here - 1) as reserved:
        assert reserved.decision.cached
        assert left(limiter, subject) == 0


def test_a_given_time_has_no_prepaid_units(store: str, subject: str) -> None:
    """In a simulation every call goes to the store."""
    limiter = Limiter(DAY, store=store, prepaid=100, timeout=PATIENCE)
    set_time(limiter, NOW_US)
    assert not any(limiter.hit(subject).cached for _ in range(20))
    limiter.close()


def test_long_keys_and_many_subjects(make_on: Make, store: str, subject: str) -> None:
    """No client fills the memory: two generations are kept, and forgotten units are returned."""
    limiter = make_on(store, DAY, prepaid=100, prepaid_hold=0.2)
    plain = make_on(store, DAY)
    assert not any(limiter.hit("k" * 257 + subject).cached for _ in range(10))
    prepaid = getattr(limiter, "inner", limiter)._core.prepaid
    prepaid._subjects._size = 8
    for number in range(50):
        warm(limiter, f"{subject}-{number}", 4)
        assert len(set(prepaid._subjects.both())) <= 16
    until(lambda: all(used(plain, f"{subject}-{number}") == 4 for number in range(50)))


# --- returns ---


def test_spent_units_take_no_memory(store: str, subject: str) -> None:
    """Only units that are left are kept for their return, however long the hold is."""
    limiter = Limiter(DAY, store=store, prepaid=4, prepaid_hold=LONG, timeout=PATIENCE)
    warm(limiter, subject, 1_000)
    assert len(limiter._core.prepaid._out) <= 1  # type: ignore[union-attr]
    limiter.close()


def test_expired_units_are_returned(make_on: Make, store: str, subject: str) -> None:
    """In the background; the count is then that of the hits."""
    limiter = make_on(store, DAY, prepaid=100, prepaid_hold=0.2)
    plain = make_on(store, DAY)
    hits = warm(limiter, subject, 500)
    until(lambda: used(plain, subject) == hits)
    assert limiter.hit(subject).remaining == DAY.limit - hits - 1


@pytest.mark.parametrize("policy", POLICIES, ids=by_algorithm)
def test_close_returns_units(make_on: Make, store: str, subject: str, policy: Policy) -> None:
    """Then other processes have them."""
    limiter = make_on(store, policy, prepaid=100, prepaid_hold=LONG)
    plain = make_on(store, policy)
    hits = warm(limiter, subject)
    here = left(limiter, subject)
    assert here
    assert used(plain, subject) in range(hits + here - 1, hits + here + 1)
    limiter.close()
    assert left(limiter, subject) == 0
    assert used(plain, subject) in range(hits - 1, hits + 1)
    assert not limiter.hit(subject).cached


def test_a_reset_drops_units(make_on: Make, store: str, subject: str) -> None:
    """They are neither spent nor returned: the count begins anew, and nothing is refunded later."""
    limiter = make_on(store, DAY, prepaid=100, prepaid_hold=LONG)
    plain = make_on(store, DAY)
    for key in (subject, subject.encode()):  # the same subject, written in another way
        warm(limiter, subject)
        assert left(limiter, subject)
        limiter.reset(key)
        assert used(plain, subject) == 0
        decision = limiter.hit(subject)
        assert not decision.cached
        assert decision.remaining == DAY.limit - 1
        limiter.close()
        assert used(plain, subject) == 1
        limiter.reset(subject)


def test_a_reset_during_a_take(store: str, subject: str) -> None:
    """The reply of a call that was sent before the reset leaves no units."""
    limiter = Limiter(DAY, store=store, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    plain = Limiter(DAY, store=limiter)
    warm(limiter, subject)
    while left(limiter, subject):
        limiter.hit(subject)
    core = limiter._core
    run = core.transport.run

    def reset_before_the_reply(call: Any, deadline: float | None = None) -> Any:
        reply = run(call, deadline)
        core.transport.run = run  # type: ignore[method-assign]
        limiter.reset(subject)
        return reply

    core.transport.run = reset_before_the_reply  # type: ignore[method-assign]
    assert limiter.hit(subject).allowed
    assert left(limiter, subject) == 0
    limiter.close()
    assert used(plain, subject) == 0


def test_a_reset_during_a_take_that_fails(store: str, subject: str) -> None:
    """The units that it would have spent with others are not returned: the count has begun anew."""
    limiter = Limiter(DAY, store=store, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    plain = Limiter(DAY, store=limiter)
    warm(limiter, subject)
    here = left(limiter, subject)
    assert here
    core = limiter._core
    run = core.transport.run

    def reset_and_fail(call: Any, deadline: float | None = None) -> Any:
        core.transport.run = run  # type: ignore[method-assign]
        limiter.reset(subject)
        warm(plain, subject)
        raise StoreUnavailable("no answer")

    core.transport.run = reset_and_fail  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject, here + 1)
    limiter.close()
    assert used(plain, subject) == 300


def test_a_close_while_others_return_units(
    store: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may return the last units at any point of it."""
    limiter = Limiter(DAY, store=store, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    warm(limiter, subject)
    prepaid = limiter._core.prepaid
    assert prepaid is not None
    times = 0

    def returned_meanwhile() -> float:
        nonlocal times
        times += 1
        if times == 2:
            prepaid._out.clear()
        return time.monotonic()

    monkeypatch.setattr(prepaid_subjects, "monotonic", returned_meanwhile)
    limiter.close()
    assert times >= 2


def test_a_return_that_fails(make_on: Make, proxy: Proxy, store: str, subject: str) -> None:
    """It is counted, and the units stay charged until they age."""
    limiter = make_on(proxy.url, DAY, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    warm(limiter, subject)
    here = left(limiter, subject)
    proxy.requests = cut
    limiter.close()
    proxy.mend()
    assert limiter.unsettled == 1
    assert used(make_on(store, DAY), subject) == 300 + here


# --- failures ---


def _hold_units(store: str, subject: str, hold: float, pipe: Connection) -> None:
    """Take units; then hit when the pipe says so, and report the decision."""
    limiter = Limiter(
        FixedWindow(1_000, 60), store=store, prepaid=100, prepaid_hold=hold, timeout=PATIENCE
    )
    warm(limiter, subject)
    while left(limiter, subject) < 20:
        limiter.hit(subject)
    spent = 1_000 - limiter.peek(subject).remaining
    pipe.send((spent, left(limiter, subject)))
    while True:
        pipe.recv()
        decision = limiter.hit(subject)
        pipe.send((decision.allowed, decision.cached))


def test_a_killed_holder(store: str, subject: str) -> None:
    """With -9: what it held stays charged; the others get the rest, and no more."""
    plain = Limiter(FixedWindow(1_000, 60), store=store, timeout=PATIENCE)
    with child(_hold_units, store, subject, LONG) as (process, pipe):
        assert pipe.poll(PATIENCE)
        spent, here = pipe.recv()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert sum(plain.hit(subject).allowed for _ in range(1_000)) == 1_000 - spent - here
    plain.close()


@pytest.mark.slow
def test_a_stopped_holder(store: str, subject: str) -> None:
    """Stopped for longer than the hold: its units have expired, and its next hit asks the store."""
    with child(_hold_units, store, subject, 1.0) as (process, pipe):
        assert pipe.poll(PATIENCE)
        pipe.recv()
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.1)  # the units expire
        os.kill(process.pid, signal.SIGCONT)
        pipe.send("hit")
        assert pipe.poll(PATIENCE)
        assert pipe.recv() == (True, False)


def test_a_fork_has_no_units(store: str, subject: str) -> None:
    """Those of the parent stay the parent's: the child takes its own, and returns only these."""
    limiter = Limiter(DAY, store=store, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    plain = Limiter(DAY, store=limiter)
    hits = warm(limiter, subject)
    here = left(limiter, subject)
    assert here

    def hit_in_the_child() -> None:
        decision = limiter.hit(subject)
        limiter.close()
        assert decision.allowed
        assert not decision.cached

    assert in_child(hit_in_the_child) == 0
    assert used(plain, subject) == hits + here + 1
    assert limiter.hit(subject).cached
    limiter.close()
    assert used(plain, subject) == hits + 2


def _hit_until_denied(store: str, subject: str, pipe: Connection) -> None:
    """Hit until a thousand denials in a row, in which others' units expire; report how many passed."""
    limiter = Limiter(
        FixedWindow(250, "day"), store=store, prepaid=100, prepaid_hold=0.2, timeout=PATIENCE
    )
    limiter.open()
    pipe.send("ready")
    pipe.recv()
    passed = denied = 0
    while denied < 1_000:
        allowed = limiter.hit(subject).allowed
        passed, denied = passed + allowed, 0 if allowed else denied + 1
        time.sleep(0.0005)  # the work
    pipe.send(passed)
    pipe.recv()


@pytest.mark.slow
def test_a_small_limit_with_four_holders(store: str, subject: str) -> None:
    """Of 250 units none is admitted twice, and none stays with a process that does not use it."""
    with (
        child(_hit_until_denied, store, subject) as (_, first),
        child(_hit_until_denied, store, subject) as (_, second),
        child(_hit_until_denied, store, subject) as (_, third),
        child(_hit_until_denied, store, subject) as (_, fourth),
    ):
        pipes = [first, second, third, fourth]
        for pipe in pipes:
            assert pipe.poll(PATIENCE)
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        assert all(pipe.poll(PATIENCE) for pipe in pipes)
        assert sum(pipe.recv() for pipe in pipes) == 250


@pytest.mark.slow
def test_a_window_shorter_than_the_hold(store: str, subject: str) -> None:
    """Units end with their own window: no window of the store admits more than its limit."""
    policy = FixedWindow(50, 0.1, align=True)
    limiter = Limiter(policy, store=store, prepaid=25, prepaid_hold=0.2, timeout=PATIENCE)
    counts: dict[int, int] = {}
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        decision = limiter.hit(subject)
        if decision.allowed:
            window = int(decision.decided_at * 1e6) // policy.period_us
            counts[window] = counts.get(window, 0) + 1
    assert max(counts.values()) <= 50
    assert sum(counts.values()) > 10 * len(counts)
    limiter.close()


def test_units_are_spent_while_the_store_is_away(make_on: Make, proxy: Proxy, subject: str) -> None:
    """They are paid; when they are spent, ``on_error`` decides."""
    limiter = make_on(proxy.url, DAY, prepaid=100, prepaid_hold=LONG, timeout=STALL)
    warm(limiter, subject, 100)
    here = left(limiter, subject)
    assert here
    proxy.replies = swallow
    assert all(limiter.hit(subject).cached for _ in range(here))
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject)
    proxy.mend()
    assert until(lambda: tried(limiter, subject))
    assert left(limiter, subject) <= 1  # after a failure no more is taken than a hit needs


def tried(limiter: Any, subject: str) -> bool:
    """Hit; False if the store did not decide."""
    try:
        return bool(limiter.hit(subject))
    except StoreUnavailable:
        return False


@pytest.mark.parametrize("on_error", ["raise", "allow", "deny", "local"])
def test_callers_that_wait_for_another_one(proxy: Proxy, subject: str, on_error: str) -> None:
    """The store does not answer the one that takes: the others end within their own timeout, too."""
    limiter = Limiter(
        DAY, store=proxy.url, prepaid=100, prepaid_hold=LONG, timeout=STALL, on_error=on_error
    )
    warm(limiter, subject, 100)
    while left(limiter, subject):
        limiter.hit(subject)
    proxy.replies = swallow
    outcomes: list[tuple[float, object]] = []

    def work(_: int) -> None:
        began = time.monotonic()
        try:
            outcome: object = limiter.hit(subject)
        except StoreUnavailable as error:
            outcome = error
        outcomes.append((time.monotonic() - began, outcome))

    in_threads(8, work)
    _check_outcomes(outcomes, on_error)
    proxy.mend()
    until(lambda: tried(limiter, subject))
    limiter.close()


@pytest.mark.parametrize("on_error", ["raise", "allow", "deny", "local"])
def test_coroutines_that_wait_for_another_one(proxy: Proxy, subject: str, on_error: str) -> None:
    """The same for tasks, some of which began later."""
    outcomes: list[tuple[float, object]] = []

    async def main() -> None:
        limiter = AsyncLimiter(
            DAY, store=proxy.url, prepaid=100, prepaid_hold=LONG, timeout=STALL, on_error=on_error
        )
        for _ in range(100):
            assert await limiter.hit(subject)
        while left(limiter, subject):
            await limiter.hit(subject)
        proxy.replies = swallow

        async def work(pause: float) -> None:
            await asyncio.sleep(pause)
            began = time.monotonic()
            try:
                outcome: object = await limiter.hit(subject)
            except StoreUnavailable as error:
                outcome = error
            outcomes.append((time.monotonic() - began, outcome))

        await asyncio.gather(*[work(number % 3 * 0.2) for number in range(8)])
        proxy.mend()
        await limiter.close()

    asyncio.run(main())
    _check_outcomes(outcomes, on_error)


def _check_outcomes(outcomes: list[tuple[float, object]], on_error: str) -> None:
    assert len(outcomes) == 8
    for seconds, outcome in outcomes:
        assert seconds < 2 * STALL  # far less than one after the other
        if on_error == "raise":
            assert isinstance(outcome, StoreUnavailable)
        else:
            assert isinstance(outcome, Decision)
            assert outcome.degraded
            assert outcome.allowed == (on_error != "deny")


def test_a_turn_that_was_never_released(proxy: Proxy, subject: str) -> None:
    """A signal handler may end a call at any point: later calls of the subject go on after one timeout."""
    limiter = Limiter(DAY, store=proxy.url, prepaid=100, prepaid_hold=LONG, timeout=STALL)
    warm(limiter, subject, 50)
    while left(limiter, subject):
        limiter.hit(subject)
    turn = limiter._core.prepaid.subject(subject).turn  # type: ignore[union-attr]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(turn.acquire).result()
    with pytest.raises(StoreUnavailable, match="another call takes prepaid units"):
        limiter.hit(subject)
    assert limiter.hit(subject).allowed
    limiter.close()


def test_a_signal_handler_during_a_take(store: str, subject: str) -> None:
    """It may hit the same subject: it does not wait for the call that it interrupts."""
    limiter = Limiter(DAY, store=store, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    warm(limiter, subject)
    while left(limiter, subject):
        limiter.hit(subject)
    core = limiter._core
    run, inner = core.transport.run, []

    def interrupted(call: Any, deadline: float | None = None) -> Any:
        core.transport.run = run  # type: ignore[method-assign]
        inner.append(limiter.hit(subject))
        return run(call, deadline)

    core.transport.run = interrupted  # type: ignore[method-assign]
    began = time.monotonic()
    assert limiter.hit(subject).allowed
    assert inner[0].allowed
    assert time.monotonic() - began < PATIENCE
    limiter.close()


def test_a_lost_take_costs_its_units(proxy: Proxy, store: str, subject: str) -> None:
    """The call ran, but no reply came: its units stay charged, and the next call takes one."""
    limiter = Limiter(DAY, store=proxy.url, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    plain = Limiter(DAY, store=store, timeout=PATIENCE)
    hits = warm(limiter, subject, 100)
    while left(limiter, subject):
        limiter.hit(subject)
        hits += 1
    proxy.replies = cut
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject)
    proxy.mend()
    lost = used(plain, subject) - hits
    assert 2 <= lost <= 100
    assert until(lambda: tried(limiter, subject))
    assert used(plain, subject) == hits + lost + 1
    limiter.close()
    plain.close()


def test_a_server_that_lost_its_state(own: Server, subject: str) -> None:
    """Units are spent, and a return to an unused subject changes nothing."""
    limiter = Limiter(DAY, store=own.url, prepaid=100, prepaid_hold=LONG, timeout=PATIENCE)
    warm(limiter, subject)
    here = left(limiter, subject)
    assert here > 1
    client = redis.Redis.from_url(own.url)
    client.flushall()
    assert limiter.hit(subject).cached
    limiter.close()
    assert client.dbsize() == 0
    assert limiter.hit(subject).remaining == DAY.limit - 1
    limiter.close()

"""Interrupted and cancelled calls, and callers that use a lease or a reservation in a wrong way."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from limiter import Concurrency, FixedWindow, InvalidSetting, Limiter, StoreUnavailable
from limiter.aio import AsyncLimiter
from limiter.plan import Part
from limiter.testing import StoreCall, intercept
from limiter.web import limiter_calls
from service.demo.servers import Cluster
from tests.calls.support import OURS, PATIENCE
from tests.waiting import soon, until, until_renewed

PLACES = Concurrency(3, lease=30)


class NotAnException(BaseException):
    """An exception that ``except Exception`` does not catch, as from signal handlers."""


def cancel_on_and_on(task: asyncio.Task[Any]) -> None:
    """Cancel a task in every turn of the loop until it ends, as anyio's scopes do."""
    if not task.done():
        task.cancel()
        asyncio.get_running_loop().call_soon(cancel_on_and_on, task)


@pytest.fixture(params=["standalone", "memory"])
def place(request: pytest.FixtureRequest) -> str:
    """The address of a store."""
    return "memory://" if request.param == "memory" else request.getfixturevalue("store")


async def test_leases_of_bodies_that_are_cancelled_again_and_again(
    place: str, subject: str
) -> None:
    """In the body, and while the lease is taken: all leases are released."""
    limiter = AsyncLimiter(PLACES, store=place, timeout=PATIENCE)

    async def body() -> None:
        async with limiter.hold(subject):
            await asyncio.sleep(60)

    async def all_back() -> bool:
        return not limiter._core.tasks and (await limiter.peek(subject)).remaining == 3

    for turns in range(8):
        task = asyncio.ensure_future(body())
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 7:
            await asyncio.sleep(0.05)
        cancel_on_and_on(task)
        with pytest.raises(asyncio.CancelledError):
            await task
        await soon(all_back)
    assert limiter.unsettled == 0
    await limiter.close()


async def test_a_reservation_whose_body_is_cancelled_again_and_again(
    place: str, subject: str
) -> None:
    """All of it is released."""
    limiter = AsyncLimiter("100/hour", store=place, timeout=PATIENCE)

    async def body() -> None:
        async with limiter.reserve(subject, 50):
            await asyncio.sleep(60)

    async def remain(count: int) -> bool:
        return (await limiter.peek(subject)).remaining == count

    task = asyncio.ensure_future(body())
    await soon(lambda: remain(50))
    cancel_on_and_on(task)
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(lambda: remain(100))
    await limiter.close()


async def test_a_sequential_hit_that_is_cancelled(cluster: Cluster, subject: str) -> None:
    """Earlier charges are refunded; at most the call under way stays charged."""
    limiter = AsyncLimiter(FixedWindow(1_000, "day"), store=cluster.url, timeout=PATIENCE)
    keys = [f"{subject}-{number}" for number in range(3)]  # hashed to slots of their own
    await limiter.hit_all([(key, 1) for key in keys])
    done = 1
    for turn in range(40):
        task = asyncio.ensure_future(limiter.hit_all([(key, 1) for key in keys]))
        await asyncio.sleep(turn * 0.000_05)
        task.cancel()
        try:
            await task
            done += 1
        except asyncio.CancelledError:
            pass
    await asyncio.sleep(0.3)  # refunds are on their way; nothing signals their end

    async def charged() -> list[int]:
        return [1_000 - (await limiter.peek(key)).remaining for key in keys]

    async def are_refunded() -> bool:
        # One subject's charge may have been under way in each cancelled call.
        return sum(await charged()) <= 3 * done + (41 - done)

    await soon(are_refunded)
    assert min(await charged()) >= done
    assert limiter.unsettled == 0
    await limiter.close()


@pytest.mark.parametrize(("where", "lost"), [("refund", 1), ("peek", 0)])
def test_interrupted_during_the_refunds_of_a_sequential_hit(
    store: str, subject: str, where: str, lost: int
) -> None:
    """The other charges are refunded; the one refund that was under way is counted."""
    limiter = Limiter(FixedWindow(5, "day"), store=store, timeout=PATIENCE)
    limiter._core.transport.one_slot = lambda _: False  # type: ignore[method-assign]  # as in a cluster
    keys = [f"{subject}-{number}" for number in range(4)]
    limiter.hit(keys[3], 5)
    interrupt_once(limiter, where)
    with pytest.raises(NotAnException):
        limiter.hit_all([(key, 1) for key in keys])
    until(lambda: [5 - limiter.peek(key).remaining for key in keys] == [lost, 0, 0, 5])
    assert limiter.unsettled == lost
    limiter.close()


def test_interrupted_during_the_releases_of_a_sequential_hit(store: str, subject: str) -> None:
    """The rate under way is counted; the leases, and all other rates, are released or refunded."""
    limits = [Concurrency(5, lease=60), FixedWindow(5, "day")]
    limiter = Limiter(limits, store=store, timeout=PATIENCE)
    limiter._core.transport.one_slot = lambda _: False  # type: ignore[method-assign]
    keys = [f"{subject}-{number}" for number in range(3)]
    interrupt_once(limiter, "refund")
    parts = [Part(limiter_calls.plan(limiter), key, 1) for key in keys]
    with limiter.hold(keys[2], 5), pytest.raises(NotAnException):
        limiter._core.drive(limiter_calls.decide_flow([limiter], parts, "acquire", "one"))
    lefts = lambda: [[one.remaining for one in limiter.peek(key).each] for key in keys]  # noqa: E731
    until(lambda: lefts() == [[5, 4], [5, 5], [5, 0]])
    assert limiter.unsettled == 1
    limiter.close()


async def test_cancelled_during_the_refunds_of_a_sequential_hit(store: str, subject: str) -> None:
    """As above, for coroutines, again and again."""
    limiter = AsyncLimiter(FixedWindow(1_000, "day"), store=store, timeout=PATIENCE)
    limiter._core.transport.one_slot = lambda _: False  # type: ignore[method-assign]
    keys = [f"{subject}-{number}" for number in range(5)]
    await limiter.hit(keys[-1], 1_000)

    async def cancel(call: StoreCall, ahead: Any) -> Any:
        ours = asyncio.current_task()
        if call.mode == "refund" and ours is not None and ours.get_name() == OURS:
            ours.cancel()
        return await ahead()

    intercept(limiter, cancel)
    for _ in range(10):
        items = [(key, 1) for key in keys]
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(limiter.hit_all(items), name=OURS)

    async def are_back() -> bool:
        left = [(await limiter.peek(key)).remaining for key in keys[1:-1]]
        return left == [1_000] * 3

    await soon(are_back)
    assert (await limiter.peek(keys[0])).remaining >= 990  # as far as they were sent
    assert limiter.unsettled == 10
    await limiter.close()


def test_no_thread_for_late_refunds(
    store: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process can start no more threads: charges that stay are counted."""
    limiter = Limiter(FixedWindow(5, "day"), store=store, timeout=PATIENCE)
    limiter._core.transport.one_slot = lambda _: False  # type: ignore[method-assign]
    keys = [f"{subject}-{number}" for number in range(4)]
    limiter.hit(keys[3], 5)
    interrupt_once(limiter, "refund")

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    with pytest.raises(NotAnException):
        limiter.hit_all([(key, 1) for key in keys])
    assert [limiter.peek(key).remaining for key in keys] == [4, 4, 4, 0]
    assert limiter.unsettled == 3
    limiter.close()
    assert limiter._core.renewal_threads._flows == set()


def test_interrupted_at_the_end_of_a_body(place: str, subject: str) -> None:
    """The lease is released, and may be taken again."""
    limiter = Limiter(PLACES, store=place, timeout=PATIENCE)
    lease = limiter.hold(subject)
    with pytest.raises(NotAnException), lease:
        interrupt_once(limiter, "release")
    until(lambda: limiter.peek(subject).remaining == 3)
    with lease:
        assert limiter.peek(subject).remaining == 2
    assert limiter.peek(subject).remaining == 3
    assert limiter.unsettled == 0


def interrupt_once(limiter: Limiter, mode: str) -> None:
    """Interrupt the next call of a mode before it is sent, as by Ctrl-C."""

    def interrupted(call: StoreCall, ahead: Any) -> Any:
        if call.mode == mode:
            intercept(limiter, None)
            raise NotAnException
        return ahead()

    intercept(limiter, interrupted)


def test_a_lease_that_was_never_taken(place: str, subject: str) -> None:
    """Releasing it changes nothing, and breaks nothing that comes later."""
    limiter = Limiter(PLACES, store=place, timeout=PATIENCE)
    limiter.hold(subject).release()
    for _ in range(5):
        with limiter.hold(subject):
            pass
    assert limiter.peek(subject).remaining == 3


def test_a_lease_is_in_one_body_at_a_time(place: str, subject: str) -> None:
    """A second body would hold a place that is not counted; one after the other is allowed."""
    limiter = Limiter(PLACES, store=place, timeout=PATIENCE)
    lease = limiter.hold(subject)
    with lease:
        with pytest.raises(InvalidSetting, match="held already"), lease:
            pass
        assert limiter.peek(subject).remaining == 2
    with lease:
        assert limiter.peek(subject).remaining == 2
    assert limiter.peek(subject).remaining == 3


def test_a_settlement_before_anything_is_reserved(place: str, subject: str) -> None:
    """It raises, and charges nothing."""
    limiter = Limiter("10/hour", store=place, timeout=PATIENCE)
    with pytest.raises(InvalidSetting, match="nothing is reserved yet"):
        limiter.reserve(subject, 3).settle(3)
    assert limiter.peek(subject).remaining == 10


def test_a_denial_stays_one_if_a_later_subject_cannot_be_peeked_at(
    cluster: Cluster, subject: str
) -> None:
    """Also with ``allow``: the store has denied, so the call is denied."""
    limiter = Limiter(
        FixedWindow(1, "day"), store=cluster.url, timeout=PATIENCE, on_error="allow"
    ).open()
    keys = [f"{subject}-{number}" for number in range(3)]
    limiter.hit(keys[1])

    def third_is_gone(call: StoreCall, ahead: Any) -> Any:
        if any(keys[2].encode() in key for key in call.keys):
            raise StoreUnavailable("gone")
        return ahead()

    intercept(limiter, third_is_gone)
    first, second, third = limiter.hit_all([(key, 1) for key in keys])
    assert (first.allowed, first.granted, first.remaining) == (True, 0, 1)
    assert (second.allowed, second.degraded) == (False, False)
    assert (third.allowed, third.degraded) == (False, True)
    limiter.close()


def test_other_leases_are_renewed_if_on_lost_fails_or_is_slow(
    store: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The renewal thread neither ends nor waits; the failure is logged."""
    limiter = Limiter(Concurrency(30, lease=3), store=store, timeout=PATIENCE)
    told = threading.Semaphore(0)
    go_on = threading.Event()

    def slow() -> None:
        told.release()
        go_on.wait(PATIENCE)
        raise NotAnException

    with limiter.hold(subject) as kept:
        lost = [limiter.hold(f"{subject}-{number}", on_lost=slow) for number in range(10)]
        for number, lease in enumerate(lost):
            lease.__enter__()
            limiter.reset(f"{subject}-{number}")
        for _ in lost:
            assert told.acquire(timeout=PATIENCE)
        until_renewed(limiter, subject, 30)
        assert not kept.lost
        assert limiter.peek(subject).remaining == 29
        go_on.set()
    assert all(lease.lost for lease in lost)
    until(
        lambda: caplog.text.count("on_lost failed") == 1
    )  # the log says each kind of failure once


def test_no_thread_waits_for_released_leases(place: str, subject: str) -> None:
    """No thread waits, not even for a third of their length."""
    before = threading.active_count()
    for number in range(8):
        limiter = Limiter(Concurrency(5, lease="hour"), store=place, timeout=PATIENCE)
        with limiter.hold(f"{subject}-{number}"):
            pass
        limiter.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # no event signals the end of a thread


async def test_a_cancelled_renewal_is_a_lost_lease(place: str, subject: str) -> None:
    """If a program cancels every task, as at its shutdown, the holder learns of the loss."""
    limiter = AsyncLimiter(PLACES, store=place, timeout=PATIENCE)
    lost = asyncio.Event()
    async with limiter.hold(subject, on_lost=lost.set) as lease:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait_for(lost.wait(), PATIENCE)
        assert lease.lost
    await limiter.close()


def test_a_lease_outlives_the_loop_that_took_it(store: str, subject: str) -> None:
    """A lease is released also in another loop."""
    limiter = AsyncLimiter(PLACES, store=store, timeout=PATIENCE)

    async def take() -> Any:
        lease = limiter.hold(subject)
        await lease.__aenter__()
        return lease

    async def give(lease: Any) -> int:
        await lease.release()
        left = (await limiter.peek(subject)).remaining
        await limiter.close()
        return left

    lease = asyncio.run(take())
    assert asyncio.run(give(lease)) == 3
    gc.collect()

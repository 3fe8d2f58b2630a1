"""Cancellation, and the end of an event loop: charges are refunded, leases released, nothing goes on."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from limiter import Concurrency, LeakyBucket, Limiter, SlidingLog, StoreUnavailable
from limiter.aio import AsyncLimiter
from limiter.testing import StoreCall, intercept
from tests.calls.support import PATIENCE
from tests.proxy import Proxy, cut, delay

PLACES = Concurrency(2, lease=60)


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine in its own loop, and check that nothing of it goes on afterwards."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with caplog.at_level(logging.WARNING):
            asyncio.run(main)
            gc.collect()  # a failed task that no caller awaited logs its error when it is collected
        assert said_here(caplog) == []

    return run


def said_here(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages logged by this thread; threads of earlier tests may still release leases."""
    here = threading.get_ident()
    return [record.getMessage() for record in caplog.records if record.thread == here]


@pytest.fixture(params=["standalone", "cluster", "memory"])
def limiter(request: pytest.FixtureRequest) -> Any:
    """A limiter of places and a queue."""
    kind = request.param
    found = "memory://"
    if kind != "memory":
        store = request.getfixturevalue("store" if kind == "standalone" else "cluster")
        found = getattr(store, "url", store)
    return AsyncLimiter([PLACES, LeakyBucket(10, 60, burst=5)], store=found, timeout=PATIENCE)


async def cancelled(call: Awaitable[None], when: Callable[[], Awaitable[bool]]) -> None:
    """Cancel the call as soon as the condition is true, and wait for its end."""
    task = asyncio.ensure_future(call)
    while not await when():
        await asyncio.sleep(0.005)  # no event signals it
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def left(limiter: AsyncLimiter, subject: str) -> int:
    """How many places are left."""
    return (await limiter.peek(subject)).each[0].remaining


def test_cancelled_in_the_delay(run: Any, limiter: AsyncLimiter, subject: str) -> None:
    """The lease was taken, and its body is never entered."""

    async def main() -> None:
        async with limiter, limiter.hold(subject):

            async def held() -> bool:
                return await left(limiter, subject) == 0

            lease = limiter.hold(subject)
            await cancelled(lease.__aenter__(), held)
            assert await left(limiter, subject) == 1

    run(main())


def test_cancelled_while_it_is_taken(run: Any, proxy: Proxy, store: str, subject: str) -> None:
    """The call was under way: it ran, and the release came after it on the same connection."""

    async def main() -> None:
        sure = AsyncLimiter(PLACES, store=store, timeout=PATIENCE)
        async with AsyncLimiter(PLACES, store=proxy.url, timeout=PATIENCE) as limiter, sure:
            proxy.replies = delay(0.05)

            async def held() -> bool:
                return (await sure.peek(subject)).remaining == 1

            await cancelled(limiter.hold(subject).__aenter__(), held)
            assert (await sure.peek(subject)).remaining == 2

    run(main())


def test_cancelled_while_it_waits(run: Any, limiter: AsyncLimiter, subject: str) -> None:
    """Nothing was taken, and no lease of another holder is released."""

    async def main() -> None:
        async with limiter, limiter.hold(subject, 2):
            waiting = asyncio.ensure_future(limiter.hold(subject, timeout=30).__aenter__())
            await asyncio.sleep(0.05)  # until it waits
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await left(limiter, subject) == 0

    run(main())


def test_a_wait_that_is_cancelled_takes_nothing(run: Any, store: str, subject: str) -> None:
    """It was cancelled during its sleep."""
    limiter = AsyncLimiter(SlidingLog(1, 60), store=store, timeout=PATIENCE)

    async def main() -> None:
        async with limiter:
            await limiter.hit(subject)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(limiter.wait(subject), 0.05)
            assert (await limiter.peek(subject)).reset_after < 60

    run(main())


def test_on_lost_may_cancel_every_task_and_is_called_once(subject: str) -> None:
    """Its own renewal task is among the cancelled ones."""
    calls = []

    def lost() -> None:
        calls.append(1)
        for task in asyncio.all_tasks():
            task.cancel()

    async def main() -> None:
        limiter = AsyncLimiter(Concurrency(1, lease=0.2), store="memory://")
        try:
            async with limiter.hold(subject, on_lost=lost):
                await limiter.reset(subject)
                await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)  # a turn later ``on_lost`` could be called again

    asyncio.run(main())
    assert calls == [1]


def test_a_loop_that_ends_with_a_lease(run: Any, store: str, subject: str) -> None:
    """The holder is cancelled with the loop, and releases the lease."""
    limiter = AsyncLimiter(PLACES, store=store, timeout=PATIENCE)
    tasks = []

    async def work() -> None:
        async with limiter.hold(subject):
            await asyncio.sleep(30)

    async def main() -> None:
        tasks.append(asyncio.ensure_future(work()))
        while (await limiter.peek(subject)).remaining == 2:
            await asyncio.sleep(0.005)  # no event signals it

    run(main())
    with Limiter(PLACES, store=store, timeout=PATIENCE) as other:
        assert other.peek(subject).remaining == 2


def test_a_loop_that_ends_soon_after_a_lost_reply(
    caplog: pytest.LogCaptureFixture, proxy: Proxy, subject: str
) -> None:
    """The late release is not awaited; it is counted and logged, and nothing else is logged."""
    limiter = AsyncLimiter(PLACES, store=proxy.url, timeout=PATIENCE)

    async def main() -> None:
        async with limiter:
            proxy.replies = cut
            with pytest.raises(StoreUnavailable):
                await limiter.hold(subject).__aenter__()

    asyncio.run(main())
    gc.collect()
    assert limiter.unsettled == 1
    (_, said) = said_here(caplog)  # the first is of the store
    assert said.endswith("a release of limiter default did not reach the store: it was interrupted")


def test_a_renewal_that_fails_by_an_unexpected_error(
    caplog: pytest.LogCaptureFixture, subject: str
) -> None:
    """``on_lost`` is called: the lease is lost."""
    told: list[str] = []

    async def main() -> None:
        limiter = AsyncLimiter(Concurrency(1, lease=3), store="memory://")

        async def fails(call: StoreCall, ahead: Any) -> Any:
            if call.mode == "renew":
                raise ValueError("an unexpected fault")
            return await ahead()

        intercept(limiter, fails)
        async with limiter.hold(subject, on_lost=lambda: told.append("lost")) as lease:
            while not lease.lost:
                await asyncio.sleep(0.01)  # no event signals it

    asyncio.run(asyncio.wait_for(main(), 20))
    assert told == ["lost"]
    assert "an unexpected fault" in caplog.text


def test_many_at_once(run: Any, limiter: AsyncLimiter, new_subject: Any) -> None:
    """A hundred coroutines want two places each of ten subjects: none gets more, and all are served."""
    inside: dict[str, int] = {}
    most: dict[str, int] = {}

    async def work(subject: str) -> None:
        async with places.hold(subject, timeout=30):
            inside[subject] = inside.get(subject, 0) + 1
            most[subject] = max(most.get(subject, 0), inside[subject])
            await asyncio.sleep(0.002)  # the work
            inside[subject] -= 1

    subjects = [new_subject() for _ in range(10)]
    places = AsyncLimiter(PLACES, store=limiter, timeout=PATIENCE)

    async def main() -> None:
        async with limiter:
            await asyncio.gather(*(work(subject) for subject in subjects * 2))
            assert [(await places.peek(subject)).remaining for subject in subjects] == [2] * 10
            assert all(count <= 2 for count in most.values())

    run(main())

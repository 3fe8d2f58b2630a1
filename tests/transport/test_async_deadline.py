"""Coroutines: a decision or an error within the deadline, whatever the store does."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from limiter import StoreUnavailable
from tests.proxy import Proxy, delay, swallow
from tests.transport.conftest import MakeLimiter
from tests.transport.support import (
    PATIENCE,
    PLENTY,
    Asker,
    Dripping,
    dripping,
    in_loop,
    spent,
    timed,
)

TIMEOUT = 0.1


async def test_a_slow_connection_serves_the_next_caller(
    proxy: Proxy, subject: str, kind: str
) -> None:
    """Connecting may take longer than a call can wait; the next call uses the connection."""
    async with Asker(proxy.url, timeout=TIMEOUT) as asker:
        proxy.replies = delay(0.15)  # for each answer of the handshake
        late = await asyncio.gather(*(spent(asker.hit(subject)) for _ in range(20)))
        for took, answer in late:
            assert "no connection within the deadline" in str(answer)
            assert took < 10
        proxy.mend()
        while asker.connection is None:
            await asyncio.sleep(0.02)  # the connection is being made
        assert (await asker.ready(subject)).remaining == PLENTY.limit - 1
        assert proxy.connections == 1


@pytest.mark.parametrize("given", [0.05, 10.0])
def test_a_deadline_of_the_callers_own(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str, kind: str, given: float
) -> None:
    """Shorter or longer than the timeout; for threads as well."""
    limiter = make_limiter(proxy.url, timeout=0.1).open()
    in_time = given > 0.3

    async def main() -> None:
        async with Asker(proxy.url, timeout=0.1) as asker:
            await asker.open()
            proxy.replies = delay(0.3)
            found = await spent(asker.hit(subject, deadline=time.monotonic() + given))
            assert isinstance(found[1], StoreUnavailable) is not in_time
            assert found[0] < 5

    in_loop(main(), kind)
    call = limiter._core.plan.call("hit", subject, 1)

    def ask() -> None:
        with suppress(StoreUnavailable):
            assert limiter._core.transport.run(call, time.monotonic() + given)
            assert in_time

    assert timed(ask) < 5


@pytest.mark.slow
def test_a_server_that_answers_slowly_and_does_not_read(kind: str) -> None:
    """Calls fail in time, the calls held back stay few, and the connection is closed."""

    async def main(server: Dripping) -> bool:
        async with Asker(server.url, timeout=TIMEOUT) as asker:
            most = size = 0
            calls = set()
            for _ in range(60):
                calls |= {asyncio.ensure_future(spent(asker.hit("u"))) for _ in range(10)}
                await asyncio.sleep(0.01)
                if (connection := asker.connection) is not None and not connection.closed:
                    most = max(most, len(connection.sent) + len(connection._held_back))
                    size = max(size, connection._transport.get_write_buffer_size())
            found = await asyncio.gather(*calls)
            assert {type(answer) for _, answer in found} == {StoreUnavailable}
            assert most < len(found) / 2
            assert size < 150_000
            assert server.connections > 1
            return sorted(took for took, _ in found)[len(found) // 10] <= 1.25 * TIMEOUT + 0.010

    def is_in_time() -> bool:
        with dripping(0.01) as server:
            return in_loop(main(server), kind)

    # On a busy machine some calls wait for their turn; see ``within_deadline``.
    assert any(is_in_time() for _ in range(5))


async def test_a_busy_loop_reads_what_came_in_time(store: str, subject: str, kind: str) -> None:
    """The replies had arrived; that the loop was too busy to read them is not the store's fault."""
    async with Asker(store, timeout=TIMEOUT) as asker:
        await asker.ready(subject)
        calls = [asyncio.ensure_future(asker.hit(subject)) for _ in range(5)]
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)  # they are sent
        own = asker.connection._transport.get_extra_info("socket")
        assert select.select([own], [], [], PATIENCE)[0]  # blocks the loop: that is the test
        time.sleep(3 * TIMEOUT)
        assert [(await call).granted for call in calls] == [1] * 5


@pytest.mark.parametrize("first_to_see", ["flush", "timer"])
async def test_calls_of_a_turn_that_took_too_long(
    store: str, new_subject: Callable[[], str], first_to_see: str
) -> None:
    """Each call has its own deadline; a call that is late before it is sent is not charged."""
    async with Asker(store, timeout=0.5) as asker:
        await asker.open()
        first, second = new_subject(), new_subject()
        for turn in range(1, 3):
            late = asyncio.ensure_future(spent(asker.hit(first)))
            hog = asyncio.ensure_future(_hog(0.6))
            if first_to_see == "timer":  # the timer of earlier calls, due in the same turn
                asyncio.get_running_loop().call_soon(asker.connection._tick)
            found = await asyncio.gather(late, hog, spent(asker.ready(second)))
            assert "not sent within the deadline" in str(found[0][1])
            assert found[2][1].remaining == PLENTY.limit - turn
        assert (await asker.ready(first)).remaining == PLENTY.limit - 1


async def _hog(seconds: float) -> None:
    time.sleep(seconds)  # blocks the loop: that is the test


async def test_a_deadline_that_joins_a_longer_one(proxy: Proxy, subject: str, kind: str) -> None:
    """A call that is sent with one of a longer deadline fails at its own."""
    async with Asker(proxy.url, timeout=TIMEOUT) as asker:
        await asker.ready(subject)
        proxy.replies = swallow
        long = asyncio.ensure_future(asker.hit(subject, deadline=time.monotonic() + 60))
        await asyncio.sleep(0)
        took, answer = await spent(asker.hit(subject))
        assert isinstance(answer, StoreUnavailable)
        assert took < TIMEOUT + 10.0
        long.cancel()


def test_one_timer_for_all_calls(store: str, subject: str) -> None:
    """Many calls set few timers."""

    async def main() -> int:
        async with Asker(store) as asker:
            await asker.hit(subject)
            loop = asyncio.get_running_loop()
            before, asked = loop.call_at, []
            loop.call_at = lambda *given, **more: asked.append(1) or before(*given, **more)  # type: ignore
            for _ in range(5):
                await asyncio.gather(*(asker.hit(subject) for _ in range(50)))
            return len(asked)

    assert in_loop(main()) <= 1

"""``limiter.testing``: the time of ``memory://``, moved by a test."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from limiter import (
    GCRA,
    AsyncLimiter,
    Concurrency,
    FixedWindow,
    InvalidSetting,
    LeakyBucket,
    Limiter,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.testing import Clock


@pytest.mark.parametrize("kind", [SlidingLog, FixedWindow, GCRA, TokenBucket, LeakyBucket])
def test_the_test_moves_the_time(kind: Any) -> None:
    """To the microsecond, whether the limiter was made before or after."""
    before = Limiter(kind(2, per=60), store="memory://")
    with Clock() as clock:
        for limiter in (before, Limiter(kind(2, per=60), store="memory://")):
            assert limiter.hit("x", cost=2).reset_after == 60
            wait = limiter.peek("x").retry_after
            clock.advance(wait - 0.000001)
            assert not limiter.hit("x")
            clock.advance(0.000001)
            assert limiter.hit("x")


def test_it_moves_two_counters_and_leases_too() -> None:
    with Clock() as clock:
        windows = Limiter(SlidingWindow(2, per=60), store="memory://")
        places = Limiter(Concurrency(1, lease=30), store="memory://")
        assert windows.hit("x", cost=2)
        with pytest.raises(Exception, match="denied"), places.hold("x"), places.hold("x"):
            pass
        clock.advance(120)
        assert windows.hit("x", cost=2)


def test_coroutines_have_the_same_clock() -> None:
    async def ask() -> list[bool]:
        limiter = AsyncLimiter("1/minute", store="memory://")
        with Clock() as clock:
            found = [bool(await limiter.hit("x")) for _ in range(2)]
            clock.advance(60)
            return [*found, bool(await limiter.hit("x"))]

    assert asyncio.run(ask()) == [True, False, True]


def test_the_time_goes_on_at_the_end_and_never_back() -> None:
    limiter = Limiter("2/hour", store="memory://")
    with Clock() as clock:
        clock.advance(1_000_000)
        assert limiter.hit("x")
        assert limiter.hit("x").reset_after == 3600
    assert 3590 < limiter.peek("x").retry_after < 3600
    with Clock() as clock:
        clock.advance(3600)
        assert limiter.hit("x")


def test_a_local_share_has_it_too() -> None:
    with Clock() as clock:
        limiter = Limiter("1/minute", store="redis://127.0.0.1:1", on_error="local", timeout=0.5)
        assert [bool(limiter.hit("x")) for _ in range(2)] == [True, False]
        clock.advance(60)
        assert limiter.hit("x")


@pytest.mark.parametrize("seconds", [-1, math.inf, math.nan, "60", True, None])
def test_wrong_seconds_are_named(seconds: Any) -> None:
    with Clock() as clock, pytest.raises(InvalidSetting, match="expected a number from 0"):
        clock.advance(seconds)


def test_there_is_one_at_a_time_and_only_in_its_with() -> None:
    idle = Clock()
    with pytest.raises(InvalidSetting, match="write with Clock"):
        idle.advance(1)
    with Clock() as clock:
        with pytest.raises(InvalidSetting, match="one at a time"), idle:
            pass
        clock.advance(1)
    with clock:
        clock.advance(1)
    with pytest.raises(InvalidSetting, match="write with Clock"):
        clock.advance(1)

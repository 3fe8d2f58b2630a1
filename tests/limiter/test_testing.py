"""``limiter.testing``: a store that is away, calls that a test changes, and the time of simulations.

Its clock is tested in ``tests/memory/test_clock.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from limiter import AsyncLimiter, Concurrency, InvalidSetting, Limiter, SlidingLog, StoreUnavailable
from limiter.testing import StoreCall, intercept, reset, set_time, store_away

NOW_US = 1_790_000_000_000_000
#: Nothing listens there, and no call of these tests gets so far.
NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture(params=["standalone", "memory"])
def place(request: pytest.FixtureRequest) -> str:
    """The URL of a store."""
    return "memory://" if request.param == "memory" else request.getfixturevalue("store")


@pytest.mark.parametrize("where", ["memory://", NOWHERE, "redis+cluster://127.0.0.1:1"])
def test_every_store_is_away(where: str) -> None:
    """Also for limiters that are created meanwhile; afterwards calls work again."""
    early = Limiter("2/minute", store="memory://", on_error="allow")
    with store_away():
        late = Limiter("2/minute", store=where)
        with pytest.raises(StoreUnavailable, match="is away: store_away of limiter"):
            late.hit("x")
        with pytest.raises(StoreUnavailable), late:
            pass
        assert early.hit("x").degraded
    assert early.hit("x").remaining == 1
    with pytest.raises(StoreUnavailable, match="store 127"):
        Limiter("2/minute", store=NOWHERE).hit("x")


def test_one_store_is_away_for_all_that_share_it(place: str, subject: str) -> None:
    first = Limiter("2/minute", store=place, timeout=5)
    second = Limiter("2/minute", store=first, name="second", on_error="deny")
    other = Limiter("2/minute", store=place, name="other", timeout=5)
    with store_away(first):
        with pytest.raises(StoreUnavailable):
            first.hit(subject)
        assert second.hit(subject).degraded
        assert other.hit(subject)
    assert [limiter.peek(subject).remaining for limiter in (first, second, other)] == [2, 2, 1]
    first.close()
    other.close()


@pytest.mark.parametrize("named", [True, False])
async def test_away_for_coroutines(place: str, subject: str, named: bool) -> None:
    limiter = AsyncLimiter("2/minute", store=place, timeout=5, on_error="local", local_share=2)
    with store_away(limiter if named else None):
        assert [bool(await limiter.hit(subject)) for _ in range(2)] == [True, False]
    assert (await limiter.hit(subject)).remaining == 1
    await limiter.close()


def test_reset_forgets_everything_in_this_process() -> None:
    one, other = (Limiter("1/day", store="memory://") for _ in range(2))
    local = Limiter("1/day", store=NOWHERE, on_error="local")
    with store_away(local):
        assert all(limiter.hit("x") for limiter in (one, other, local))
        assert not any(limiter.hit("x") for limiter in (one, other, local))
        reset()
        assert all(limiter.hit("x") for limiter in (one, other, local))


def test_the_time_of_one_limiter(place: str, subject: str) -> None:
    """To the microsecond, on any store."""
    limiter = Limiter("1/minute", store=place, timeout=5)
    set_time(limiter, NOW_US)
    assert limiter.hit(subject)
    set_time(limiter, NOW_US + 59_999_999)
    assert limiter.peek(subject).retry_after == 0.000001
    set_time(limiter, NOW_US + 60_000_000)
    assert limiter.hit(subject)
    limiter.reset(subject)
    set_time(limiter, None)
    with limiter, Limiter("1/minute", store=limiter) as other:
        assert limiter.hit(subject)
        assert 59 < other.peek(subject).retry_after <= 60


def test_intercept_sees_each_call(place: str, subject: str) -> None:
    """On any store: their mode, and the keys of all subjects."""
    calls: list[StoreCall] = []

    def count(call: StoreCall, ahead: Callable[[], Any]) -> Any:
        calls.append(call)
        return ahead()

    with Limiter([Concurrency(5), SlidingLog(9, "day")], store=place, timeout=5) as limiter:
        intercept(limiter, count)
        with limiter.hold(subject):
            pass
        limiter.peek(subject)
        intercept(limiter, None)
        limiter.peek(subject)
    assert [call.mode for call in calls] == ["acquire", "release", "peek"]
    whole, leases, peeked = (call.keys for call in calls)
    assert set(leases) < set(whole) == set(peeked)
    assert all(subject.encode() in key for key in whole)


async def test_an_answer_is_lost(place: str, subject: str) -> None:
    """The call is charged all the same; a coroutine function may await the call."""

    async def lost(call: StoreCall, ahead: Callable[[], Any]) -> Any:
        await ahead()
        raise StoreUnavailable("no answer in time")

    limiter = AsyncLimiter("3/minute", store=place, timeout=5)
    intercept(limiter, lost)
    with pytest.raises(StoreUnavailable, match="no answer"):
        await limiter.hit(subject)
    intercept(limiter, lambda _, ahead: ahead())
    assert (await limiter.peek(subject)).remaining == 2
    await limiter.close()


LIMITER = Limiter("1000/minute", store="memory://")


async def _coroutine(call: StoreCall, ahead: Callable[[], Any]) -> Any:
    return await ahead()


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (set_time, ["x", 1], "limiter is 'x': expected a Limiter or"),
        (set_time, [LIMITER, 1.5], "now_us is 1.5: expected a whole number"),
        (set_time, [LIMITER, 0], "now_us is 0: expected"),
        (set_time, [LIMITER, True], "now_us is True: expected"),
        (store_away, ["x"], "limiter is 'x': expected"),
        (intercept, [None, print], "limiter is None: expected"),
        (intercept, [LIMITER, 3], "around is 3: expected a function"),
        (intercept, [LIMITER, _coroutine], "only for an AsyncLimiter"),
    ],
)
def test_wrong_arguments_are_named(call: Any, arguments: list[Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(message)), call(*arguments) or nullcontext():
        pass
    assert LIMITER.hit("x")

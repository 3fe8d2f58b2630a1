"""Every public call as a typed program makes it: checked by mypy, strictly, and run on memory://."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from limiter import (
    GCRA,
    Concurrency,
    Decision,
    FixedWindow,
    LeakyBucket,
    Limiter,
    LimiterError,
    RateLimited,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    parse_limits,
)
from limiter.aio import AsyncLease, AsyncLimiter, AsyncReservation
from limiter.client import Lease, Reservation
from limiter.policies import Policy
from limiter.several import Decisions

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: Any, kind: Any) -> Any:
        """Nothing, when it runs."""
        return value


ENVIRON = {"LIMITER_STORE": "memory://", "LIMITER_LIMITS": "100/minute"}


def policies() -> list[Policy]:
    """Every policy, its period in every way."""
    return [
        FixedWindow(10, 60, align=True),
        SlidingLog(10, per=0.5, name="log"),
        SlidingWindow(10, "minute"),
        TokenBucket(10, timedelta(seconds=1), burst=20),
        GCRA(10, per="30s", burst=3, name="gcra"),
        LeakyBucket(10, 60.0),
    ]


def sync() -> None:
    """As threads do."""
    assert_type(parse_limits("20/second; 1000/hour", algorithm="token_bucket"), tuple[Policy, ...])
    assert_type(Limiter.from_env(ENVIRON, name="env"), Limiter)
    several = Limiter(policies(), store="memory://", key_secret=b"secret", on_error="deny")
    one = Limiter(SlidingLog(1000, "day"), store="memory://", prefix="x", timeout=0.2)
    leases = Limiter(
        [Concurrency(9, lease=1), SlidingLog(99, "day")], store="memory://", local_share=2
    )
    with Limiter("100/minute", store="memory://", name="api", connect_timeout=1) as limiter:
        assert_type(limiter, Limiter)
        assert_type(limiter.open(), Limiter)
        assert_type(limiter.policies, tuple[Policy, ...])
        assert_type(limiter.name, str)
        assert_type(limiter.unsettled, int)
        decision = assert_type(limiter.hit("user:42"), Decision)
        limiter.hit(42, cost=5, at_least=1, limits="500/minute", tag=("org", 7))
        limiter.hit((b"a", "b", 1), 0)
        assert_type(limiter.peek("user:42", cost=5), Decision)
        limiter.refund("user:42", cost=2)
        limiter.refund(b"user:42", limits=SlidingLog(500, 60), tag=7)
        assert_type(limiter.reset("user:42"), Decision)
        assert_type(limiter.hit_all([("user:42", 1), ("org:7", 1, "500/minute")]), Decisions)
        assert_type(limiter.wait("user:42", timeout=3.0), Decision)
        limiter.wait("user:42", 2, None, limits=[SlidingLog(500, 60)])
        reservation = assert_type(limiter.reserve("user:42", cost=50), Reservation)
        with reservation as reserved:
            assert_type(reserved.decision, Decision)
            reserved.settle(32)
            assert_type(reserved.settled, bool)
        with limiter.reserve_all([("user:42", (5,)), ("org:7", 3, "9/minute")], tag=7) as both:
            assert_type(both, Reservation)
            assert_type(both.decisions, Decisions)
            both.settle([(4,), 3])
        fields(decision)
    with leases.hold("user:42", 2, timeout=1, on_lost=lambda: print("lost"), tag="t") as lease:
        assert_type(lease, Lease)
        assert_type(lease.decision, Decision)
        assert_type(lease.lost, bool)
        lease.release()
    one.hit("user:42")
    several.hit("user:42")
    try:
        one.wait("user:42", 1000, timeout=0)
    except RateLimited as denied:
        assert_type(denied.decision, Decision)
    except LimiterError:
        raise
    for each in (limiter, one, several, leases):
        each.close()


def fields(decision: Decision) -> None:
    """Every field of a decision."""
    assert_type(bool(decision), bool)
    assert_type(decision.allowed, bool)
    assert_type(decision.granted, int)
    assert_type(decision.remaining, int)
    assert_type(decision.retry_after, float)
    assert_type(decision.reset_after, float)
    assert_type(decision.delay, float)
    assert_type(decision.policy, Policy)
    assert_type(decision.limit, int)
    assert_type(decision.degraded, bool)
    each: Sequence[Decision] = assert_type(decision.each, tuple[Decision, ...])
    assert_type(decision.to_dict(), dict[str, Any])
    assert len({decision, *each}) == 1 + len(each)


async def coroutines() -> None:
    """As coroutines do."""
    assert_type(AsyncLimiter.from_env(ENVIRON, name="env"), AsyncLimiter)
    leases = AsyncLimiter([Concurrency(9), SlidingLog(99, "day")], store="memory://")
    async with AsyncLimiter("100/minute", store="memory://", name="api") as limiter:
        assert_type(limiter, AsyncLimiter)
        assert_type(await limiter.open(), AsyncLimiter)
        decision = assert_type(await limiter.hit("user:42"), Decision)
        await limiter.hit(42, cost=5, at_least=1, limits="500/minute", tag=("org", 7))
        assert_type(await limiter.peek("user:42", cost=5), Decision)
        await limiter.refund("user:42", cost=2)
        assert_type(await limiter.reset("user:42"), Decision)
        items = [("user:42", 1), ("org:7", 1)]
        assert_type(await limiter.hit_all(items), Decisions)
        assert_type(await limiter.wait("user:42", timeout=3.0), Decision)
        async with limiter.reserve("user:42", cost=50) as reserved:
            assert_type(reserved, AsyncReservation)
            assert_type(reserved.decision, Decision)
            await reserved.settle(32)
        async with limiter.reserve_all([("user:42", (5,)), ("org:7", 3, "9/minute")]) as both:
            assert_type(both, AsyncReservation)
            assert_type(both.decisions, Decisions)
            await both.settle([(4,), 3])
        fields(decision)
    async with leases.hold("user:42", timeout=1, on_lost=lambda: None) as lease:
        assert_type(lease, AsyncLease)
        assert_type(lease.lost, bool)
        await lease.release()
    await limiter.close()
    await leases.close()


async def mistakes(limiter: Limiter, other: AsyncLimiter) -> None:
    """What mypy has to find: an ignore that ignores nothing is an error, too."""
    limiter.hit()  # type: ignore[call-arg]
    limiter.hit("u", "1")  # type: ignore[arg-type]
    limiter.hit(1.5)  # type: ignore[arg-type]
    limiter.wait("u", timeout="1")  # type: ignore[arg-type]
    limiter.hold("u", on_lost="call me")  # type: ignore[arg-type]
    limiter.hit_all([("u",)])  # type: ignore[list-item]
    Limiter("1/s")  # type: ignore[call-arg]
    FixedWindow(1.5, 60)  # type: ignore[arg-type]
    SlidingLog(1, 60, burst=3)  # type: ignore[call-arg]
    other.hit("u").allowed  # type: ignore[attr-defined]  # noqa: B018
    with other.hold("u"):  # type: ignore[attr-defined]
        pass
    async with limiter.hold("u"):  # type: ignore[attr-defined]
        pass


def main() -> None:
    """Both."""
    sync()
    asyncio.run(coroutines())

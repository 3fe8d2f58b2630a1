"""Refunds: the units that are refunded."""

from __future__ import annotations

import pytest

from limiter import (
    SlidingLog,
    StoreRefused,
    StoreUnavailable,
)
from limiter.policies import Policy
from service.demo.servers import Server
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, RATES, by_algorithm, set_time


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_refund(make: Make, subject: str, policy: Policy) -> None:
    """Used units are refunded, and no more than those; an unused subject gets nothing."""
    limiter = make(policy)
    set_time(limiter, NOW_US)

    assert limiter.refund(subject, 3) is None
    assert limiter.hit(subject, 10)
    limiter.refund(subject)
    assert limiter.peek(subject).remaining == 1
    limiter.refund(subject, 4)
    assert limiter.peek(subject).remaining == 5
    limiter.refund(subject, 10)
    assert limiter.peek(subject).remaining == 10
    assert limiter.hit(subject, 10).remaining == 0


def test_refund_of_a_log_refunds_the_oldest_units(make: Make, subject: str) -> None:
    """If the newest were refunded, a later window would admit too much."""
    limiter = make(SlidingLog(3, 60))
    set_time(limiter, NOW_US)
    limiter.hit(subject)
    set_time(limiter, NOW_US + 10_000_000)
    limiter.hit(subject, 2)
    limiter.refund(subject)

    set_time(limiter, NOW_US + 60_000_000)
    assert limiter.peek(subject).remaining == 1
    set_time(limiter, NOW_US + 70_000_000)
    assert limiter.peek(subject).remaining == 3


def test_refund_of_several(make: Make, subject: str) -> None:
    """Each policy is refunded by itself."""
    limiter = make(RATES)
    limiter.hit(subject, 5)
    limiter.refund(subject, 2)
    assert [one.remaining for one in limiter.peek(subject).each] == [7] * len(RATES)


def test_refund_and_reset_always_raise(make_on: Make, own: Server, subject: str) -> None:
    """For every on_error: nothing was refunded or forgotten."""
    for on_error in ("raise", "allow", "deny", "local"):
        limiter = make_on(own.url, SlidingLog(10, 60), on_error=on_error, timeout=5.0)
        limiter.hit(subject)
        own.kill()
        with pytest.raises(StoreUnavailable):
            limiter.refund(subject)
        with pytest.raises(StoreUnavailable):
            limiter.reset(subject)
        own.restart()
        client = own.client()
        client.set(f"rl:{{{subject}}}:default:v1:sliding_log:60000000", "something else")
        with pytest.raises(StoreRefused):
            limiter.refund(subject)
        client.flushall()
        client.close()

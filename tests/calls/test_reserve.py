"""Reservations of one subject: the units that are refunded, and the excess that is charged."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from limiter import (
    FixedWindow,
    InvalidCost,
    RateLimited,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.policies import Policy
from service.demo.servers import Server
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, RATES, by_algorithm, set_time
from tests.proxy import Proxy, cut


class OwnError(Exception):
    """Raised by the body of a reservation."""


def fail(first: Callable[[], object] = lambda: None) -> None:
    """Call ``first``, then fail, as the body of a reservation may."""
    first()
    raise OwnError


def settled(make: Make, subject: str, policy: Policy, taken: int, *actual: int) -> int:
    """The units left after a reservation was settled once for each of ``actual``."""
    limiter = make(policy)
    set_time(limiter, NOW_US)
    with limiter.reserve(subject, taken) as reserved:
        assert reserved.decision.granted == taken
        assert reserved.decision.remaining == 10 - taken
        for each in actual:
            reserved.settle(each)
            assert reserved.settled
    left: int = limiter.peek(subject).remaining
    return left


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_settle(make: Make, new_subject: object, policy: Policy) -> None:
    """A lower cost refunds the rest, a higher one is charged, the same changes nothing; only once."""
    assert settled(make, new_subject(), policy, 6, 2) == 8
    assert settled(make, new_subject(), policy, 6, 0) == 10
    assert settled(make, new_subject(), policy, 6, 6) == 4
    assert settled(make, new_subject(), policy, 6, 9) == 1
    assert settled(make, new_subject(), policy, 6, 10) == 0
    assert settled(make, new_subject(), policy, 6, 7, 0, 9) == 3
    assert settled(make, new_subject(), policy, 6) == 4


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_debt(make: Make, new_subject: object, policy: Policy) -> None:
    """After a settlement above the limit, callers wait for at most the debt of one limit."""
    limiter = make(policy)
    answers = []
    for actual in (15, 20, 21, 1_000_000):
        subject = new_subject()
        set_time(limiter, NOW_US)
        with limiter.reserve(subject, 1) as reserved:
            reserved.settle(actual)
        answers.append(limiter.peek(subject))
        assert (answers[-1].allowed, answers[-1].remaining) == (False, 0)
        # A caller that waits for ``retry_after`` gets one.
        opens_us = NOW_US + round(answers[-1].retry_after * 1e6)
        set_time(limiter, opens_us - 1)
        assert not limiter.hit(subject)
        set_time(limiter, opens_us)
        assert limiter.hit(subject)
    by_actual = [answer.retry_after for answer in answers]
    assert by_actual[1] == by_actual[2] == by_actual[3]
    if isinstance(policy, TokenBucket):
        assert by_actual == [36.0, 66.0, 66.0, 66.0]


def test_a_log_is_charged_more_than_one_call_may_write(make: Make, subject: str) -> None:
    """A script writes 4,000 entries at most; a larger settlement makes several calls."""
    limiter = make(SlidingLog(10_000, "day"))
    with limiter.reserve(subject, 10) as reserved:
        reserved.settle(9_010)
    assert limiter.peek(subject).remaining == 990


def test_each_policy_is_charged_to_its_own_bound(make: Make, subject: str) -> None:
    """A small limit beside a large one: its debt ends at one limit, the other is charged in full."""
    limiter = make([SlidingLog(2, 60), SlidingWindow(10_000, "day"), FixedWindow(30, "hour")])
    set_time(limiter, NOW_US)
    with limiter.reserve(subject, 1) as reserved:
        reserved.settle(501)
    after = limiter.peek(subject)
    assert [one.remaining for one in after.each] == [0, 9_499, 0]
    set_time(limiter, NOW_US + 60_000_000)
    assert limiter.peek(subject).each[0].remaining == 2


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_an_exception_refunds_all_of_it(make: Make, subject: str, policy: Policy) -> None:
    """The exception is raised on; after a settlement it changes nothing more."""
    limiter = make(policy)
    set_time(limiter, NOW_US)
    with pytest.raises(OwnError), limiter.reserve(subject, 6):
        fail()
    assert limiter.peek(subject).remaining == 10
    with pytest.raises(OwnError), limiter.reserve(subject, 6) as reserved:
        fail(lambda: reserved.settle(4))
    assert limiter.peek(subject).remaining == 6


def test_wrong_actual_costs(make: Make, subject: str) -> None:
    """A wrong actual cost settles nothing; a right one may be more than any limit."""
    limiter = make(SlidingLog(10, 60))
    with limiter.reserve(subject, 6) as reserved:
        for actual in (-1, True, 1.5, "1", None):
            with pytest.raises(InvalidCost, match="actual is"):
                reserved.settle(actual)
            assert not reserved.settled
        reserved.settle(7)
    assert limiter.peek(subject).remaining == 3


def test_a_reservation_that_is_denied(make: Make, subject: str) -> None:
    """RateLimited with the decision is raised before the body."""
    limiter = make(SlidingLog(10, 60))
    limiter.hit(subject, 6)
    with pytest.raises(RateLimited, match="retry after") as denied, limiter.reserve(subject, 5):
        raise AssertionError
    assert denied.value.decision.remaining == 4
    assert limiter.peek(subject).remaining == 4


def test_a_reservation_used_again(make: Make, subject: str) -> None:
    """A reservation can be entered again, as a new one."""
    limiter = make(SlidingLog(10, 60))
    reservation = limiter.reserve(subject, 4)
    for left in (9, 8, 7):
        with reservation as reserved:
            assert not reservation.settled
            reserved.settle(1)
        assert limiter.peek(subject).remaining == left


@pytest.mark.parametrize("actual", [2, 9])
def test_a_settlement_that_does_not_arrive(
    make_on: Make,
    proxy: Proxy,
    store: str,
    subject: str,
    caplog: pytest.LogCaptureFixture,
    actual: int,
) -> None:
    """It is logged and counted, never raised, and not sent again; the charge stays."""
    limiter = make_on(proxy.url, SlidingLog(10, 60))
    with caplog.at_level(logging.WARNING, "limiter"), limiter.reserve(subject, 6) as reserved:
        proxy.requests = cut
        reserved.settle(actual)
        proxy.mend()
        reserved.settle(actual)
    assert limiter.unsettled == 1
    assert "a settlement of limiter default did not reach the store" in caplog.text
    assert make_on(store, SlidingLog(10, 60)).peek(subject).remaining == 4


def test_an_exception_is_not_hidden_by_a_store_that_is_gone(
    make_on: Make, proxy: Proxy, subject: str
) -> None:
    """A refund that does not arrive is counted."""
    limiter = make_on(proxy.url, SlidingLog(10, 60))
    with pytest.raises(OwnError), limiter.reserve(subject, 6):
        fail(lambda: setattr(proxy, "requests", cut))
    assert limiter.unsettled == 1


def test_a_settlement_that_is_refused(make_on: Make, own: Server, subject: str) -> None:
    """It is counted, too."""
    limiter = make_on(own.url, SlidingLog(10, 60))
    client = own.client()
    with limiter.reserve(subject, 6) as reserved:
        client.flushall()
        client.set(f"rl:{{{subject}}}:default:v1:sliding_log:60000000", "something else")
        reserved.settle(2)
    client.close()
    assert limiter.unsettled == 1

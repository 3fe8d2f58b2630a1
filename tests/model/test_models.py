"""Answers of the models that no test vector has.

The state machines compare each model with its script, and the vectors check the scripts by hand.
"""

from __future__ import annotations

import pytest

from tests.histories import Admitted, most_in_any_window
from tests.model import MODELS
from tests.model.base import Answer, Rate
from tests.model.concurrency import Concurrency
from tests.model.fixed_window import FixedWindow
from tests.model.several import Several
from tests.model.sliding_log import SlidingLog
from tests.model.sliding_window import SlidingWindow, Window
from tests.model.token_bucket import GCRA, LeakyBucket, TokenBucket

S = 1_000_000
#: A multiple of an hour since 1970, so that aligned windows begin here.
T0 = 500_000 * 3600 * S
BUCKETS = (TokenBucket, GCRA, LeakyBucket)


def run(model, table):
    """Run the rows of a table: time, cost, then the answer without ``granted`` and ``delay_us``."""
    for at_us, cost, allowed, remaining, retry_us, reset_us in table:
        answer = model.hit(T0 + at_us, cost)
        assert answer[:1] + answer[2:5] == (allowed, remaining, retry_us, reset_us), (at_us, cost)


def test_a_fixed_window_admits_twice_its_limit_around_an_edge():
    """An attacker reaches the bound of the fixed window."""
    run(
        FixedWindow(100, 60 * S),
        [
            (0, 1, True, 99, 0, 60 * S),
            (60 * S - 1, 99, True, 0, 0, 1),
            (60 * S, 100, True, 0, 0, 60 * S),
        ],
    )


def test_a_sliding_window_s_retry_after_is_in_this_window_the_next_or_the_one_after():
    """It is the first time at which the cost fits, to the microsecond."""
    run(
        SlidingWindow(4, 8 * S),
        [
            (0, 4, True, 0, 0, 16 * S),
            (8 * S, 1, False, 0, 2 * S, 8 * S),
            (
                8 * S,
                4,
                False,
                0,
                8 * S,
                8 * S,
            ),  # beside any previous count there is no room for all
            (12 * S, 2, True, 0, 0, 12 * S),
            (
                12 * S,
                2,
                False,
                0,
                4 * S,
                12 * S,
            ),  # in the next window, with a previous count of two
            (12 * S, 3, False, 0, 8 * S, 12 * S),  # when half of them counts
            (12 * S, 4, False, 0, 12 * S, 12 * S),  # when all is gone
        ],
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_an_attacker_reaches_the_bound_of_a_sliding_window(limit):
    """One hit opens a window, all other units come at its end, and all but one at the next end."""
    window, period_us, history = SlidingWindow(limit, 100), 100, []
    for at_us, cost in [(0, 1), (99, limit - 1), (198, limit - 1)]:
        granted = window.hit(T0 + at_us, cost).granted
        history.append(Admitted(T0 + at_us, granted))

    assert most_in_any_window(history, period_us) == window.bound


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
@pytest.mark.parametrize("period_us", [1, 2, 3, 5])
def test_no_history_exceeds_the_bound_of_a_sliding_window(limit, period_us):
    """The test tries every reachable state, which is only the counters and a time, with every cost."""
    most, seen = 0, set()
    states = [((0, 0, 0), (0,) * (period_us - 1))]
    while states:
        (passed_us, current, previous), costs = state = states.pop()
        if state in seen:
            continue
        seen.add(state)
        window = SlidingWindow(limit, period_us)
        for back_us, count in ((period_us, previous), (0, current)):
            if current + previous:
                window.windows.append(Window(T0 - passed_us - back_us, [(T0, count)]))
        for cost in range(window.room(T0) + 1):
            after = SlidingWindow(limit, period_us)
            after.windows = [w._replace(hits=list(w.hits)) for w in window.windows]
            assert after.hit(T0, cost).granted == cost
            most = max(most, sum(costs) + cost)
            start_us, now, before = after.counted(T0 + 1)
            after_us = T0 + 1 - start_us if now + before else 0
            states.append(((after_us, now, before), (*costs, cost)[1:]))

    assert most <= SlidingWindow(limit, period_us).bound


def test_a_sliding_window_reads_time_in_units_where_products_would_not_be_exact():
    """A limit of 10^12 in ten days has 4,504 units of time, each of 192 seconds."""
    limit, period_us, unit_us = 10**12, 864_000 * S, 191_846_539
    window = SlidingWindow(limit, period_us)
    assert window.unit_us(0) == unit_us
    window.hit(T0, limit)

    assert window.peek(T0 + period_us + unit_us - 1).remaining == 0
    assert window.peek(T0 + period_us + unit_us).remaining == limit // 4504
    assert window.peek(T0 + period_us).retry_after_us == unit_us


def test_a_sliding_window_with_more_than_its_limit_reads_time_in_larger_units():
    """With a count of eight and a limit of five the unit is twice as long."""
    window = SlidingWindow(8, 10)
    window.hit(T0, 8)
    window.change(limit=5)

    assert [window.unit_us(used) for used in (5, 6, 10, 11)] == [1, 2, 2, 3]
    remaining = [window.peek(T0 + 10 + at).remaining for at in range(10)]
    assert remaining == [0, 0, 0, 0, 0, 0, 1, 1, 3, 3]  # 8 x 2/5 = 3.2, and 8 x 1/5 = 1.6
    assert window.peek(T0, 4).retry_after_us == 20
    assert window.peek(T0, 3).retry_after_us == 18
    assert window.peek(T0, 1).retry_after_us == 16


@pytest.mark.parametrize("model", MODELS.values())
def test_a_peek_and_a_denied_hit_take_nothing(model):
    """A peek answers what the hit would, and the model stores neither."""
    policy = model(5, 10 * S)
    policy.hit(T0, 3)

    assert policy.peek(T0 + 1, 3) == policy.hit(T0 + 1, 3)
    assert not policy.hit(T0 + 1, 3).allowed
    assert policy.hit(T0 + 1, 2) == Answer(True, 2, 0, 0, *policy.peek(T0 + 1, 0)[4:])._replace(
        delay_us=policy.peek(T0 + 1, 0).delay_us - (4 * S if issubclass(model, TokenBucket) else 0)
    )


def assert_waits(policy, units, us):
    """Check retry_after against the value worked out by hand, and that no shorter wait is enough."""
    waits_us = policy.peek(T0, units).retry_after_us
    assert waits_us == us.get(type(policy), waits_us)
    assert not policy.peek(T0 + waits_us - 1, units).allowed
    assert policy.peek(T0 + waits_us, units).allowed


@pytest.mark.parametrize("model", MODELS.values())
def test_at_least_grants_a_part(model):
    """``at_least`` takes as many units as are free, and its retry_after is for that number."""
    policy = model(10, 10 * S)
    policy.hit(T0, 7)

    assert policy.hit(T0, 9, at_least=4).granted == 0
    assert policy.hit(T0, 9, at_least=3)[:3] == (True, 3, 0)
    by_hand = {FixedWindow: 10 * S, SlidingLog: 10 * S, SlidingWindow: 11 * S}
    assert_waits(policy, 1, by_hand | dict.fromkeys(BUCKETS, 1 * S))
    assert policy.hit(T0, 9, at_least=1).retry_after_us == policy.peek(T0, 1).retry_after_us


def test_buckets_keep_their_debt_in_time_when_their_numbers_change():
    """If 60 of 100 are used, 120 of 200 are used after a change to 200, and 6 of 10 after one to 10."""
    bucket = TokenBucket(100, 60 * S)
    bucket.hit(T0, 60)
    bucket.change(limit=200, burst=200)
    assert bucket.peek(T0).remaining == 80
    bucket.change(limit=10, burst=10)
    assert bucket.peek(T0)[2:5] == (4, 0, 36 * S)

    bucket.change(limit=100, burst=80)  # only the burst differs: the used units stay
    assert bucket.peek(T0).remaining == 20
    bucket.change(limit=200, burst=100)  # only the rate differs: the debt's seconds stay
    assert bucket.peek(T0)[2:5] == (0, 6 * S + S * 3 // 10, 36 * S)


def test_a_bucket_with_another_rate_rounds_its_fraction_up_once():
    """A third of a microsecond is no whole number of sevenths; rounding adds less than a microsecond."""
    bucket = TokenBucket(3, 10, burst=3)
    bucket.hit(T0, 1)  # full at 3 1/3
    bucket.change(limit=7, burst=7)
    assert bucket.full_at() == T0 + 4
    bucket.change(limit=3, burst=3)
    assert bucket.full_at() - T0 == pytest.approx(10 / 3)  # reading changed nothing
    bucket.change(limit=7, burst=7)
    bucket.hit(T0, 1)
    bucket.change(limit=3, burst=3)
    assert bucket.full_at() == T0 + 6  # 4 + 10/7, rounded up


@pytest.mark.parametrize("model", MODELS.values())
def test_a_clock_that_steps_back_frees_no_unit_early(model):
    """After a step of a period back, units still count, and retry_after by that clock is right."""
    policy = model(4, 10 * S)
    policy.hit(T0, 4)
    answer = policy.hit(T0 - 10 * S, 2)

    assert not answer.allowed
    assert not policy.hit(T0 - 10 * S + answer.retry_after_us - 1, 2).allowed
    assert policy.hit(T0 - 10 * S + answer.retry_after_us, 2).allowed


@pytest.mark.parametrize("model", MODELS.values())
def test_a_reset_reports_the_state_and_deletes_it(model):
    """The answer is that of a peek just before."""
    policy = model(4, 10 * S)
    policy.hit(T0, 3)
    before = policy.peek(T0, 2)

    assert policy.reset(T0, 2) == before
    assert policy.peek(T0)[:5] == (True, 0, 4, 0, 0)


def test_several_policies_are_all_charged_or_none():
    """``policy`` has the longest retry_after if denied, else the least remaining."""
    both = Several([FixedWindow(5, 10 * S), SlidingLog(3, 60 * S), FixedWindow(3, 30 * S)])

    first = both.hit(T0, 2)
    assert first[:5] == (True, 2, 1, 0, 60 * S)
    assert (first.policy, first.limit) == (1, 3)  # of equals, the first
    assert [answer.remaining for answer in first.each] == [3, 1, 1]

    denied = both.hit(T0 + 1 * S, 2)
    assert denied[:5] == (False, 0, 1, 59 * S, 59 * S)
    assert (denied.policy, denied.limit) == (1, 3)
    assert [answer.allowed for answer in denied.each] == [True, False, False]
    assert [answer.remaining for answer in denied.each] == [3, 1, 1]  # no policy was charged

    part = both.hit(T0 + 1 * S, 3, at_least=1)
    assert part.granted == 1
    assert [answer.granted for answer in part.each] == [1, 1, 1]


@pytest.mark.parametrize("model", [GCRA, LeakyBucket])
def test_three_algorithms_are_one_bucket(model):
    """They answer and admit the same; only their fields differ, and whether their callers wait."""
    other, bucket = model(3, 10, burst=4), TokenBucket(3, 10, burst=4)
    for at_us, cost in [(0, 3), (1, 2), (4, 2), (5, 1), (9, 3), (40, 4)]:
        assert other.hit(T0 + at_us, cost) == bucket.hit(T0 + at_us, cost)
    assert other.field == f"{model.algorithm}:10"
    assert (bucket.queues, GCRA.queues, LeakyBucket.queues) == (False, False, True)


# --- refunds and settlements ---


@pytest.mark.parametrize("model", MODELS.values())
def test_a_settlement_charges_without_a_check_up_to_a_debt_of_one_limit(model):
    """Units beyond that are not charged; later callers wait for the debt."""
    policy = model(4, 8 * S)
    policy.hit(T0, 3)

    assert policy.settle(T0, 0)[:4] == (True, 0, 1, 0)
    assert policy.settle(T0, 3)[:4] == (True, 3, 0, 0)
    assert policy.settle(T0, 4)[:4] == (True, 2, 0, 0)
    assert policy.settle(T0, 4)[:4] == (True, 0, 0, 0)
    by_hand = {FixedWindow: 8 * S, SlidingLog: 8 * S, SlidingWindow: 13 * S}
    assert_waits(policy, 1, by_hand | dict.fromkeys(BUCKETS, 10 * S))
    assert policy.refund(T0, 4)[:4] == (True, 4, 0, 0)
    assert policy.refund(T0, 1)[:4] == (True, 1, 1, 0)


@pytest.mark.parametrize("model", MODELS.values())
def test_refund_and_settlement_repair_impossible_state(model):
    """They repair it like a hit, and only if their cost is not 0."""
    back = T0 - 1_000 * S
    for call in (Rate.refund, Rate.settle):
        policy, repaired = model(4, 8 * S), model(4, 8 * S)
        for subject in (policy, repaired):
            subject.hit(T0, 3)
        call(policy, back, 0)
        assert policy.peek(T0).remaining == 1
        repaired.heal(back)
        assert call(policy, back, 1) == call(repaired, back, 1)
        assert vars(policy) == vars(repaired)


def test_a_clock_that_steps_back_ends_no_lease_early():
    """An expired lease is held again, until another one is taken or renewed."""
    held = Concurrency(2, 10 * S)
    held.acquire(T0, 1, "a")
    assert held.peek(T0 + 10 * S).remaining == 2
    assert held.release(T0 + 10 * S, 1, "a").granted == 0  # too late
    assert held.peek(T0 - 5 * S)[2:5] == (1, 0, 15 * S)
    held.acquire(T0 + 10 * S, 1, "b")
    assert held.peek(T0 + 5 * S)[2:5] == (1, 0, 15 * S)
    held.renew(T0 + 5 * S, 1, "b")
    assert held.peek(T0 + 5 * S)[2:5] == (1, 0, 15 * S)


def test_one_of_two_leases_may_still_be_held():
    """It stays unchanged, and the call takes the other lease and charges the rates."""
    both = Several([FixedWindow(5, 60 * S), Concurrency(2, 10 * S), Concurrency(1, 30 * S)])
    both.acquire(T0, 1, "a")
    again = both.acquire(T0 + 10 * S, 1, "a")

    assert [answer[1:5] for answer in again.each] == [
        (1, 3, 0, 50 * S),
        (1, 1, 0, 10 * S),
        (1, 0, 0, 20 * S),
    ]

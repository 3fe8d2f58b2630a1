"""What the models say beyond the test vectors, which hold the scripts to numbers worked out by hand.

The state machines hold each model to its script, and so to the vectors.
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
#: A multiple of an hour since 1970, so that windows on the clock begin here.
T0 = 500_000 * 3600 * S
BUCKETS = (TokenBucket, GCRA, LeakyBucket)


def run(model, table):
    """Play the rows of a table: time, cost, then the answer without grants and delay."""
    for at_us, cost, allowed, remaining, retry_us, reset_us in table:
        answer = model.hit(T0 + at_us, cost)
        assert answer[:1] + answer[2:5] == (allowed, remaining, retry_us, reset_us), (at_us, cost)


def test_a_fixed_window_admits_twice_its_limit_around_an_edge():
    """The bound of the table of algorithms, reached."""
    run(
        FixedWindow(100, 60 * S),
        [
            (0, 1, True, 99, 0, 60 * S),
            (60 * S - 1, 99, True, 0, 0, 1),
            (60 * S, 100, True, 0, 0, 60 * S),
        ],
    )


def test_a_sliding_window_says_when_a_cost_fits_in_this_window_the_next_or_the_one_after():
    """The first of these, to the microsecond."""
    run(
        SlidingWindow(4, 8 * S),
        [
            (0, 4, True, 0, 0, 16 * S),
            (8 * S, 1, False, 0, 2 * S, 8 * S),
            (8 * S, 4, False, 0, 8 * S, 8 * S),  # beside any share there is no room for all
            (12 * S, 2, True, 0, 0, 12 * S),
            (12 * S, 2, False, 0, 4 * S, 12 * S),  # in the next window, whose last one has two
            (12 * S, 3, False, 0, 8 * S, 12 * S),  # once half of them counts
            (12 * S, 4, False, 0, 12 * S, 12 * S),  # when all is gone
        ],
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_what_an_adversary_gets_out_of_a_sliding_window(limit):
    """One opens it, all but one come at its end, and all but one at the end of the next."""
    window, period_us, history = SlidingWindow(limit, 100), 100, []
    for at_us, cost in [(0, 1), (99, limit - 1), (198, limit - 1)]:
        granted = window.hit(T0 + at_us, cost).granted
        history.append(Admitted(T0 + at_us, granted))

    assert most_in_any_window(history, period_us) == window.bound


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
@pytest.mark.parametrize("period_us", [1, 2, 3, 5])
def test_no_history_gets_more_out_of_a_sliding_window(limit, period_us):
    """Every reachable state is tried with every cost; the counters say all that a state is."""
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
    """10^12 in ten days: 4,504 units, of 192 seconds each."""
    limit, period_us, unit_us = 10**12, 864_000 * S, 191_846_539
    window = SlidingWindow(limit, period_us)
    assert window.unit_us(0) == unit_us
    window.hit(T0, limit)

    assert window.peek(T0 + period_us + unit_us - 1).remaining == 0
    assert window.peek(T0 + period_us + unit_us).remaining == limit // 4504
    assert window.peek(T0 + period_us).retry_after_us == unit_us


def test_a_sliding_window_with_more_than_its_limit_reads_time_in_larger_units():
    """Eight of five: twice the unit."""
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
def test_looking_and_being_denied_take_nothing(model):
    """A peek says what the hit would say, and neither it nor a denied hit is kept."""
    policy = model(5, 10 * S)
    policy.hit(T0, 3)

    assert policy.peek(T0 + 1, 3) == policy.hit(T0 + 1, 3)
    assert not policy.hit(T0 + 1, 3).allowed
    assert policy.hit(T0 + 1, 2) == Answer(True, 2, 0, 0, *policy.peek(T0 + 1, 0)[4:])._replace(
        delay_us=policy.peek(T0 + 1, 0).delay_us - (4 * S if issubclass(model, TokenBucket) else 0)
    )


def assert_waits(policy, units, us):
    """So long, where it was worked out by hand; and it is the least after which the call passes."""
    waits_us = policy.peek(T0, units).retry_after_us
    assert waits_us == us.get(type(policy), waits_us)
    assert not policy.peek(T0 + waits_us - 1, units).allowed
    assert policy.peek(T0 + waits_us, units).allowed


@pytest.mark.parametrize("model", MODELS.values())
def test_a_part_is_granted_where_a_part_will_do(model):
    """``at_least`` takes as much as there is, and waits for no more than it asks for."""
    policy = model(10, 10 * S)
    policy.hit(T0, 7)

    assert policy.hit(T0, 9, at_least=4).granted == 0
    assert policy.hit(T0, 9, at_least=3)[:3] == (True, 3, 0)
    by_hand = {FixedWindow: 10 * S, SlidingLog: 10 * S, SlidingWindow: 11 * S}
    assert_waits(policy, 1, by_hand | dict.fromkeys(BUCKETS, 1 * S))
    assert policy.hit(T0, 9, at_least=1).retry_after_us == policy.peek(T0, 1).retry_after_us


def test_buckets_keep_their_debt_in_time_when_their_numbers_change():
    """60 of 100 used, then 200: 120 of 200 used; then 10: 6 of 10."""
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
    """A third of a microsecond is no number of sevenths; the difference is less than one."""
    bucket = TokenBucket(3, 10, burst=3)
    bucket.hit(T0, 1)  # full at 3 1/3
    bucket.change(limit=7, burst=7)
    assert bucket.full_at() == T0 + 4
    bucket.change(limit=3, burst=3)
    assert bucket.full_at() - T0 == pytest.approx(10 / 3)  # looking kept nothing
    bucket.change(limit=7, burst=7)
    bucket.hit(T0, 1)
    bucket.change(limit=3, burst=3)
    assert bucket.full_at() == T0 + 6  # 4 + 10/7, rounded up


@pytest.mark.parametrize("model", MODELS.values())
def test_a_clock_that_steps_back_frees_nobody_early(model):
    """Not by a period: what was taken counts on, and waiting by that clock is enough."""
    policy = model(4, 10 * S)
    policy.hit(T0, 4)
    answer = policy.hit(T0 - 10 * S, 2)

    assert not answer.allowed
    assert not policy.hit(T0 - 10 * S + answer.retry_after_us - 1, 2).allowed
    assert policy.hit(T0 - 10 * S + answer.retry_after_us, 2).allowed


@pytest.mark.parametrize("model", MODELS.values())
def test_resetting_says_what_stood_there_and_forgets_it(model):
    """The answer is that of a peek just before."""
    policy = model(4, 10 * S)
    policy.hit(T0, 3)
    before = policy.peek(T0, 2)

    assert policy.reset(T0, 2) == before
    assert policy.peek(T0)[:5] == (True, 0, 4, 0, 0)


def test_several_policies_are_charged_together_or_not_at_all():
    """The one that denies longest decides a denial, the fullest one an admission."""
    both = Several([FixedWindow(5, 10 * S), SlidingLog(3, 60 * S), FixedWindow(3, 30 * S)])

    first = both.hit(T0, 2)
    assert first[:5] == (True, 2, 1, 0, 60 * S)
    assert (first.policy, first.limit) == (1, 3)  # ties: the first
    assert [one.remaining for one in first.each] == [3, 1, 1]

    denied = both.hit(T0 + 1 * S, 2)
    assert denied[:5] == (False, 0, 1, 59 * S, 59 * S)
    assert (denied.policy, denied.limit) == (1, 3)
    assert [one.allowed for one in denied.each] == [True, False, False]
    assert [one.remaining for one in denied.each] == [3, 1, 1]  # nobody was charged

    part = both.hit(T0 + 1 * S, 3, at_least=1)
    assert part.granted == 1
    assert [one.granted for one in part.each] == [1, 1, 1]


@pytest.mark.parametrize("model", [GCRA, LeakyBucket])
def test_three_algorithms_are_one_bucket(model):
    """What they answer and admit; only their fields differ, and whether their callers wait."""
    other, bucket = model(3, 10, burst=4), TokenBucket(3, 10, burst=4)
    for at_us, cost in [(0, 3), (1, 2), (4, 2), (5, 1), (9, 3), (40, 4)]:
        assert other.hit(T0 + at_us, cost) == bucket.hit(T0 + at_us, cost)
    assert other.field == f"{model.algorithm}:10"
    assert (bucket.queues, GCRA.queues, LeakyBucket.queues) == (False, False, True)


# --- giving back, and charging without asking ---


@pytest.mark.parametrize("model", MODELS.values())
def test_a_settlement_charges_without_asking_up_to_a_debt_of_one_limit(model):
    """What does not fit any more is let go; the next callers wait."""
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
def test_refund_and_settlement_mend_what_cannot_be(model):
    """As a hit does, and only where they are to change something."""
    back = T0 - 1_000 * S
    for call in (Rate.refund, Rate.settle):
        policy, mended = model(4, 8 * S), model(4, 8 * S)
        for one in (policy, mended):
            one.hit(T0, 3)
        call(policy, back, 0)
        assert policy.peek(T0).remaining == 1
        mended.heal(back)
        assert call(policy, back, 1) == call(mended, back, 1)
        assert vars(policy) == vars(mended)


def test_a_clock_that_steps_back_ends_no_lease_early():
    """And what had ended is live again, until another one is taken or renewed."""
    held = Concurrency(2, 10 * S)
    held.acquire(T0, 1, "a")
    assert held.peek(T0 + 10 * S).remaining == 2
    assert held.release(T0 + 10 * S, 1, "a").granted == 0  # too late
    assert held.peek(T0 - 5 * S)[2:5] == (1, 0, 15 * S)
    held.acquire(T0 + 10 * S, 1, "b")
    assert held.peek(T0 + 5 * S)[2:5] == (1, 0, 15 * S)
    held.renew(T0 + 5 * S, 1, "b")
    assert held.peek(T0 + 5 * S)[2:5] == (1, 0, 15 * S)


def test_of_two_kinds_of_lease_one_may_be_held_still():
    """It stays as it is, and the other one is taken, with the rates."""
    both = Several([FixedWindow(5, 60 * S), Concurrency(2, 10 * S), Concurrency(1, 30 * S)])
    both.acquire(T0, 1, "a")
    again = both.acquire(T0 + 10 * S, 1, "a")

    assert [one[1:5] for one in again.each] == [
        (1, 3, 0, 50 * S),
        (1, 1, 0, 10 * S),
        (1, 0, 0, 20 * S),
    ]

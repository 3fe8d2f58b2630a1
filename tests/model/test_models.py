"""Tables worked out by hand hold the models to the words of the design, in seconds."""

from __future__ import annotations

import pytest

from tests.histories import Admitted, most_in_any_window
from tests.model import MODELS
from tests.model.base import Answer, Rate
from tests.model.concurrency import LONGEST_US, Concurrency
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


def test_a_fixed_window_opens_at_the_first_hit_and_lasts_exactly_its_period():
    """A window is half-open: the hit at its end opens the next one."""
    run(
        FixedWindow(3, 10 * S),
        [
            # at, cost, allowed, remaining, retry_after, reset_after
            (0 * S, 0, True, 3, 0, 0),  # looking opens nothing
            (4 * S, 1, True, 2, 0, 10 * S),
            (5 * S, 2, True, 0, 0, 9 * S),
            (6 * S, 1, False, 0, 8 * S, 8 * S),
            (14 * S - 1, 1, False, 0, 1, 1),
            (14 * S, 3, True, 0, 0, 10 * S),
            (40 * S, 1, True, 2, 0, 10 * S),
        ],
    )


def test_an_aligned_window_ends_on_the_clock():
    """Windows end at multiples of the period since 1970, whenever the first hit comes."""
    run(
        FixedWindow(2, 10 * S, align=True),
        [
            (4 * S, 2, True, 0, 0, 6 * S),
            (9 * S, 1, False, 0, 1 * S, 1 * S),
            (10 * S, 1, True, 1, 0, 10 * S),
            (27 * S, 1, True, 1, 0, 3 * S),
        ],
    )


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


def test_a_sliding_log_frees_each_unit_one_period_after_it_was_taken():
    """To the microsecond, and retry_after is the first moment at which the cost fits."""
    run(
        SlidingLog(3, 10 * S),
        [
            (0 * S, 1, True, 2, 0, 10 * S),
            (4 * S, 2, True, 0, 0, 10 * S),
            (5 * S, 1, False, 0, 5 * S, 9 * S),
            (5 * S, 2, False, 0, 9 * S, 9 * S),
            (10 * S - 1, 1, False, 0, 1, 4 * S + 1),
            (10 * S, 1, True, 0, 0, 10 * S),
            (14 * S, 0, True, 2, 0, 6 * S),
            (14 * S, 3, False, 2, 6 * S, 6 * S),
            (20 * S, 0, True, 3, 0, 0),
        ],
    )


def test_a_token_bucket_drips_at_a_steady_rate_up_to_its_burst():
    """One unit a second, five saved."""
    run(
        TokenBucket(1, 1 * S, burst=5),
        [
            (0, 1, True, 4, 0, 1 * S),
            (0, 5, False, 4, 1 * S, 1 * S),  # more than is there: nothing is taken
            (0, 4, True, 0, 0, 5 * S),
            (1 * S - 1, 1, False, 0, 1, 4 * S + 1),
            (1 * S, 1, True, 0, 0, 5 * S),
            (99 * S, 0, True, 5, 0, 0),  # no more than the burst is saved
        ],
    )


def test_a_token_bucket_is_exact_where_its_interval_is_no_whole_microsecond():
    """Three units in ten microseconds: one in 3 1/3; times are rounded up, never early."""
    run(
        TokenBucket(3, 10, burst=3),
        [
            (0, 3, True, 0, 0, 10),
            (3, 1, False, 0, 1, 7),
            (4, 1, True, 0, 0, 10),  # full at 13 1/3
            (7, 1, True, 0, 0, 10),  # full at 16 2/3
            (10, 1, True, 0, 0, 10),  # full at 20, as if nothing had been rounded
            (13, 1, False, 0, 1, 7),
        ],
    )


def test_a_sliding_window_counts_the_share_of_the_last_one_that_it_still_covers():
    """In whole microseconds; each window begins where the one before it ends."""
    run(
        SlidingWindow(5, 10 * S),
        [
            # at, cost, allowed, remaining, retry_after, reset_after
            (0, 0, True, 5, 0, 0),  # looking opens nothing
            (0, 1, True, 4, 0, 20 * S),
            (9 * S, 4, True, 0, 0, 11 * S),
            (9 * S, 1, False, 0, 3 * S, 11 * S),  # 5 x 8/10 = 4
            (12 * S - 1, 1, False, 0, 1, 8 * S + 1),
            (12 * S, 1, True, 0, 0, 18 * S),
            (14 * S, 2, False, 1, 2 * S, 16 * S),  # 1 + 5 x 4/10, at 16 s
            (20 * S, 4, True, 0, 0, 20 * S),  # the second window counts one
            (31 * S, 1, True, 0, 0, 19 * S),  # 4 x 9/10, rounded up
            (45 * S, 4, True, 0, 0, 15 * S),  # 1 x 5/10, rounded up
            (61 * S, 5, True, 0, 0, 20 * S),  # nothing counts: a window from here on
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


@pytest.mark.parametrize("model", [FixedWindow, SlidingLog])
def test_windows_and_logs_keep_the_count_when_their_limit_changes(model):
    """60 of 100 used, then 200: 140 remain; then 50: none, until the old ones leave."""
    policy = model(100, 60 * S)
    policy.hit(T0, 60)
    policy.change(limit=200)
    assert policy.peek(T0).remaining == 140

    policy.change(limit=50)
    assert policy.peek(T0 + 10 * S)[:5] == (False, 0, 0, 50 * S, 50 * S)
    assert policy.peek(T0 + 60 * S).remaining == 50


def test_a_lowered_log_waits_until_enough_of_the_old_ones_have_left():
    """60 taken at one per second; under a limit of 50 the eleventh must leave before one fits."""
    log = SlidingLog(100, 60 * S)
    for second in range(60):
        log.hit(T0 + second * S)
    log.change(limit=50)

    assert log.peek(T0 + 59 * S, 1).retry_after_us == 11 * S


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


def test_what_lies_too_far_ahead_heals_at_the_next_hit():
    """A window begins now, with its count; a log is empty; a debt is cut to twice its most."""
    back = T0 - 100 * S

    window = FixedWindow(4, 10 * S)
    window.hit(T0, 4)
    assert window.peek(back).retry_after_us == 10 * S
    assert window.peek(back + 1).retry_after_us == 10 * S  # looking mends nothing
    window.hit(back)
    assert window.peek(back + 1).retry_after_us == 10 * S - 1

    log = SlidingLog(4, 10 * S)
    log.hit(T0, 4)
    assert log.hit(back).remaining == 3
    assert log.hit(T0).remaining == 3

    window = SlidingWindow(4, 10 * S)
    window.hit(T0, 1)
    window.hit(T0 + 10 * S, 2)
    assert window.peek(back)[2:5] == (1, 0, 20 * S)
    window.hit(back + 4 * S)
    assert window.peek(back + 9 * S)[2:5] == (0, 5 * S, 15 * S)  # 3 + 1 x 5/10, and then 3

    bucket = TokenBucket(4, 10 * S, burst=2)  # fills in 5 s
    bucket.hit(T0, 2)
    assert bucket.hit(back).reset_after_us == 2 * (5 + 10) * S
    assert bucket.hit(back + 27 * S, 1).retry_after_us == 0.5 * S


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


def test_a_refund_takes_from_the_window_that_is_open_and_leaves_it_open():
    """No more than was used; a window that is over has nothing to give."""
    window = FixedWindow(5, 10 * S)
    assert window.refund(T0, 2) == Answer(True, 0, 5, 0, 0, 0)
    window.hit(T0, 3)
    assert window.refund(T0 + 4 * S, 2) == Answer(True, 2, 4, 0, 6 * S, 0)
    assert window.refund(T0 + 5 * S, 2) == Answer(True, 1, 5, 0, 5 * S, 0)
    assert window.refund(T0 + 5 * S, 2) == Answer(True, 0, 5, 0, 5 * S, 0)
    window.hit(T0 + 6 * S, 5)
    assert window.peek(T0 + 6 * S).retry_after_us == 4 * S
    assert window.refund(T0 + 10 * S, 5).granted == 0


def test_a_refund_of_a_log_drops_the_oldest_live_hits():
    """Without the newest, a window that began after the oldest would admit too much."""
    log = SlidingLog(5, 10 * S)
    log.hit(T0, 1)
    log.hit(T0 + 4 * S, 2)
    log.hit(T0 + 8 * S, 2)
    assert log.refund(T0 + 9 * S, 0) == Answer(True, 0, 0, 0, 9 * S, 0)
    assert log.refund(T0 + 10 * S, 1) == Answer(True, 1, 2, 0, 8 * S, 0)  # the first had left
    assert log.peek(T0 + 10 * S, 3).retry_after_us == 4 * S
    assert log.refund(T0 + 10 * S, 5) == Answer(True, 3, 5, 0, 0, 0)
    assert log.peek(T0 - 9 * S) == Answer(
        True, 0, 5, 0, 0, 0
    )  # nor does a step back bring any back


def test_a_refund_of_a_sliding_window_takes_from_this_one_then_from_the_last():
    """And where both are empty, nothing is as if anything had been."""
    window = SlidingWindow(5, 10 * S)
    window.hit(T0, 4)
    window.hit(T0 + 15 * S, 3)
    assert window.refund(T0 + 15 * S, 2) == Answer(True, 2, 2, 0, 15 * S, 0)
    assert window.refund(T0 + 15 * S, 3) == Answer(True, 3, 4, 0, 5 * S, 0)  # 2 x 5/10
    assert window.refund(T0 + 15 * S, 3) == Answer(True, 2, 5, 0, 0, 0)
    window.hit(T0 + 17 * S, 1)
    assert window.peek(T0 + 17 * S).reset_after_us == 20 * S


def test_a_refund_of_a_bucket_is_work_that_is_done_at_once():
    """A unit is given back where any part of it was still waiting."""
    bucket = TokenBucket(1, 1 * S, burst=5)
    bucket.hit(T0, 3)
    assert bucket.refund(T0, 1) == Answer(True, 1, 3, 0, 2 * S, 0)
    assert bucket.refund(T0 + S // 2, 3) == Answer(True, 2, 5, 0, 0, 0)
    assert bucket.refund(T0 + S // 2, 3).granted == 0
    assert bucket.peek(T0).reset_after_us == S // 2  # a clock that steps back refills nothing

    thirds = TokenBucket(3, 10, burst=3)
    thirds.hit(T0, 3)
    thirds.refund(T0 + 1, 1)
    assert thirds.full_at() - T0 == pytest.approx(20 / 3)
    assert thirds.hit(T0 + 4, 2).retry_after_us == 0


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


def test_several_policies_give_back_and_are_charged_each_by_itself():
    """Leases are not: nobody hits them."""
    all_three = Several([FixedWindow(5, 10 * S), Concurrency(3, 30 * S), SlidingLog(3, 60 * S)])
    all_three.acquire(T0, 2, "a")

    assert [one[1:3] for one in all_three.settle(T0, 3).each] == [(3, 0), (3, 0)]
    assert [one[1:3] for one in all_three.settle(T0, 3).each] == [(3, 0), (1, 0)]
    assert [one[1:3] for one in all_three.refund(T0, 4).each] == [(4, 1), (4, 1)]


# --- leases ---


def test_leases_are_held_until_they_end_or_are_given_back():
    """``retry_after`` waits for as many ends as are needed, ``reset_after`` for the last one."""
    held = Concurrency(3, 10 * S)
    assert held.acquire(T0, 1, "a") == Answer(True, 1, 2, 0, 10 * S, 0)
    assert held.acquire(T0 + 2 * S, 2, "b") == Answer(True, 2, 0, 0, 10 * S, 0)
    assert held.acquire(T0 + 3 * S, 1, "c") == Answer(False, 0, 0, 7 * S, 9 * S, 0)
    assert held.peek(T0 + 3 * S, 2) == Answer(False, 0, 0, 9 * S, 9 * S, 0)
    assert held.peek(T0 + 3 * S, 0) == Answer(True, 0, 0, 0, 9 * S, 0)
    assert held.release(T0 + 3 * S, 2, "b") == Answer(True, 2, 2, 0, 7 * S, 0)
    assert held.release(T0 + 3 * S, 2, "b") == Answer(True, 0, 2, 0, 7 * S, 0)
    assert held.acquire(T0 + 4 * S, 3, "d", at_least=2) == Answer(True, 2, 0, 0, 10 * S, 0)
    assert not held.acquire(T0 + 10 * S - 1, 1, "e").allowed
    assert held.acquire(T0 + 10 * S, 1, "e") == Answer(True, 1, 0, 0, 10 * S, 0)
    assert held.peek(T0 + 20 * S).remaining == 3


def test_a_lease_that_is_asked_for_again_is_the_same():
    """It is neither taken twice nor made longer."""
    held = Concurrency(2, 10 * S)
    held.acquire(T0, 2, "a")
    assert held.acquire(T0 + 1 * S, 2, "a") == Answer(True, 2, 0, 0, 9 * S, 0)
    held.release(T0 + 1 * S, 1, "a")
    assert held.acquire(T0 + 1 * S, 2, "a") == Answer(True, 1, 1, 0, 9 * S, 0)
    assert held.acquire(T0 + 10 * S, 2, "a") == Answer(True, 2, 0, 0, 10 * S, 0)


def test_a_lease_is_renewed_whole_or_not_at_all():
    """From now on, and never shorter; not when it has ended, and not that of somebody else."""
    held = Concurrency(3, 10 * S)
    held.acquire(T0, 2, "a")
    held.acquire(T0 + 1 * S, 1, "b")
    assert held.renew(T0 + 4 * S, 2, "a") == Answer(True, 2, 0, 0, 10 * S, 0)
    assert held.peek(T0 + 4 * S).retry_after_us == 7 * S  # b's end stays
    assert held.renew(T0 + 4 * S, 2, "c").granted == 0
    assert held.renew(T0 + 4 * S, 3, "a").granted == 0
    assert held.renew(T0 + 11 * S, 1, "b") == Answer(True, 0, 1, 0, 3 * S, 0)
    held.change(period_us=1 * S)
    assert held.renew(T0 + 11 * S, 2, "a") == Answer(True, 2, 1, 0, 3 * S, 0)
    assert held.renew(T0 + 13 * S + 1, 2, "a") == Answer(True, 2, 1, 0, 1 * S, 0)
    assert held.renew(T0 + 13 * S, 0, "a") == Answer(True, 0, 1, 0, 1 * S + 1, 0)


def test_leases_keep_their_end_when_their_numbers_change():
    """A lowered limit waits until enough of them have ended."""
    held = Concurrency(3, 10 * S)
    for second, holder in enumerate("abc"):
        held.acquire(T0 + second * S, 1, holder)
    held.change(limit=2, period_us=60 * S)
    assert held.acquire(T0 + 2 * S, 1, "d") == Answer(False, 0, 0, 9 * S, 10 * S, 0)
    assert held.acquire(T0 + 11 * S, 1, "d") == Answer(True, 1, 0, 0, 60 * S, 0)


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


def test_a_lease_that_ends_too_far_ahead_is_none():
    """No lease is longer than 366 days."""
    held = Concurrency(2, LONGEST_US)
    held.acquire(T0, 1, "a")
    assert held.peek(T0).remaining == 1
    assert held.peek(T0 - 1).remaining == 2
    held.acquire(T0 - 1, 1, "b")
    assert held.peek(T0).remaining == 1  # and the next one to be taken drops it


def test_leases_and_rates_are_taken_together_or_not_at_all():
    """What is held already is not charged again."""
    both = Several([FixedWindow(5, 10 * S), Concurrency(2, 30 * S)])
    assert [one[:4] for one in both.acquire(T0, 2, "a").each] == [(True, 2, 3, 0), (True, 2, 0, 0)]
    assert [one[:4] for one in both.acquire(T0, 2, "a").each] == [(True, 2, 3, 0), (True, 2, 0, 0)]
    denied = both.acquire(T0 + 1 * S, 1, "b")
    assert [one[:4] for one in denied.each] == [(True, 0, 3, 0), (False, 0, 0, 29 * S)]
    assert both.renew(T0 + 2 * S, 2, "a")[:5] == (True, 2, 0, 0, 30 * S)
    assert both.release(T0 + 2 * S, 2, "a")[:5] == (True, 2, 2, 0, 0)
    assert [one[:3] for one in both.acquire(T0 + 2 * S, 2, "b").each] == [
        (True, 2, 1),
        (True, 2, 0),
    ]


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

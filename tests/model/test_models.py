"""Tables worked out by hand hold the models to the words of the design, in seconds."""

from __future__ import annotations

import pytest

from tests.model.base import Answer
from tests.model.fixed_window import FixedWindow
from tests.model.several import Several
from tests.model.sliding_log import SlidingLog
from tests.model.token_bucket import TokenBucket

S = 1_000_000
#: A multiple of an hour since 1970, so that windows on the clock begin here.
T0 = 500_000 * 3600 * S


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


@pytest.mark.parametrize("model", [FixedWindow, SlidingLog, TokenBucket])
def test_looking_and_being_denied_take_nothing(model):
    """A peek says what the hit would say, and neither it nor a denied hit is kept."""
    policy = model(5, 10 * S)
    policy.hit(T0, 3)

    assert policy.peek(T0 + 1, 3) == policy.hit(T0 + 1, 3)
    assert not policy.hit(T0 + 1, 3).allowed
    assert policy.hit(T0 + 1, 2) == Answer(True, 2, 0, 0, *policy.peek(T0 + 1, 0)[4:])._replace(
        delay_us=policy.peek(T0 + 1, 0).delay_us - (4 * S if model is TokenBucket else 0)
    )


@pytest.mark.parametrize("model", [FixedWindow, SlidingLog, TokenBucket])
def test_a_part_is_granted_where_a_part_will_do(model):
    """``at_least`` takes as much as there is, and waits for no more than it asks for."""
    policy = model(10, 10 * S)
    policy.hit(T0, 7)

    assert policy.hit(T0, 9, at_least=4).granted == 0
    assert policy.hit(T0, 9, at_least=3)[:3] == (True, 3, 0)
    assert policy.hit(T0, 9, at_least=1).retry_after_us == (
        1 * S if model is TokenBucket else 10 * S
    )


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


@pytest.mark.parametrize("model", [FixedWindow, SlidingLog, TokenBucket])
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

    bucket = TokenBucket(4, 10 * S, burst=2)  # fills in 5 s
    bucket.hit(T0, 2)
    assert bucket.hit(back).reset_after_us == 2 * (5 + 10) * S
    assert bucket.hit(back + 27 * S, 1).retry_after_us == 0.5 * S


@pytest.mark.parametrize("model", [FixedWindow, SlidingLog, TokenBucket])
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

"""A policy that exists makes sense; one that does not make sense says why it cannot exist."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import FrozenInstanceError
from datetime import timedelta
from fractions import Fraction
from math import gcd
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limiter import FixedWindow, InvalidPolicy, LimiterError, SlidingLog, TokenBucket
from limiter.policies import ALGORITHMS, Policy

POLICIES = list(ALGORITHMS.values())
TRILLION = 10**12
DAY = 86_400

#: What no count may be; each with how the message shows it.
NO_COUNT = [0, -1, True, False, 1.0, "5", None, float("nan"), b"1", [1]]


def refused(build: Any, *arguments: Any, **named: Any) -> str:
    """The message of the InvalidPolicy that building raises."""
    with pytest.raises(InvalidPolicy) as raised:
        build(*arguments, **named)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, LimiterError)
    return str(raised.value)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("value", NO_COUNT, ids=repr)
def test_a_limit_is_a_whole_number_from_1(policy: type[Policy], value: Any) -> None:
    """The message has the policy, the field, the value and what is accepted."""
    said = refused(policy, value, per=60)
    assert said.startswith(f"{policy.__name__}: limit is {value!r}: accepted is a whole number")
    assert "from 1 to" in said


@pytest.mark.parametrize(
    ("policy", "most"),
    [(FixedWindow, TRILLION), (SlidingLog, 100_000), (TokenBucket, TRILLION)],
)
def test_a_limit_has_a_largest_value(policy: type[Policy], most: int) -> None:
    """The largest is accepted, one more is not."""
    # A bucket so large is exact where the period divides it well.
    assert policy(most, per=100_000).limit == most  # type: ignore[call-arg]
    said = refused(policy, most + 1, per=100_000)
    assert f"limit is {most + 1}" in said
    assert f"to {most:,}" in said


def test_a_log_that_is_too_long_names_what_to_use() -> None:
    """SlidingWindow and TokenBucket hold more than a log."""
    assert "SlidingWindow or TokenBucket" in refused(SlidingLog, 100_001, per="day")


def test_a_logs_cost_is_bounded() -> None:
    """One call writes at most 4,000 entries, and no more than the limit."""
    assert SlidingLog(100_000, per=60).most_cost == 4_000
    assert SlidingLog(7, per=60).most_cost == 7


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("per", "microseconds"),
    [
        (60, 60_000_000),
        (0.001, 1_000),
        (0.1, 100_000),
        (1.5, 1_500_000),
        (timedelta(milliseconds=5), 5_000),
        (timedelta(days=366), 366 * DAY * 10**6),
        ("minute", 60_000_000),
        ("30s", 30_000_000),
        ("5 Minutes", 300_000_000),
        (" 2 weeks ", 14 * DAY * 10**6),
        ("1_000ms", 1_000_000),
        ("month", 30 * DAY * 10**6),
        ("year", 365 * DAY * 10**6),
    ],
)
def test_a_period_is_kept_in_microseconds(
    policy: type[Policy], per: Any, microseconds: int
) -> None:
    """Seconds, a timedelta, or a string of the grammar."""
    built = policy(5, per)  # type: ignore[call-arg]
    assert built.period_us == microseconds
    assert built.per == microseconds / 10**6
    assert type(built.per) is (int if microseconds % 10**6 == 0 else float)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "per",
    [
        0,
        -1,
        0.0009,
        366 * DAY + 0.001,
        timedelta(microseconds=999),
        timedelta(days=366, microseconds=1),
        timedelta(days=-1),
        True,
        None,
        float("nan"),
        float("inf"),
        "",
        "fortnight",
        "0s",
        "_s",
        "5",
        "-5s",
        "1.5s",
        "minute burst 5",
        "5 5s",
        "\u0665s",
        "\u017fec",
        b"minute",
        [60],
    ],
    ids=repr,
)
def test_a_period_from_a_millisecond_to_366_days(policy: type[Policy], per: Any) -> None:
    """Anything else is named, with what is accepted."""
    said = refused(policy, 5, per=per)
    assert said.startswith(f"{policy.__name__}: per is {per!r}: accepted are seconds")
    assert "1 millisecond to 366 days" in said


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", "a" * 65, "a\n", "\xe9", 5, b"a"])
def test_a_name_is_short_and_plain(policy: type[Policy], name: Any) -> None:
    """A name goes into keys and headers as it is."""
    said = refused(policy, 5, per=60, name=name)
    assert f"name is {name!r}: accepted are 1 to 64 of a-z 0-9 _ . -" in said


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["a", "a" * 64, "a-b_c.9"])
def test_a_name_is_the_end_of_the_field(policy: type[Policy], name: str) -> None:
    """Two policies of one kind are told apart by their names."""
    assert policy(5, 60, name=name).field == f"{policy.algorithm}:60000000:{name}"  # type: ignore[call-arg]
    assert policy(5, 60).field == f"{policy.algorithm}:60000000"  # type: ignore[call-arg]


def test_aligned_windows_are_a_state_of_their_own() -> None:
    """They end elsewhere than those that open at the first hit."""
    assert FixedWindow(5, 60, align=True).field == "fixed_window.aligned:60000000"
    assert FixedWindow(5, 60, align=True) != FixedWindow(5, 60)


@pytest.mark.parametrize("align", [1, 0, "no", None])
def test_align_is_a_bool(align: Any) -> None:
    """``align="no"`` must not align."""
    said = refused(FixedWindow, 5, 60, align=align)
    assert said == f"FixedWindow: align is {align!r}: accepted are True and False"


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "5", TRILLION + 1], ids=repr)
def test_a_burst_is_a_whole_number_from_1(value: Any) -> None:
    """A burst has the limit's rules."""
    said = refused(TokenBucket, 5, 60, burst=value)
    assert said.startswith(f"TokenBucket: burst is {value!r}: accepted is a whole number from 1 to")


def test_a_burst_is_the_limit_unless_given() -> None:
    """The most that can pass at once is the burst."""
    assert TokenBucket(5, 60).burst == 5
    assert TokenBucket(5, 60, burst=9).capacity == TokenBucket(5, 60, burst=9).most_cost == 9
    assert FixedWindow(5, 60).capacity == FixedWindow(5, 60).most_cost == 5


def test_a_bucket_fills_within_3650_days() -> None:
    """A slower one is refused, and the message says how long it would take."""
    assert TokenBucket(1, "365 days", burst=10).burst == 10
    said = refused(TokenBucket, 1, "365 days", burst=11)
    assert "burst 11 at 1 per 31536000 s takes 4,015 days to fill" in said
    assert "3,650" in said
    assert "lower the burst or raise the limit" in said


def test_a_bucket_counts_in_whole_numbers_below_2_to_the_53() -> None:
    """The nearest limit that divides better is in the message, and can be built."""
    said = refused(TokenBucket, 10**9 + 7, per=1)
    nearest = int(re.search(r"the nearest is (\d+)", said)[1])  # type: ignore[index]
    assert abs(nearest - (10**9 + 7)) < 1_000
    assert TokenBucket(nearest, per=1).limit == nearest


def test_a_bucket_without_a_better_limit_says_what_else_helps() -> None:
    """Where no divisor is large enough, the burst or the period has to change."""
    said = refused(TokenBucket, 999_999_999_989, per=1.000003, burst=TRILLION)
    assert "use a smaller burst, or a longer period" in said


@given(
    limit=st.integers(1, TRILLION),
    period_us=st.integers(1_000, 366 * DAY * 10**6),
    burst=st.one_of(st.none(), st.integers(1, TRILLION)),
)
def test_buckets_are_exact_or_do_not_exist(limit: int, period_us: int, burst: int | None) -> None:
    """Exactly the buckets of the rule exist, and their numbers are the rate as a whole and a part."""
    most = limit if burst is None else burst
    parts = limit // gcd(limit, period_us)
    fills = Fraction(most * period_us, limit) <= 3_650 * DAY * 10**6
    per = timedelta(microseconds=period_us)
    if fills and (most + 1) * parts < 2**53:
        bucket = TokenBucket(limit, per, burst)
        capacity, period, t_us, t_part, own = bucket.arguments
        assert (capacity, period, own) == (most, period_us, parts)
        assert Fraction(t_us * own + t_part, own) == Fraction(period_us, limit)
    else:
        assert "TokenBucket" in refused(TokenBucket, limit, per, burst)


@given(
    limit=st.integers(10**7, 10**11),
    per=st.sampled_from([1, 60, 3_600, 86_400]),
    follows=st.booleans(),
)
def test_no_limit_between_divides_well(limit: int, per: int, follows: bool) -> None:
    """The nearest limit of the message is the nearest of those looked at in between."""
    burst = None if follows else 10**7
    try:
        TokenBucket(limit, per, burst)
    except InvalidPolicy as error:
        found = re.search(r"the nearest is (\d+)", str(error))
        assume(found)
        nearest = int(found[1])  # type: ignore[index]
    else:
        return
    TokenBucket(nearest, per, burst)
    # From the limit outwards, up to the nearest on either side.
    for distance in range(1, min(20, abs(nearest - limit))):
        for other in (limit - distance, limit + distance):
            with pytest.raises(InvalidPolicy):
                TokenBucket(other, per, burst)


EVERY_KIND: list[Policy] = [
    FixedWindow(5, per=60),
    FixedWindow(5, per=0.25, align=True, name="seats"),
    SlidingLog(100, per="minute"),
    SlidingLog(100, per="minute", name="x"),
    TokenBucket(100, per=1, burst=20),
    TokenBucket(100, per=1),
    TokenBucket(3, per=timedelta(microseconds=1_234_567), name="odd"),
]


@pytest.mark.parametrize("policy", EVERY_KIND, ids=repr)
def test_a_policy_is_a_value(policy: Policy) -> None:
    """Copies, pickles and what its repr says are equal to it and hash alike; no other one is."""
    for same in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), eval(repr(policy))):  # noqa: S301, S307
        assert same == policy
        assert hash(same) == hash(policy)
        assert type(same) is type(policy)
    assert [other for other in EVERY_KIND if other == policy] == [policy]


@pytest.mark.parametrize("policy", EVERY_KIND, ids=repr)
def test_a_policy_is_frozen(policy: Policy) -> None:
    """Nobody can make sense of it first and nonsense later."""
    with pytest.raises(FrozenInstanceError):
        policy.limit = 0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del policy.period_us


def test_numbers_given_in_two_ways_are_one_value() -> None:
    """A period is the same however it was spelled."""
    assert SlidingLog(5, 60) == SlidingLog(5, "minute") == SlidingLog(5, timedelta(minutes=1))
    assert TokenBucket(5, 60) == TokenBucket(5, 60.0, burst=5)


def test_policies_of_other_algorithms_are_never_equal() -> None:
    """The same numbers mean something else."""
    assert len({FixedWindow(5, 60), SlidingLog(5, 60), TokenBucket(5, 60)}) == 3


def test_a_dictionary_for_json() -> None:
    """Name, algorithm, limit and period; the burst where there is one."""
    assert SlidingLog(5, "minute", name="x").to_dict() == {
        "name": "x",
        "algorithm": "sliding_log",
        "limit": 5,
        "period": 60,
    }
    assert TokenBucket(5, 0.5, burst=7).to_dict() == {
        "name": None,
        "algorithm": "token_bucket",
        "limit": 5,
        "period": 0.5,
        "burst": 7,
    }


def test_every_algorithm_is_listed_by_its_name() -> None:
    """What a user may choose is what exists."""
    assert {name: policy.algorithm for name, policy in ALGORITHMS.items()} == {
        name: name for name in ALGORITHMS
    }
    assert ALGORITHMS.keys() >= {"fixed_window", "sliding_log", "token_bucket"}


def test_a_policy_says_nothing_that_it_is_not() -> None:
    """The repr holds what differs from the defaults, and nothing else."""
    assert repr(FixedWindow(5, per=60)) == "FixedWindow(5, per=60)"
    assert repr(EVERY_KIND[1]) == "FixedWindow(5, per=0.25, align=True, name='seats')"
    assert repr(EVERY_KIND[4]) == "TokenBucket(100, per=1, burst=20)"

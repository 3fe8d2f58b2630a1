"""A policy that can be built is valid; the error of another one names what is wrong."""

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

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    InvalidPolicy,
    LeakyBucket,
    LimiterError,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.policies import ALGORITHMS, Policy

POLICIES = list(ALGORITHMS.values())
EVERY_CLASS: list[type[Policy]] = [*POLICIES, Concurrency]
BUCKETS = [TokenBucket, GCRA, LeakyBucket]
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


@pytest.mark.parametrize("policy", EVERY_CLASS)
@pytest.mark.parametrize("value", NO_COUNT, ids=repr)
def test_a_limit_is_a_whole_number_from_1(policy: type[Policy], value: Any) -> None:
    """The message has the policy, the field, the value and what is accepted."""
    message = refused(policy, value, 60)
    assert message.startswith(f"{policy.__name__}: limit is {value!r}: expected a whole number")
    assert "from 1 to" in message


@pytest.mark.parametrize(
    ("policy", "most"),
    [
        (FixedWindow, TRILLION),
        (SlidingLog, 100_000),
        (SlidingWindow, TRILLION),
        (TokenBucket, TRILLION),
        (GCRA, TRILLION),
        (LeakyBucket, TRILLION),
        (Concurrency, 100_000),
    ],
)
def test_a_limit_has_a_largest_value(policy: type[Policy], most: int) -> None:
    """The largest is accepted, one more is not."""
    # A bucket so large is exact where the period divides it well.
    assert policy(most, 100_000).limit == most  # type: ignore[call-arg]
    message = refused(policy, most + 1, 100_000)
    assert f"limit is {most + 1}" in message
    assert f"to {most:,}" in message


def test_a_log_that_is_too_long_names_what_to_use() -> None:
    """SlidingWindow and TokenBucket have larger limits than a log."""
    assert "SlidingWindow or TokenBucket" in refused(SlidingLog, 100_001, per="day")


@pytest.mark.parametrize("policy", [SlidingLog, Concurrency])
def test_the_cost_of_what_keeps_entries_is_bounded(policy: Any) -> None:
    """One call writes at most 4,000 entries, and no more than the limit."""
    assert policy(100_000, 60).most_cost == 4_000
    assert policy(7, 60).most_cost == 7


@pytest.mark.parametrize("policy", EVERY_CLASS)
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
    """The error shows another value, and names what is accepted."""
    message = refused(policy, 5, per=per)
    assert message.startswith(f"{policy.__name__}: per is {per!r}: expected seconds")
    assert "1 millisecond to 366 days" in message
    same = refused(Concurrency, 5, lease=per)
    assert same == message.replace(f"{policy.__name__}: per is", "Concurrency: lease is", 1)


@pytest.mark.parametrize("policy", EVERY_CLASS)
@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", "a" * 65, "a\n", "\xe9", 5, b"a"])
def test_a_name_is_short_and_plain(policy: type[Policy], name: Any) -> None:
    """A name is written into keys and headers without a change."""
    message = refused(policy, 5, 60, name=name)
    assert f"name is {name!r}: expected 1 to 64 of a-z 0-9 _ . -" in message


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["a", "a" * 64, "a-b_c.9"])
def test_a_name_is_the_end_of_the_field(policy: type[Policy], name: str) -> None:
    """Two policies of one kind differ by their names."""
    assert policy(5, 60, name=name).field == f"{policy.algorithm}:60000000:{name}"
    assert policy(5, 60).field == f"{policy.algorithm}:60000000"  # type: ignore[call-arg]


def test_leases_are_places_whatever_their_length() -> None:
    """The field has no period: leases of other lengths share the same places."""
    assert Concurrency(5, lease=60).field == Concurrency(9).field == "concurrency"
    assert Concurrency(5, name="seats").field == "concurrency:seats"
    assert Concurrency(5).lease == 30
    assert Concurrency(5, lease=0.5).lease == 0.5


def test_the_class_of_a_policy_has_its_properties() -> None:
    """Whether it has bursts, queues calls, or holds leases, and where its state is."""
    kinds = {
        kind: (kind.key_type, kind.has_burst, kind.queues, kind.leases) for kind in EVERY_CLASS
    }
    properties = {
        FixedWindow: ("hash", False, False, False),
        SlidingLog: ("list", False, False, False),
        SlidingWindow: ("hash", False, False, False),
        TokenBucket: ("hash", True, False, False),
        GCRA: ("hash", True, False, False),
        LeakyBucket: ("hash", True, True, False),
        Concurrency: ("zset", False, False, True),
    }
    assert kinds | properties == kinds


@given(limit=st.integers(1, TRILLION), period_us=st.integers(1_000, 366 * DAY * 10**6))
def test_a_sliding_window_counts_time_in_exact_units(limit: int, period_us: int) -> None:
    """The smallest unit in which a limit times a period stays within 2^52."""
    *rest, unit_us = SlidingWindow(limit, timedelta(microseconds=period_us)).arguments
    assert rest == [limit, period_us]
    assert limit * Fraction(period_us, unit_us) <= 2**52
    assert unit_us == 1 or limit * Fraction(period_us, unit_us - 1) > 2**52


def test_aligned_windows_are_a_state_of_their_own() -> None:
    """They end at other times than windows that open at the first hit."""
    assert FixedWindow(5, 60, align=True).field == "fixed_window.aligned:60000000"
    assert FixedWindow(5, 60, align=True) != FixedWindow(5, 60)


@pytest.mark.parametrize("align", [1, 0, "no", None])
def test_align_is_a_bool(align: Any) -> None:
    """``align="no"`` must not align."""
    message = refused(FixedWindow, 5, 60, align=align)
    assert message == f"FixedWindow: align is {align!r}: expected True or False"


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "5", TRILLION + 1], ids=repr)
def test_a_burst_is_a_whole_number_from_1(bucket: Any, value: Any) -> None:
    """A burst follows the limit's rules."""
    message = refused(bucket, 5, 60, burst=value)
    assert message.startswith(
        f"{bucket.__name__}: burst is {value!r}: expected a whole number from 1 to"
    )


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_burst_is_the_limit_unless_given(bucket: Any) -> None:
    """The burst is the most that can pass at once."""
    assert bucket(5, 60).burst == 5
    assert bucket(5, 60, burst=9).capacity == bucket(5, 60, burst=9).most_cost == 9


def test_without_a_burst_the_limit_is_the_most() -> None:
    """The most that passes at once, and the largest cost."""
    assert FixedWindow(5, 60).capacity == FixedWindow(5, 60).most_cost == 5


def test_a_bucket_fills_within_3650_days() -> None:
    """A slower bucket is refused, and the message has the time that it would take."""
    assert TokenBucket(1, "365 days", burst=10).burst == 10
    message = refused(TokenBucket, 1, "365 days", burst=11)
    assert "burst 11 at 1 per 31536000 s takes 4,015 days to fill" in message
    assert "3,650" in message
    assert "lower the burst or raise the limit" in message


def test_a_bucket_counts_in_whole_numbers_below_2_to_the_53() -> None:
    """The message has the nearest limit that divides better, and that limit is accepted."""
    message = refused(TokenBucket, 10**9 + 7, per=1)
    nearest = int(re.search(r"the nearest is (\d+)", message)[1])  # type: ignore[index]
    assert abs(nearest - (10**9 + 7)) < 1_000
    assert TokenBucket(nearest, per=1).limit == nearest


def test_a_bucket_without_a_better_limit_names_another_change() -> None:
    """If no divisor is large enough, the burst or the period must change."""
    message = refused(TokenBucket, 999_999_999_989, per=1.000003, burst=TRILLION)
    assert "use a smaller burst, or a longer period" in message


@given(
    limit=st.integers(1, TRILLION),
    period_us=st.integers(1_000, 366 * DAY * 10**6),
    burst=st.one_of(st.none(), st.integers(1, TRILLION)),
)
def test_buckets_are_exact_or_do_not_exist(limit: int, period_us: int, burst: int | None) -> None:
    """A bucket is accepted exactly if the rule allows it; its rate is a whole number and a fraction."""
    most = limit if burst is None else burst
    parts = limit // gcd(limit, period_us)
    fills = Fraction(most * period_us, limit) <= 3_650 * DAY * 10**6
    per = timedelta(microseconds=period_us)
    if fills and (most + 1) * parts < 2**53:
        bucket = TokenBucket(limit, per, burst)
        capacity, interval_us, own = bucket.arguments
        assert (capacity, own) == (most, parts)
        assert Fraction(interval_us, own) == Fraction(period_us, limit)
    else:
        assert "TokenBucket" in refused(TokenBucket, limit, per, burst)


@given(
    limit=st.integers(10**7, 10**11),
    per=st.sampled_from([1, 60, 3_600, 86_400]),
    follows=st.booleans(),
)
def test_no_limit_between_divides_well(limit: int, per: int, follows: bool) -> None:
    """No limit nearer than that of the message is accepted."""
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
    SlidingWindow(100, per="minute"),
    TokenBucket(100, per=1, burst=20),
    TokenBucket(100, per=1),
    TokenBucket(3, per=timedelta(microseconds=1_234_567), name="odd"),
    GCRA(100, per=1, burst=20),
    LeakyBucket(100, per=1, burst=20),
    Concurrency(20),
    Concurrency(20, lease=0.5, name="seats"),
    Concurrency(20, max_hold=600),
    Concurrency(20, lease=0.25, max_hold=0.75, name="short"),
]


def test_the_longest_hold_is_not_a_part_of_the_identity() -> None:
    """It can change while leases are held; it is shown if it is set."""
    policy = Concurrency(20, lease=30, max_hold="10 minutes")
    assert (policy.max_hold, Concurrency(20).max_hold) == (600, None)
    assert (policy.field, policy.arguments) == (Concurrency(20).field, Concurrency(20).arguments)
    assert policy.to_dict() == {**Concurrency(20).to_dict(), "max_hold": 600}
    assert policy.renumbered(7) == Concurrency(7, lease=30, max_hold=600)
    assert policy.shared(2) == Concurrency(10, lease=30, max_hold=600)
    assert repr(policy) == "Concurrency(20, lease=30, max_hold=600)"


@pytest.mark.parametrize("longest", [0, -1, 29.9, "20s", "x", True, float("nan"), "400 days"])
def test_a_longest_hold_is_no_shorter_than_a_lease(longest: Any) -> None:
    assert "Concurrency: max_hold is" in refused(Concurrency, 5, max_hold=longest)
    assert Concurrency(5, lease=5, max_hold=5).max_hold == 5


@pytest.mark.parametrize("policy", EVERY_KIND, ids=repr)
def test_a_policy_is_a_value(policy: Policy) -> None:
    """Copies, pickles and the evaluated repr are equal to it, with the same hash; no other policy is."""
    for same in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), eval(repr(policy))):  # noqa: S301, S307
        assert same == policy
        assert hash(same) == hash(policy)
        assert type(same) is type(policy)
    assert [other for other in EVERY_KIND if other == policy] == [policy]


@pytest.mark.parametrize("policy", EVERY_KIND, ids=repr)
def test_a_policy_is_frozen(policy: Policy) -> None:
    """A valid policy cannot become an invalid one."""
    with pytest.raises(FrozenInstanceError):
        policy.limit = 0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del policy.period_us


def test_numbers_given_in_two_ways_are_one_value() -> None:
    """A period is the same in every notation."""
    assert SlidingLog(5, 60) == SlidingLog(5, "minute") == SlidingLog(5, timedelta(minutes=1))
    assert TokenBucket(5, 60) == TokenBucket(5, 60.0, burst=5)


def test_a_dictionary_for_json() -> None:
    """Name, algorithm, limit and period; the burst if there is one."""
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


def test_the_repr_has_only_what_differs_from_defaults() -> None:
    assert repr(FixedWindow(5, per=60)) == "FixedWindow(5, per=60)"
    assert repr(EVERY_KIND[1]) == "FixedWindow(5, per=0.25, align=True, name='seats')"
    assert repr(TokenBucket(100, per=1, burst=20)) == "TokenBucket(100, per=1, burst=20)"
    assert repr(Concurrency(20)) == "Concurrency(20, lease=30)"


@pytest.mark.parametrize("policy", EVERY_KIND, ids=repr)
def test_other_numbers_leave_the_rest_of_a_policy(policy: Policy) -> None:
    """Class, period, name and alignment stay; the burst is the limit unless given."""
    other = policy.renumbered(7)
    assert (type(other), other.field, other.period_us) == (
        type(policy),
        policy.field,
        policy.period_us,
    )
    assert (other.limit, other.capacity) == (7, 7)
    assert other.renumbered(policy.limit, getattr(policy, "burst", None)) == policy


@pytest.mark.parametrize("policy", EVERY_KIND, ids=repr)
def test_other_numbers_are_checked_too(policy: Policy) -> None:
    """As when a policy is built; only a bucket has a burst."""
    assert "limit is 0" in refused(policy.renumbered, 0)
    if policy.has_burst:
        assert policy.renumbered(7, 9).capacity == 9
        assert "burst is 0" in refused(policy.renumbered, 7, 0)
    else:
        assert "burst is 9: expected none" in refused(policy.renumbered, 7, 9)


@pytest.mark.parametrize("policy", EVERY_KIND, ids=repr)
def test_a_share_is_an_equal_part_and_at_least_1(policy: Policy) -> None:
    """Of the limit and of the burst; all of it if there is one process."""
    assert policy.shared(1) == policy
    for share in (2, 3, 1_000):
        part = policy.shared(share)
        assert part.limit == max(1, policy.limit // share)
        assert part.capacity == max(1, policy.capacity // share)
        assert (type(part), part.field) == (type(policy), policy.field)


def test_a_share_may_be_too_fine_for_a_script() -> None:
    """It is for a store in the process: 10^12 divides a day's microseconds well, a seventh does not."""
    whole = TokenBucket(TRILLION, per=100_000)
    part = whole.shared(7)
    assert part.limit == TRILLION // 7
    assert "cannot be counted" in refused(whole.renumbered, TRILLION // 7)

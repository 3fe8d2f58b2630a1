"""The meaning of limit strings."""

from __future__ import annotations

from typing import Any

import limits as neighbour
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import (
    FixedWindow,
    InvalidPolicy,
    InvalidSetting,
    SlidingLog,
    TokenBucket,
    parse_limits,
)
from limiter.policies import ALGORITHMS

SECONDS = {
    "ms": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "h": 3_600,
    "hour": 3_600,
    "d": 86_400,
    "day": 86_400,
    "w": 604_800,
    "week": 604_800,
    "month": 30 * 86_400,
    "year": 365 * 86_400,
}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("100/minute", [SlidingLog(100, 60)]),
        ("100 per minute", [SlidingLog(100, 60)]),
        ("5/30s", [SlidingLog(5, 30)]),
        ("5 PER 30 Seconds", [SlidingLog(5, 30)]),
        ("  5\t/ 2\tDAYS ", [SlidingLog(5, 2 * 86_400)]),
        ("5per2days", [SlidingLog(5, 2 * 86_400)]),
        ("1_000/hour", [SlidingLog(1000, 3600)]),
        ("10/m", [SlidingLog(10, 60)]),
        ("10/month", [SlidingLog(10, 30 * 86_400)]),
        ("100/minute burst 20", [TokenBucket(100, 60, burst=20)]),
        ("100/MINUTE BURST 1_0", [TokenBucket(100, 60, burst=10)]),
        ("20/second; 1000/hour", [SlidingLog(20, 1), SlidingLog(1000, 3600)]),
        ("1/s,2/m|3/h", [SlidingLog(1, 1), SlidingLog(2, 60), SlidingLog(3, 3600)]),
        ("1/s; 9/m burst 3", [SlidingLog(1, 1), TokenBucket(9, 60, burst=3)]),
        ("10000/second", [SlidingLog(10_000, 1)]),
    ],
)
def test_what_strings_mean(text: str, meant: list[Any]) -> None:
    """Without an algorithm, a sliding log; with a burst, a token bucket."""
    assert parse_limits(text) == tuple(meant)


@pytest.mark.parametrize(("unit", "seconds"), SECONDS.items())
@pytest.mark.parametrize("plural", ["", "s"])
def test_every_unit(unit: str, seconds: float, plural: str) -> None:
    """With an optional plural s, in any case."""
    if unit + plural == "ms":
        seconds = 0.001  # not the plural of m
    assert parse_limits(f"7/{unit}{plural}") == (SlidingLog(7, seconds),)
    assert parse_limits(f"7/1{unit.upper()}{plural}") == (SlidingLog(7, seconds),)


@pytest.mark.parametrize(
    ("algorithm", "meant"),
    [
        ("fixed_window", FixedWindow(50_000, 60)),
        ("sliding_log", SlidingLog(50_000, 60)),
        ("token_bucket", TokenBucket(50_000, 60)),
    ],
)
def test_an_algorithm_holds_for_the_whole_string(algorithm: str, meant: Any) -> None:
    """It also decides how large a limit may be."""
    both = parse_limits("50000/minute; 60000/hour", algorithm)
    assert both[0] == meant
    assert [type(policy) for policy in both] == [type(meant)] * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "100",
        "/minute",
        "100/",
        "100/fortnight",
        "100/minute;",
        ";100/minute",
        "100/minute;;1/s",
        "0/minute",
        "00/minute",
        "5/0s",
        "-1/s",
        "+1/s",
        "1.5/s",
        "1e3/s",
        "1 0/s",
        "1/s s",
        "1/mi nute",
        "1/p er minute",
        "1//s",
        "1/s burst",
        "1/s burst 0",
        "1/s burst -1",
        "1/s burst 1 burst 1",
        "1/s burst1.5",
        "_1/s",
        "1_/s",
        "1__0/s",
        "1/sss",
        "1/mss burst",
        "\u0661/s",
        "1/\u017f",
        "1\xa0/s",
        "1\u2003/s",
        "1/s\x00",
        "9" * 5000 + "/s",
        "1/367 days",
        "1/1" + "0" * 30 + "s",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_wrong_limit_is_named(text: str) -> None:
    """The InvalidPolicy shows it and names what is accepted."""
    with pytest.raises(InvalidPolicy) as raised:
        parse_limits(text)
    message = str(raised.value)
    assert message.startswith("limit is ")
    assert "N/unit" in message or "whole number from 1" in message or "366 days" in message


def test_the_wrong_one_of_several_is_shown() -> None:
    """The message has the wrong part and the whole string."""
    with pytest.raises(InvalidPolicy, match=r"limit is '5/x' in '1/s; 5/x': expected N/unit"):
        parse_limits("1/s; 5/x")


@pytest.mark.parametrize("text", [None, 5, b"1/s", ["1/s"]])
def test_a_string_is_a_string(text: Any) -> None:
    """Bytes and numbers are not limit strings."""
    with pytest.raises(InvalidPolicy, match="limits are "):
        parse_limits(text)


@pytest.mark.parametrize("limit", [10_001, 100_000, 100_001, 10**12])
def test_a_long_log_needs_an_algorithm(limit: int) -> None:
    """Above 10,000, the message names the algorithms that hold so much."""
    with pytest.raises(InvalidPolicy) as raised:
        parse_limits(f"{limit}/day")
    message, _, names = str(raised.value).partition("choose an algorithm: ")
    assert message.startswith(
        f"limit is '{limit}/day': without an algorithm a limit goes up to 10,000 ("
    )
    assert ("sliding_log" in names) == (limit <= 100_000)
    for name in names.split(", "):
        assert parse_limits(f"{limit}/day", name)


def test_a_limit_beyond_every_algorithm() -> None:
    """The chosen algorithm names its maximum."""
    with pytest.raises(InvalidPolicy, match="choose an algorithm: fixed_window, "):
        parse_limits(f"{10**12 + 1}/day")
    with pytest.raises(InvalidPolicy, match="from 1 to 1,000,000,000,000"):
        parse_limits(f"{10**12 + 1}/day", "fixed_window")


@pytest.mark.parametrize(
    "algorithm", [name for name, policy in ALGORITHMS.items() if not policy.has_burst]
)
def test_only_buckets_have_a_burst(algorithm: str) -> None:
    """For another algorithm, the message names those with a burst."""
    with pytest.raises(
        InvalidPolicy, match=f"expected no burst with {algorithm}; a burst is for token_bucket"
    ):
        parse_limits("5/s burst 3", algorithm)


@pytest.mark.parametrize("algorithm", ["", "Sliding_Log", "nonsense", 5, []])
def test_an_algorithm_has_a_known_name(algorithm: Any) -> None:
    """The message has the value and all names that are accepted."""
    with pytest.raises(InvalidSetting) as raised:
        parse_limits("5/s", algorithm)
    assert str(raised.value) == (f"algorithm is {algorithm!r}: expected {', '.join(ALGORITHMS)}")


def test_a_policys_own_rules_hold_for_strings_too() -> None:
    """A string builds policies, so that their ranges hold for it."""
    with pytest.raises(InvalidPolicy, match="SlidingLog: limit is 100001"):
        parse_limits("100001/day", "sliding_log")
    with pytest.raises(InvalidPolicy, match="TokenBucket: limit 1000000007"):
        parse_limits("1000000007/s", "token_bucket")


blanks = st.sampled_from(["", " ", "  ", "\t", "\n", "\r\n "])


@st.composite
def limit_strings(draw: st.DrawFn) -> str:
    """One limit as the package ``limits`` spells it."""
    unit = draw(st.sampled_from(["second", "minute", "hour", "day", "month", "year"]))
    multiple = draw(st.sampled_from(["", "1", "2", "007", "30"])) if unit != "year" else ""
    multiple = multiple if unit != "month" else draw(st.sampled_from(["", "2"]))
    text = [
        draw(blanks),
        str(draw(st.integers(1, 10_000))),
        draw(blanks),
        draw(st.sampled_from(["/", "per"])),
        draw(blanks),
        multiple,
        draw(blanks),
        unit + draw(st.sampled_from(["", "s"])),
        draw(blanks),
    ]
    message = "".join(text)
    return draw(st.sampled_from([message, message.upper(), message.title()]))


@given(parts=st.lists(limit_strings(), min_size=1, max_size=4), data=st.data())
def test_means_what_the_package_limits_means(parts: list[str], data: st.DataObject) -> None:
    """What that package parses is the same limit here, except for the length of a year."""
    text = parts[0]
    for part in parts[1:]:
        text += data.draw(st.sampled_from(";,|")) + part
    ours = parse_limits(text)
    theirs = neighbour.parse_many(text)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        seconds = their.get_expiry()
        if their.GRANULARITY.name == "year":
            seconds = seconds // 360 * 365  # its year has twelve months of 30 days
        assert (our.limit, our.per) == (their.amount, seconds)


@given(text=st.text(alphabet="0159/per minutesburhdayw;,|_ .\t-", max_size=30))
def test_any_string_is_limits_or_an_invalid_policy(text: str) -> None:
    """Each string that the package ``limits`` parses, except the empty one, is accepted here too."""
    try:
        policies = parse_limits(text)
    except InvalidPolicy:
        return
    assert all(policy.limit >= 1 for policy in policies)


@given(
    policies=st.lists(
        st.builds(SlidingLog, st.integers(1, 10_000), st.sampled_from(list(SECONDS.values()))),
        min_size=1,
        max_size=5,
    )
)
def test_a_written_list_reads_back(policies: list[SlidingLog]) -> None:
    """Limits that are written by their numbers are read as the same limits."""
    text = ";".join(f"{policy.limit}/{policy.period_us // 1000}ms" for policy in policies)
    assert parse_limits(text) == tuple(policies)

"""Periods can be written and read back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import InvalidPolicy
from limiter.units import LONGEST_US, SHORTEST_US, period_us, seconds

microseconds = st.integers(SHORTEST_US, LONGEST_US)


@given(us=microseconds)
def test_seconds_are_microseconds_again(us: int) -> None:
    """As a number, as a timedelta, and from the repr of either."""
    assert period_us(seconds(us)) == us
    assert period_us(timedelta(microseconds=us)) == us
    assert period_us(float(repr(seconds(us)))) == us


@given(per=st.one_of(st.floats(), st.integers(), st.timedeltas(), st.text(max_size=10)))
def test_any_value_is_a_period_or_an_invalid_policy(per: object) -> None:
    """Infinities, NaN and other types included."""
    message = ""
    try:
        us = period_us(per)  # type: ignore[arg-type]
    except InvalidPolicy as error:
        us, message = SHORTEST_US, str(error)
    assert type(us) is int
    assert SHORTEST_US <= us <= LONGEST_US
    assert not message or message.startswith(f"per is {per!r}: expected")


@pytest.mark.parametrize(
    ("per", "us"), [(0.0010004, 1_000), (1.0000004, 1_000_000), (0.0019996, 2_000)]
)
def test_parts_of_a_microsecond_are_rounded(per: float, us: int) -> None:
    """A period is whole microseconds."""
    assert period_us(per) == us

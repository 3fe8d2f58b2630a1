"""The extent of an accuracy run."""

from __future__ import annotations

from typing import NamedTuple


class Effort(NamedTuple):
    """Limits, periods and numbers of calls, the same on every machine."""

    limit: int
    period_us: int
    """The period of the limit in real time, and of the first limit in simulated time."""
    others: tuple[tuple[int, int], ...]
    """Further limits and periods, in simulated time."""
    periods: int
    """Periods of overload in simulated time."""
    random_calls: int
    """Random calls, in simulated time."""
    real_periods: int
    """Periods of overload in real time, the first of which is not counted."""
    retries_us: int
    """Duration of the calls that find out when each contender admits again."""
    prepaid_seconds: float
    """Duration of each load on prepaid units."""


# Two seconds: some other libraries count in whole seconds, so a shorter period would be unfair to them.
FULL = Effort(20, 2_000_000, ((7, 1_000_000), (1, 1_000_000)), 200, 2_000, 6, 5_000_000, 4.0)
QUICK = Effort(10, 1_000_000, ((3, 1_000_000),), 6, 60, 2, 1_500_000, 0.6)

"""How much is tried, and for how long."""

from __future__ import annotations

from typing import NamedTuple


class Effort(NamedTuple):
    """Numbers of a run; bounded, whatever the machine."""

    limit: int
    period_us: int
    """Of every limit that is measured in real time; the first of those in simulated time."""
    others: tuple[tuple[int, int], ...]
    """More limits and periods, in simulated time."""
    periods: int
    """Periods of overload in simulated time."""
    random_calls: int
    """Calls at random, in simulated time."""
    real_periods: int
    """Periods of overload in real time, the first of which is not counted."""
    retries_us: int
    """For so long each contender is asked when it opens again."""


# Peers that count in whole seconds get two of them; theirs is the shortest period that is fair.
FULL = Effort(20, 2_000_000, ((7, 1_000_000), (1, 1_000_000)), 200, 2_000, 6, 5_000_000)
QUICK = Effort(10, 1_000_000, ((3, 1_000_000),), 6, 60, 3, 1_500_000)

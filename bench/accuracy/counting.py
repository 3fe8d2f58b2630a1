"""Counts of the calls admitted in each window; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Admitted(NamedTuple):
    """One admitted call, decided between two times; they are equal if the store reports its time."""

    first_us: int
    last_us: int
    cost: int = 1


def most_in_any_window(history: Sequence[Admitted], window_us: int) -> int:
    """Return the largest cost that was certainly admitted in one window [t, t + window).

    The history is one caller's, in order: neither of its times decreases.
    """
    most = inside = oldest = 0
    for hit in history:
        inside += hit.cost
        while history[oldest].first_us + window_us <= hit.last_us:
            inside -= history[oldest].cost
            oldest += 1
        most = max(most, inside)
    return most


def most_at_any_instant(held: Iterable[tuple[int, int, int]]) -> int:
    """Return the most units held at once, from intervals [from, to) with their units."""
    changes = sorted(
        change
        for from_us, to_us, units in held
        for change in ((from_us, units), (to_us, -units))
        if from_us < to_us
    )
    most = now = 0
    for _, units in changes:
        now += units
        most = max(most, now)
    return most


def under_admission(
    history: Iterable[Admitted], start_us: int, periods: int, limit: int, period_us: int
) -> float:
    """Return in percent how much less than ``limit`` a period was admitted in these periods.

    The result is negative if more was admitted. A call counts at the middle of its two times.
    """
    end_us = start_us + periods * period_us
    admitted = sum(
        hit.cost for hit in history if start_us <= (hit.first_us + hit.last_us) // 2 < end_us
    )
    return 100 * (1 - admitted / (periods * limit))


def opens_after(passes: Callable[[int], bool], told_us: int, most_us: int) -> int:
    """Return the first of the times 1 to ``most_us`` at which a call passes; ``told_us`` is a guess.

    The call must pass from some time on, and at ``most_us``. If the guess is right, two calls of
    ``passes`` show it.
    """
    if told_us > 0 and passes(told_us):
        if told_us == 1 or not passes(told_us - 1):
            return told_us
        denied, passing = 0, told_us - 1
    else:
        denied, passing = max(0, told_us), most_us
    while passing - denied > 1:
        middle = (denied + passing) // 2
        if passes(middle):
            passing = middle
        else:
            denied = middle
    return passing

"""The grants of concurrent callers, and the check that they kept the bound in every window.

A history needs no order of its own: every reply has the time of its decision, in microseconds, so that
the replies of all threads can be sorted, and checked window by window.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Admitted(NamedTuple):
    """One admitted call: when the store decided, and what it took."""

    decided_us: int
    cost: int


def most_in_any_window(history: Iterable[Admitted], period_us: int) -> int:
    """The largest cost of any window [t, t + period), by two pointers over the sorted history."""
    hits = sorted(history)
    most = inside = oldest = 0
    for hit in hits:
        inside += hit.cost
        while hits[oldest].decided_us + period_us <= hit.decided_us:
            inside -= hits[oldest].cost
            oldest += 1
        most = max(most, inside)
    return most


def own_windows(history: Iterable[Admitted], period_us: int, align: bool = False) -> dict[int, int]:
    """The cost of each window that a fixed window must have opened, by its start."""
    windows: dict[int, int] = {}
    start_us: int | None = None
    for at, cost in sorted(history):
        if start_us is None or at >= start_us + period_us:
            start_us = at - at % period_us if align else at
            windows[start_us] = 0
        windows[start_us] += cost
    return windows


def assert_bound(model: Any, history: Iterable[Admitted]) -> None:
    """Fail unless the history kept the bound in every window, and the model's other rules."""
    history = list(history)
    most = most_in_any_window(history, model.period_us)
    assert most <= model.bound, f"{most} in one period under {model}"
    model.check(history)


def assert_never_in_debt(policy: Any, history: Iterable[Admitted]) -> None:
    """Fail unless every window of the history, of whatever length, fits into burst plus refill.

    The widest excess over all windows that end at a hit is a running maximum, as in any queue:
    waiting work, here in units x period, so that it stays a whole number.
    """
    waiting = last_us = 0
    for at, cost in sorted(history):
        waiting = max(0, waiting - (at - last_us) * policy.limit) + cost * policy.period_us
        last_us = at
        assert waiting <= policy.burst * policy.period_us, f"more than was refilled, under {policy}"

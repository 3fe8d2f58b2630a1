"""The bound of each algorithm: the most cost that it admits in any window, without refunds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Bound(NamedTuple):
    """A bound in words, and as a number for a policy and a window in microseconds."""

    words: str
    """The bound in any window of one period."""
    most: Callable[[Any, int], int]


def _own_windows(policy: Any, window_us: int) -> int:
    """Return the number of consecutive windows of one period that a window can overlap."""
    return periods(policy, window_us) + 1


def periods(policy: Any, window_us: int) -> int:
    """Return a window's length in periods, rounded up."""
    return -(-window_us // int(policy.period_us))


def _fixed(policy: Any, window_us: int) -> int:
    return int(policy.limit) * _own_windows(policy, window_us)


def _log(policy: Any, window_us: int) -> int:
    return int(policy.limit) * periods(policy, window_us)


def _counters(policy: Any, window_us: int) -> int:
    limit = int(policy.limit)
    if limit == 1:
        # The previous window's one unit counts fully until that window is over.
        return periods(policy, window_us)
    return (limit - 1) * _own_windows(policy, window_us)


def _bucket(policy: Any, window_us: int) -> int:
    return int(policy.burst) + window_us * int(policy.limit) // int(policy.period_us)


_BUCKET = Bound("burst + limit", _bucket)

#: By the algorithm's name; a new algorithm must state its own bound.
BOUNDS: Mapping[str, Bound] = {
    "fixed_window": Bound("2 limit", _fixed),
    "sliding_log": Bound("limit", _log),
    "sliding_window": Bound("2 limit - 2", _counters),
    "token_bucket": _BUCKET,
    "gcra": _BUCKET,
    "leaky_bucket": _BUCKET,
}

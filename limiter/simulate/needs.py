"""The smallest limit under which a subject is never denied, for each algorithm, from its requests alone.

A request is a time and a cost, in the order of time. As long as no request is denied, the state of a window
or a log does not depend on the limit, so one look at the requests finds the limit. A bucket is emptied at
the rate of its limit, so its limit is approached from below: the worst time under a limit that is too small
shows the least limit under which this time passes.

The tests prove each function against the decisions of ``limiter.policies``. Nothing here reads a log.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from limiter.policies import SlidingLog, SlidingWindow
from limiter.policies.step import EXACT

#: Times in microseconds, never decreasing.
Times = Sequence[int]
#: Costs from 1, as many as times.
Costs = Sequence[int]

#: More than any policy accepts: no limit of an algorithm is enough.
NO_LIMIT = 10**12 + 1


def fixed_window(period_us: int, times: Times, costs: Costs, *, align: bool = False) -> int:
    """Return the most units in one window."""
    most = used = 0
    end_us = -1
    for at_us, cost in zip(times, costs, strict=True):
        if at_us >= end_us:
            end_us = at_us + period_us - (at_us % period_us if align else 0)
            used = 0
        used += cost
        most = max(most, used)
    return most


def sliding_log(period_us: int, times: Times, costs: Costs) -> int:
    """Return the most units in any window of one period, or NO_LIMIT if one call has too large a cost."""
    return NO_LIMIT if max(costs) > SlidingLog.most_entries else peak(period_us, times, costs)


def peak(period_us: int, times: Times, costs: Costs) -> int:
    """Return the most units in any window of one period."""
    most = used = oldest = 0
    for at_us, cost in zip(times, costs, strict=True):
        used += cost
        while times[oldest] <= at_us - period_us:
            used -= costs[oldest]
            oldest += 1
        most = max(most, used)
    return most


def sliding_window(period_us: int, times: Times, costs: Costs) -> int:
    """Return the most units in a window, with the share of the window before it."""
    limit = _most_weighted(period_us, 1, times, costs)
    # A large limit lets the share fall in coarser units of time, in which the same requests may count more.
    while limit < NO_LIMIT:
        unit_us = SlidingWindow(limit, timedelta(microseconds=period_us)).unit_us
        least = _most_weighted(period_us, unit_us, times, costs) if unit_us > 1 else limit
        if least <= limit:
            break
        last_of_unit = unit_us * (EXACT // 2) // period_us
        limit = min(least, last_of_unit + 1)
    return limit


def _most_weighted(period_us: int, unit_us: int, times: Times, costs: Costs) -> int:
    width = -(-period_us // unit_us)
    start_us = times[0]
    most = current = previous = 0
    for at_us, cost in zip(times, costs, strict=True):
        if at_us - start_us >= period_us:
            start_us, current, previous = start_us + period_us, 0, current
            if at_us - start_us >= period_us:
                start_us, previous = at_us, 0
        current += cost
        covered = width - (at_us - start_us) // unit_us
        most = max(most, current - -previous * covered // width)
    return most


def bucket(period_us: int, times: Times, costs: Costs) -> int:
    """Return the least limit of a bucket whose burst is its limit."""
    limit = max(costs)
    while True:
        # The debt is in units times the period: it falls by `limit` in a microsecond.
        excess = least = debt = units = 0
        start_us = before_us = times[0]
        for at_us, cost in zip(times, costs, strict=True):
            debt -= limit * (at_us - before_us)
            if debt <= 0:
                start_us, debt, units = at_us, 0, 0
            before_us = at_us
            debt += cost * period_us
            units += cost
            if debt - limit * period_us > excess:
                excess = debt - limit * period_us
                # `units` since the bucket was full pass if a period's refill and the burst are as many.
                least = -(-units * period_us // (period_us + at_us - start_us))
        if not excess:
            return limit
        limit = least


def burst(limit: int, period_us: int, times: Times, costs: Costs) -> int:
    """Return the least burst of a bucket that is refilled with ``limit`` units in a period."""
    most = debt = 0
    before_us = times[0]
    for at_us, cost in zip(times, costs, strict=True):
        debt = max(0, debt - limit * (at_us - before_us)) + cost * period_us
        before_us = at_us
        most = max(most, debt)
    return -(-most // period_us)

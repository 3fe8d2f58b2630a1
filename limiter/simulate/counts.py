"""How many requests of a subject a policy denies: quick, for plots that need the number for many limits.

A denied request takes nothing. The tests prove each function against the policy's own decisions
(``suggest.decisions``).
"""

from __future__ import annotations

from collections import deque

from limiter.policies import FixedWindow, Policy, SlidingLog, SlidingWindow
from limiter.policies.token_bucket import Bucket
from limiter.simulate.needs import Costs, Times


def denied(policy: Policy, times: Times, costs: Costs) -> int:
    """Return the number of requests of one subject that the policy denies or refuses."""
    most_cost = policy.most_cost
    if sum(costs) <= policy.capacity and max(costs) <= most_cost:
        return 0
    if isinstance(policy, FixedWindow):
        return _fixed_window(policy, times, costs)
    if isinstance(policy, SlidingLog):
        return _sliding_log(policy, times, costs)
    if isinstance(policy, SlidingWindow):
        return _sliding_window(policy, times, costs)
    if isinstance(policy, Bucket):
        return _bucket(policy, times, costs)
    raise NotImplementedError(policy.algorithm)


def _fixed_window(policy: FixedWindow, times: Times, costs: Costs) -> int:
    limit, period_us, align = policy.limit, policy.period_us, policy.align
    count, used, end_us = 0, 0, -1
    for at_us, cost in zip(times, costs, strict=True):
        now_used = used if at_us < end_us else 0
        if now_used + cost > limit:
            count += 1
            continue
        if at_us >= end_us:
            end_us = at_us + period_us - (at_us % period_us if align else 0)
        used = now_used + cost
    return count


def _sliding_log(policy: SlidingLog, times: Times, costs: Costs) -> int:
    limit, period_us, most_cost = policy.limit, policy.period_us, policy.most_cost
    count = used = 0
    inside: deque[tuple[int, int]] = deque()
    for at_us, cost in zip(times, costs, strict=True):
        while inside and inside[0][0] <= at_us - period_us:
            used -= inside.popleft()[1]
        if used + cost > limit or cost > most_cost:
            count += 1
        else:
            used += cost
            inside.append((at_us, cost))
    return count


def _sliding_window(policy: SlidingWindow, times: Times, costs: Costs) -> int:
    limit, period_us, unit_us = policy.limit, policy.period_us, policy.unit_us
    width = -(-period_us // unit_us)
    count = current = previous = 0
    start_us = times[0]
    for at_us, cost in zip(times, costs, strict=True):
        if at_us - start_us >= period_us:
            start_us, current, previous = start_us + period_us, 0, current
        if at_us - start_us >= period_us or not current + previous:
            start_us, current, previous = at_us, 0, 0
        covered = width - (at_us - start_us) // unit_us
        if current - -previous * covered // width + cost > limit:
            count += 1
        else:
            current += cost
    return count


def _bucket(policy: Bucket, times: Times, costs: Costs) -> int:
    # In units times the period, as in ``needs``.
    limit, period_us = policy.limit, policy.period_us
    capacity = policy.burst * period_us
    count = debt = 0
    before_us = times[0]
    for at_us, cost in zip(times, costs, strict=True):
        debt = max(0, debt - limit * (at_us - before_us))
        before_us = at_us
        if debt + cost * period_us > capacity:
            count += 1
        else:
            debt += cost * period_us
    return count

"""Our algorithms on a real server in simulated time: loads of attackers, exact to the microsecond.

The loads pass their time to the scripts. So they can call in the last microsecond of a window and in the
first of the next, and at exactly ``retry_after`` and one microsecond earlier.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from bench.accuracy.bounds import BOUNDS
from bench.accuracy.counting import (
    Admitted,
    most_at_any_instant,
    most_in_any_window,
    opens_after,
    under_admission,
)
from bench.accuracy.effort import Effort
from bench.effort import Step
from limiter import Concurrency, Decision, FixedWindow, Limiter, RateLimited
from limiter.policies import ALGORITHMS, Policy
from limiter.testing import set_time

#: The start of simulated time: in the middle of every measured period.
BEGIN_US = 1_790_000_000_500_000

#: Long, so that other work on the machine makes a call slow, but does not fail it.
TIMEOUT = 10.0

#: More units than any measured limit admits at one instant: a broken limit must not loop for ever.
_ENOUGH = 1_000

#: Calls for units at a time; returns whether they passed, and otherwise the time until they will.
Ask = Callable[[int, int], "tuple[bool, int]"]
Load = Callable[[Ask, Policy], None]


class Behaviour(NamedTuple):
    """The behaviour of one policy under one load."""

    most: dict[int, int]
    """By the window's length: the most admitted in any window."""
    under: float | None
    """Under-admission in percent, if the load measures it."""
    errors_us: list[int]
    """retry_after less the true time, for every denial."""
    admitted: int


def policies(limit: int, period_us: int) -> Iterator[tuple[str, Policy]]:
    """Make a policy of every algorithm but ``Concurrency``, by its name in the report."""
    per = period_us / 1e6
    for name, policy in ALGORITHMS.items():
        build: Any = policy
        yield name, build(limit, per)
        if policy is FixedWindow:
            yield f"{name}, aligned", FixedWindow(limit, per, align=True)


def windows(period_us: int) -> list[int]:
    """Return the lengths of the examined windows; the second is the period."""
    return [period_us // 4, period_us, 2 * period_us, 5 * period_us]


def flood(ask: Ask, now_us: int, until_us: int) -> None:
    """Call for each unit at the first moment at which it could pass, until the end."""
    at_once = 0
    while now_us < until_us and at_once < _ENOUGH:
        passed, retry_us = ask(now_us, 1)
        if passed:
            at_once += 1
        else:
            now_us, at_once = now_us + max(1, retry_us), 0


def own_seam(ask: Ask, policy: Policy) -> None:
    """Open a window with one unit, take the rest in its last microsecond, and all of the next windows."""
    ask(BEGIN_US, 1)
    flood(ask, BEGIN_US + policy.period_us - 1, BEGIN_US + 7 * policy.period_us)


def clock_seam(ask: Ask, policy: Policy) -> None:
    """Take all units just before a multiple of the period, and all after it."""
    seam_us = BEGIN_US - BEGIN_US % policy.period_us + policy.period_us
    flood(ask, seam_us - 1, seam_us + 6 * policy.period_us)


def idleness(ask: Ask, policy: Policy) -> None:
    """Take all units after pauses of several lengths, also after the limit counts as unused."""
    now_us = BEGIN_US
    for pause in (1, 4, 6, 3):
        flood(ask, now_us, now_us + policy.period_us // 4)
        now_us += pause * policy.period_us // 2
    flood(ask, now_us, now_us + 2 * policy.period_us)


def overload(ask: Ask, policy: Policy, periods: int) -> None:
    """Call at every moment at which a unit could pass."""
    flood(ask, BEGIN_US, BEGIN_US + periods * policy.period_us)


def even(ask: Ask, policy: Policy, periods: int) -> None:
    """Call at exactly the rate of the limit."""
    for number in range(periods * policy.limit):
        ask(BEGIN_US + number * policy.period_us // policy.limit, 1)


def at_random(ask: Ask, policy: Policy, calls: int) -> None:
    """Call with any cost at any distance, often 0; sometimes wait for ``retry_after``."""
    draw = random.Random(1)
    now_us = BEGIN_US
    for _ in range(calls):
        passed, retry_us = ask(
            now_us, draw.randint(1, max(1, policy.capacity // draw.randint(1, 9)))
        )
        if not passed and draw.random() < 0.5:
            now_us += retry_us
        else:
            now_us += draw.choice([0, 1, draw.randint(0, policy.period_us // 2)])


OVERLOAD, EVEN = "overload", "at the rate"
LOADS = ("window's own seam", "seam on the clock", "after idleness", OVERLOAD, EVEN, "at random")


def loads(effort: Effort) -> dict[str, Load]:
    """Return the loads for each policy."""
    every: list[Load] = [
        own_seam,
        clock_seam,
        idleness,
        partial(overload, periods=effort.periods),
        partial(even, periods=effort.periods),
        partial(at_random, calls=effort.random_calls),
    ]
    return dict(zip(LOADS, every, strict=True))


class Probe:
    """Answers a load, records the admitted calls, and checks the retry_after of each denial."""

    def __init__(self, limiter: Limiter, key: str) -> None:
        self.history: list[Admitted] = []
        self.errors_us: list[int] = []
        self.calls = 0
        self._limiter, self._key = limiter, key
        period_us = limiter.policies[0].period_us
        # A sliding window of limit 1 admits again after two periods, every other policy earlier.
        self._most_us = 3 * period_us

    def __call__(self, now_us: int, cost: int) -> tuple[bool, int]:
        """Hit; after a denial peek at its retry_after, and just before."""
        self.calls += 1
        set_time(self._limiter, now_us)
        decision = self._limiter.hit(self._key, cost)
        if decision.granted == cost:
            self.history.append(Admitted(now_us, now_us, cost))
            return True, 0
        told_us = round(decision.retry_after * 1e6)
        opens_us = opens_after(
            lambda later_us: self._passes(now_us + later_us, cost), told_us, self._most_us
        )
        self.errors_us.append(told_us - opens_us)
        # If retry_after was too early, the load calls again at the true time.
        return False, max(told_us, opens_us)

    def _passes(self, at_us: int, cost: int) -> bool:
        set_time(self._limiter, at_us)
        return _passes(self._limiter.peek(self._key, cost), cost)


def _passes(peeked: Decision, cost: int) -> bool:
    """Return whether a call passes; also by ``remaining``, since ``allowed`` depends on retry_after."""
    return peeked.allowed and peeked.remaining >= cost


def measure(store: str, policy: Policy, effort: Effort, step: Step) -> dict[str, Behaviour]:
    """Measure one policy under every load, each on its own subject."""
    by_load = {}
    for number, (name, load) in enumerate(loads(effort).items()):
        label = f"accuracy-{policy.limit}-{policy.period_us}-{policy.identity}"
        with Limiter(policy, store=store, name=label, timeout=TIMEOUT) as limiter:
            probe = Probe(limiter, f"load-{number}")
            load(probe, policy)
        under = None
        if name == OVERLOAD:
            counted = effort.periods - 2
            start_us = BEGIN_US + 2 * policy.period_us
            under = under_admission(
                probe.history, start_us, counted, policy.limit, policy.period_us
            )
        elif name == EVEN:
            under = 100 * (1 - len(probe.history) / probe.calls)
        most = {
            window_us: most_in_any_window(probe.history, window_us)
            for window_us in windows(policy.period_us)
        }
        admitted = sum(hit.cost for hit in probe.history)
        by_load[name] = Behaviour(most, under, probe.errors_us, admitted)
        step()
    return by_load


def measure_leases(store: str, limit: int, effort: Effort) -> Behaviour:
    """Take leases, and release them or let them expire, at random; measure the most held at once.

    retry_after is true if no holder releases a lease earlier, so it is checked immediately.
    """
    lease_us = 3_600_000_000
    draw = random.Random(1)
    now_us, errors, leases = BEGIN_US, [], list[list[Any]]()
    with Limiter(
        Concurrency(limit, lease=3600), store=store, name="accuracy", timeout=TIMEOUT
    ) as own:
        for _ in range(effort.random_calls):
            set_time(own, now_us)
            cost = draw.randint(1, max(1, limit // 4))
            lease = own.hold("leases", cost)
            try:
                lease.__enter__()
            except RateLimited as denied:
                told_us = round(denied.decision.retry_after * 1e6)
                errors.append(told_us - _lease_opens(own, now_us, cost, told_us, lease_us))
            else:
                leases.append([lease, now_us, now_us + lease_us, cost])
            now_us += draw.randint(0, lease_us // limit)
            if leases and draw.random() < 0.3:
                set_time(own, now_us)
                entry = draw.choice(leases)
                entry[0].release()
                entry[2] = min(entry[2], now_us)
        set_time(own, now_us)
        for lease, *_ in leases:
            lease.release()
    held = most_at_any_instant((begin, end, cost) for _, begin, end, cost in leases)
    return Behaviour({0: held}, None, errors, sum(cost for *_, cost in leases))


def _lease_opens(own: Limiter, now_us: int, cost: int, told_us: int, lease_us: int) -> int:
    def passes(later_us: int) -> bool:
        set_time(own, now_us + later_us)
        return _passes(own.peek("leases", cost), cost)

    return opens_after(passes, told_us, lease_us)


def violations(name: str, policy: Policy, by_load: Mapping[str, Behaviour]) -> list[str]:
    """Report every exceeded bound, and every retry_after that was too early."""
    messages = []
    for load, behaviour in by_load.items():
        for window_us, most in behaviour.most.items():
            bound = BOUNDS[policy.algorithm].most(policy, window_us)
            if most > bound:
                messages.append(
                    f"{name} ({policy!r}), {load}: {most} admitted in a window of {window_us} us, "
                    f"the bound is {bound}"
                )
        early = min(behaviour.errors_us, default=0)
        if early < 0:
            messages.append(f"{name} ({policy!r}), {load}: retry_after is {-early} us too early")
    return messages


def lease_violations(limit: int, behaviour: Behaviour) -> list[str]:
    """Report the same for leases."""
    messages = []
    if behaviour.most[0] > limit:
        messages.append(
            f"concurrency: {behaviour.most[0]} units held at once, the limit is {limit}"
        )
    early = min(behaviour.errors_us, default=0)
    if early < 0:
        messages.append(f"concurrency: retry_after is {-early} us too early")
    return messages

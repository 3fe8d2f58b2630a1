"""Our algorithms through a real server, in simulated time: every adversary to the microsecond.

The time is passed to the scripts, so that an adversary asks at the last microsecond of a window and at
the first of the next, and at exactly the time that he was told and one microsecond earlier.
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

#: Where simulated time begins: in the middle of every period that is measured.
BEGIN_US = 1_790_000_000_500_000

#: A busy machine must make a call slow, not turn it into an error.
TIMEOUT = 10.0

#: No limit that is measured lets so much pass at one instant; a broken one is not asked any longer.
_ENOUGH = 1_000

#: Asks for some units at a time; says whether they passed, and else when they will.
Ask = Callable[[int, int], "tuple[bool, int]"]
Load = Callable[[Ask, Policy], None]


class Found(NamedTuple):
    """What one policy did under one load, or under all of them."""

    most: dict[int, int]
    """By the length of the window: the most that was admitted in any."""
    under: float | None
    """Under-admission in percent, where the load says it."""
    errors_us: list[int]
    """Told less true time, of every denial."""
    admitted: int


def policies(limit: int, period_us: int) -> Iterator[tuple[str, Policy]]:
    """Every algorithm of the library that counts what passes, by its name in the report."""
    per = period_us / 1e6
    for name, policy in ALGORITHMS.items():
        build: Any = policy
        yield name, build(limit, per)
        if policy is FixedWindow:
            yield f"{name}, aligned", FixedWindow(limit, per, align=True)


def windows(period_us: int) -> list[int]:
    """The lengths of the windows that are looked at; the period is the second."""
    return [period_us // 4, period_us, 2 * period_us, 5 * period_us]


def flood(ask: Ask, now_us: int, until_us: int) -> None:
    """Ask for a unit at the first moment at which each could pass, until none does before the end."""
    here = 0
    while now_us < until_us and here < _ENOUGH:
        passed, retry_us = ask(now_us, 1)
        if passed:
            here += 1
        else:
            now_us, here = now_us + max(1, retry_us), 0


def own_seam(ask: Ask, policy: Policy) -> None:
    """Open a window with one unit, take all else in its last microsecond, and whatever the next has."""
    ask(BEGIN_US, 1)
    flood(ask, BEGIN_US + policy.period_us - 1, BEGIN_US + 7 * policy.period_us)


def clock_seam(ask: Ask, policy: Policy) -> None:
    """The same around a multiple of the period."""
    seam_us = BEGIN_US - BEGIN_US % policy.period_us + policy.period_us
    flood(ask, seam_us - 1, seam_us + 6 * policy.period_us)


def idleness(ask: Ask, policy: Policy) -> None:
    """Take all there is, wait for half a period, take all; wait until all is unused, take all."""
    now_us = BEGIN_US
    for pause in (1, 4, 6, 3):
        flood(ask, now_us, now_us + policy.period_us // 4)
        now_us += pause * policy.period_us // 2
    flood(ask, now_us, now_us + 2 * policy.period_us)


def overload(ask: Ask, policy: Policy, periods: int) -> None:
    """Never leave out a moment at which a unit could pass."""
    flood(ask, BEGIN_US, BEGIN_US + periods * policy.period_us)


def even(ask: Ask, policy: Policy, periods: int) -> None:
    """Ask at exactly the rate of the limit, and for no more."""
    for number in range(periods * policy.limit):
        ask(BEGIN_US + number * policy.period_us // policy.limit, 1)


def at_random(ask: Ask, policy: Policy, calls: int) -> None:
    """Any cost at any distance, often none; now and then wait as told."""
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
    """What is asked of each policy."""
    every: list[Load] = [
        own_seam,
        clock_seam,
        idleness,
        partial(overload, periods=effort.periods),
        partial(even, periods=effort.periods),
        partial(at_random, calls=effort.random_calls),
    ]
    return dict(zip(LOADS, every, strict=True))


class Asked:
    """Answers a load, keeps what was admitted, and looks whether each denial told the truth."""

    def __init__(self, limiter: Limiter, key: str) -> None:
        self.history: list[Admitted] = []
        self.errors_us: list[int] = []
        self.calls = 0
        self._limiter, self._key = limiter, key
        period_us = limiter.policies[0].period_us
        # A sliding window of limit 1 opens after two periods, everything else earlier.
        self._most_us = 3 * period_us

    def __call__(self, now_us: int, cost: int) -> tuple[bool, int]:
        """Hit; after a denial peek at the time that was told, and just before."""
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
        # Whoever was told too little asks again when it is true.
        return False, max(told_us, opens_us)

    def _passes(self, at_us: int, cost: int) -> bool:
        set_time(self._limiter, at_us)
        return _passes(self._limiter.peek(self._key, cost), cost)


def _passes(peeked: Decision, cost: int) -> bool:
    """Whether a call of that cost passes, by what remains too: a time of 0 might be the error."""
    return peeked.allowed and peeked.remaining >= cost


def measure(store: str, policy: Policy, effort: Effort, step: Step) -> dict[str, Found]:
    """One policy under every load, each on a subject of its own."""
    found = {}
    for number, (name, load) in enumerate(loads(effort).items()):
        label = f"accuracy-{policy.limit}-{policy.period_us}-{policy.identity}"
        with Limiter(policy, store=store, name=label, timeout=TIMEOUT) as limiter:
            asked = Asked(limiter, f"load-{number}")
            load(asked, policy)
        under = None
        if name == OVERLOAD:
            counted = effort.periods - 2
            start_us = BEGIN_US + 2 * policy.period_us
            under = under_admission(
                asked.history, start_us, counted, policy.limit, policy.period_us
            )
        elif name == EVEN:
            under = 100 * (1 - len(asked.history) / asked.calls)
        most = {
            window_us: most_in_any_window(asked.history, window_us)
            for window_us in windows(policy.period_us)
        }
        admitted = sum(hit.cost for hit in asked.history)
        found[name] = Found(most, under, asked.errors_us, admitted)
        step()
    return found


def measure_leases(store: str, limit: int, effort: Effort) -> Found:
    """Leases taken, given back and left to end, at random; the most that were held at once.

    What retry_after says holds if nobody gives a lease back earlier, so it is looked at just then.
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
                one = draw.choice(leases)
                one[0].release()
                one[2] = min(one[2], now_us)
        set_time(own, now_us)
        for lease, *_ in leases:
            lease.release()
    held = most_at_any_instant((begin, end, cost) for _, begin, end, cost in leases)
    return Found({0: held}, None, errors, sum(cost for *_, cost in leases))


def _lease_opens(own: Limiter, now_us: int, cost: int, told_us: int, lease_us: int) -> int:
    def passes(later_us: int) -> bool:
        set_time(own, now_us + later_us)
        return _passes(own.peek("leases", cost), cost)

    return opens_after(passes, told_us, lease_us)


def violations(name: str, policy: Policy, found: Mapping[str, Found]) -> list[str]:
    """Every bound that was exceeded, and every caller who was sent away too early."""
    said = []
    for load, one in found.items():
        for window_us, most in one.most.items():
            bound = BOUNDS[policy.algorithm].most(policy, window_us)
            if most > bound:
                said.append(
                    f"{name} ({policy!r}), {load}: {most} in a window of {window_us} us, "
                    f"where at most {bound} may be"
                )
        early = min(one.errors_us, default=0)
        if early < 0:
            said.append(f"{name} ({policy!r}), {load}: told to come back {-early} us too early")
    return said


def lease_violations(limit: int, found: Found) -> list[str]:
    """The same for leases."""
    said = []
    if found.most[0] > limit:
        said.append(f"concurrency: {found.most[0]} leases held at once, where {limit} may be")
    early = min(found.errors_us, default=0)
    if early < 0:
        said.append(f"concurrency: told to come back {-early} us too early")
    return said

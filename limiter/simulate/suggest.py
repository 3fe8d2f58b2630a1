"""``--suggest``: the smallest limits under which a share of the subjects is never denied.

Subjects are independent, so each has a least limit of its own (``needs``), and the suggestion is the
smallest whole number that is enough for the share. Each suggestion is then simulated with the policy's
own decisions: the numbers of a ``Trial`` come from that, not from the search.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from functools import partial
from math import ceil
from typing import Any, NamedTuple

from limiter import units
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.policies import (
    FixedWindow,
    LeakyBucket,
    Policy,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.simulate import needs
from limiter.simulate.demand import Demand, Requests
from limiter.simulate.load import Load, Peak
from limiter.simulate.words import duration

_SHARE = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%\s*", re.ASCII)

#: The rates for which a burst is suggested, as parts of the limit of a bucket whose burst is its limit.
_RATES = (Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4))


def read_share(text: str) -> Fraction:
    """The share that a text such as ``99.5%`` means, exactly.

    Raises:
        InvalidSetting: It is no percentage above 0 and up to 100.

    """
    match = _SHARE.fullmatch(text)
    share = Fraction(match[1]) / 100 if match else Fraction(0)
    if not 0 < share <= 1:
        raise InvalidSetting.of(
            "suggest", repr(text), "expected a percentage above 0% and up to 100%, as 99.5%"
        )
    return share


class Kind(NamedTuple):
    """A way to limit that gets a suggestion."""

    make: Callable[[int, timedelta], Policy]
    need: Callable[[int, needs.Times, needs.Costs], int]


#: GCRA decides as the token bucket does, so it has no suggestion of its own.
KINDS = (
    Kind(FixedWindow, needs.fixed_window),
    Kind(partial(FixedWindow, align=True), partial(needs.fixed_window, align=True)),
    Kind(SlidingWindow, needs.sliding_window),
    Kind(SlidingLog, needs.sliding_log),
    Kind(TokenBucket, needs.bucket),
    Kind(LeakyBucket, needs.bucket),
)


@dataclass(frozen=True)
class Trial:
    """A policy, and what it decided about the requests of the log when it was simulated.

    Attributes:
        policy: The policy.
        never_denied: Subjects of which no request was denied.
        denied: Requests that were denied.
        peak: The most units that all subjects together were admitted.
        possible: Units that the subjects of the busiest period could take in it together, if each took
            all that the policy admits in any window of one period (``bound``). The busiest period is the
            one of the clock with the most different subjects in the log.

    """

    policy: Policy
    never_denied: int
    denied: int
    peak: Peak
    possible: int


@dataclass
class Suggestion:
    """The smallest limits for a share of the subjects.

    Attributes:
        name: The name of the policy of which the requests are.
        share: The share of subjects that must never be denied.
        period_us: The period of the limits.
        subjects: The number of subjects in the log.
        present: The present limit, simulated alone; None without one.
        limits: The smallest limit of each algorithm.
        bursts: Token buckets of several rates, each with its smallest burst.
        notes: Why an algorithm has no suggestion, and what the simulation left out.

    """

    name: str
    share: Fraction
    period_us: int
    subjects: int
    present: Trial | None = None
    limits: list[Trial] = field(default_factory=list)
    bursts: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def holds(self, trial: Trial) -> bool:
        """Whether the simulation has shown that the share of subjects is never denied."""
        return trial.never_denied >= self.share * self.subjects

    def to_dict(self) -> dict[str, Any]:
        """Return the suggestion, ready for JSON."""
        return {
            "name": self.name,
            "share": float(self.share),
            "period": units.seconds(self.period_us),
            "subjects": self.subjects,
            "present": self.present and self._trial(self.present),
            "limits": [self._trial(trial) for trial in self.limits],
            "bursts": [self._trial(trial) for trial in self.bursts],
            "notes": self.notes,
        }

    def _trial(self, trial: Trial) -> dict[str, Any]:
        policy = trial.policy
        aligned = {"align": policy.align} if isinstance(policy, FixedWindow) else {}
        return {
            **policy.to_dict(),
            **aligned,
            "never_denied": trial.never_denied,
            "denied": trial.denied,
            "peak_second": trial.peak.second,
            "peak_period": trial.peak.period,
            "possible": trial.possible,
            "holds": self.holds(trial),
        }


def suggest(
    demand: Demand, share: Fraction, period_us: int, name: str = "", present: Policy | None = None
) -> Suggestion:
    """Find the smallest limits of one period, and simulate them.

    Args:
        demand: The requests.
        share: The share of subjects that must never be denied.
        period_us: The period of the limits.
        name: The name of the policy of which the requests are.
        present: The present limit, to compare with.

    """
    suggestion = Suggestion(name, share, period_us, demand.subjects)
    if not demand.subjects:
        limit = f"{name or 'the policy'}'s own limit per {duration(period_us)}"
        suggestion.notes.append(f"No subject counts by {limit}: nothing is suggested for it.")
        return suggestion
    per, notes = timedelta(microseconds=period_us), suggestion.notes
    least = least_for(share, demand, [partial(kind.need, period_us) for kind in KINDS])
    makes: list[Callable[[], Policy]]
    makes = [partial(kind.make, limit, per) for kind, limit in zip(KINDS, least, strict=True)]
    limits = _accepted(makes, notes)
    rates = [
        rate
        for policy in limits
        if isinstance(policy, TokenBucket)
        for rate in _rates(policy.limit)
    ]
    least = least_for(share, demand, [partial(needs.burst, rate, period_us) for rate in rates])
    makes = [
        partial(TokenBucket, rate, per, burst) for rate, burst in zip(rates, least, strict=True)
    ]
    bursts = _accepted(makes, notes)
    tried = trials([*limits, *bursts, *([present] if present else [])], demand, period_us)
    suggestion.limits = tried[: len(limits)]
    suggestion.bursts = tried[len(limits) : len(limits) + len(bursts)]
    suggestion.present = tried[-1] if present else None
    return suggestion


def _accepted(makes: Iterable[Callable[[], Policy]], notes: list[str]) -> list[Policy]:
    """Make policies; note why those are missing whose numbers are not accepted."""
    policies = []
    for make in makes:
        try:
            policies.append(make())
        except InvalidPolicy as error:
            notes.append(str(error))
    return policies


def _rates(limit: int) -> list[int]:
    """Rates around a bucket's limit, with at most two digits that are not 0."""
    rates = set()
    for part in _RATES:
        rate = max(1, ceil(limit * part))
        unit = 10 ** max(0, len(str(rate)) - 2)
        rates.add(min(-(-rate // unit) * unit, TokenBucket.most_limit))
    return sorted(rates)


def least_for(
    share: Fraction,
    demand: Iterable[Requests],
    wanted: Sequence[Callable[[needs.Times, needs.Costs], int]],
) -> list[int]:
    """For each of ``wanted``, the smallest number that is enough for the share of the subjects."""
    by_subject = [array("q") for _ in wanted]
    for _, times, costs, _ in demand:
        for found, need in zip(by_subject, wanted, strict=True):
            found.append(need(times, costs))
    return [sorted(found)[ceil(share * len(found)) - 1] for found in by_subject]


def trials(policies: Sequence[Policy], demand: Iterable[Requests], period_us: int) -> list[Trial]:
    """Simulate each policy alone on all requests."""
    limits = [(policy.most_cost, policy.capacity) for policy in policies]
    requested = Load()
    denied = [Load() for _ in policies]
    denials = [0] * len(policies)
    denied_subjects = [0] * len(policies)
    # A period that is shorter than a second shows no more than the second.
    length_us = max(period_us, units.SECOND_US)
    active: Counter[int] = Counter()
    subjects = 0
    for _, times, costs, _ in demand:
        subjects += 1
        active.update({at_us // length_us for at_us in times})
        for at_us, cost in zip(times, costs, strict=True):
            requested.add(at_us, cost)
        most, total = max(costs), sum(costs)
        for place, (most_cost, capacity) in enumerate(limits):
            if most <= most_cost and total <= capacity:
                continue  # no algorithm denies what is within its limit in all
            before = denials[place]
            admitted = decisions(policies[place], times, costs)
            for at_us, cost, is_admitted in zip(times, costs, admitted, strict=True):
                if not is_admitted:
                    denied[place].add(at_us, cost)
                    denials[place] += 1
            denied_subjects[place] += denials[place] > before
    most_active = max(active.values(), default=0)
    return [
        Trial(
            policy,
            subjects - denied_subjects[place],
            denials[place],
            requested.peak(period_us, denied[place]),
            most_active * bound(policy),
        )
        for place, policy in enumerate(policies)
    ]


def decisions(policy: Policy, times: needs.Times, costs: needs.Costs) -> Iterator[bool]:
    """Whether the policy admits each request of a subject, by its own decisions."""
    state: Any = [] if policy.key_type == "list" else {}
    for at_us, cost in zip(times, costs, strict=True):
        admitted = cost <= policy.most_cost
        if admitted:
            step = policy.step(state, at_us)
            admitted = cost <= step.room
            if admitted:
                step.charge(cost)
                step.write(state)
        yield admitted


def bound(policy: Policy) -> int:
    """The most units that a policy admits one subject in any window of one period."""
    limit = policy.limit
    if isinstance(policy, FixedWindow):
        return 2 * limit
    if isinstance(policy, SlidingWindow):
        return max(limit, 2 * limit - 2)
    return limit + policy.capacity if policy.has_burst else limit

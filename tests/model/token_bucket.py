"""The model of the token bucket: ``limit`` units are refilled in each period, up to ``burst`` are saved."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import gcd
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from tests.histories import Admitted, assert_never_in_debt
from tests.model.base import Model, Rate, ceil

LONGEST_FILL_US = 3650 * 24 * 3_600_000_000


class TokenBucket(Rate):
    """Every admitted unit is work that takes ``period / limit``; the debt is the unfinished work.

    As in any queue with one server, the unfinished work is the maximum, over all suffixes of the history,
    of the suffix's work less the time since it began. So the bucket is full again at the maximum, over all
    hits, of the hit's time plus the work from that hit on.
    """

    algorithm = script = "token_bucket"

    def __init__(self, limit: int, period_us: int, burst: int | None = None) -> None:
        super().__init__(limit, period_us)
        self.burst = limit if burst is None else burst
        #: (time, work in microseconds) of each hit, in order
        self.hits: list[tuple[int, Fraction]] = []
        #: parts of a microsecond in which the newest hit was stored
        self.parts = self.own_parts
        #: the stored ``reach_s``: seconds in which a larger bucket that made the debt is refilled
        self.reach_s = 0

    @property
    def most(self) -> int:
        """The burst: the most units that are saved."""
        return self.burst

    @property
    def interval_us(self) -> Fraction:
        """Time in which one unit is refilled."""
        return Fraction(self.period_us, self.limit)

    @property
    def own_parts(self) -> int:
        """Parts of a microsecond that express every multiple of the interval."""
        return self.limit // gcd(self.limit, self.period_us)

    @property
    def capacity_us(self) -> Fraction:
        """Time in which an empty bucket is refilled."""
        return self.burst * self.interval_us

    def most_debt_us(self, clock_us: int) -> int:
        """Return the most debt that can be true, unless the clock stepped back very far."""
        return most_debt_us(self.reach(clock_us))

    @property
    def own_reach(self) -> int:
        """Seconds in which this bucket is refilled."""
        return ceil(Fraction(self.capacity_us // 1, 1_000_000))

    def reach(self, clock_us: int) -> int:
        """Return the seconds in which the largest bucket that may have made the debt is refilled."""
        if self.reach_s <= self.own_reach or self.full_at() // 1 < clock_us:
            return self.own_reach
        return self.reach_s

    def note_reach(self, clock_us: int, before: int) -> None:
        """Keep the reach ``before`` while the debt is larger than this bucket."""
        larger = self.full_at() // 1 - clock_us > self.capacity_us // 1
        self.reach_s = before if larger else self.own_reach

    def exactly_full_at(self) -> Fraction | int:
        """Return the time at which the bucket is full again, from the whole history."""
        full_at: Fraction | int = 0
        work: Fraction | int = 0
        for at, added in reversed(self.hits):
            work += added
            full_at = max(full_at, at + work)
        return full_at

    def full_at(self) -> Fraction | int:
        """Return the same in this rate's parts of a microsecond; another rate's parts are rounded up."""
        exactly = self.exactly_full_at()
        return exactly if self.parts == self.own_parts else ceil(exactly)

    def impossible(self, clock_us: int) -> bool:
        """Return whether the debt is larger than any history with a correct clock could make it."""
        owed_us = self.full_at() // 1 - clock_us
        return owed_us > most_debt_us(self.own_reach) and owed_us > self.most_debt_us(clock_us)

    def debt(self, clock_us: int) -> Fraction | int:
        """Return the time until the bucket is full."""
        if self.impossible(clock_us):
            return self.most_debt_us(clock_us)
        return max(0, self.full_at() - clock_us)

    def heal(self, clock_us: int) -> None:
        """Cut an impossible debt to the most that can be true."""
        if self.impossible(clock_us):
            most_us, self.reach_s = self.most_debt_us(clock_us), self.reach(clock_us)
            self.hits = [(clock_us, Fraction(most_us))]
            self.parts = self.own_parts

    def left(self, clock_us: int) -> int:
        """Return the whole units in the bucket; a debt counts only up to one burst."""
        return max(-self.burst, (self.capacity_us - self.debt(clock_us)) // self.interval_us)

    def passes_at(self, clock_us: int, units: int) -> int:
        """Return the first whole microsecond at which the debt leaves room for ``units``."""
        too_much = self.debt(clock_us) + units * self.interval_us - self.capacity_us
        return clock_us + max(0, ceil(too_much))

    def rests_at(self, clock_us: int) -> int:
        """Return the first whole microsecond without debt."""
        return clock_us + ceil(self.debt(clock_us))

    def admit(self, clock_us: int, units: int) -> None:
        """Add the units' work to the queue."""
        self.heal(clock_us)
        reach = self.reach(clock_us)
        self.round_up()
        self.hits.append((clock_us, units * self.interval_us))
        self.note_reach(clock_us, reach)

    def return_units(self, clock_us: int, units: int) -> int:
        """Remove the units' work from the queue, or all of it if it has less."""
        waiting = self.debt(clock_us)
        removed = min(units, ceil(waiting / self.interval_us))
        if removed:
            reach = self.reach(clock_us)
            self.round_up()
            self.hits.append((clock_us, -min(waiting, removed * self.interval_us)))
            self.note_reach(clock_us, reach)
        return removed

    def round_up(self) -> None:
        """Count in this rate's parts of a microsecond from now on; rounding adds work."""
        self.hits.append((0, Fraction(self.full_at() - self.exactly_full_at())))
        self.parts = self.own_parts

    def forget(self) -> None:
        """Delete every hit."""
        self.hits.clear()
        self.parts = self.own_parts
        self.reach_s = 0

    def change(self, limit: int | None = None, burst: int | None = None) -> None:
        """Change the numbers; the debt stays the same time."""
        self.limit = self.limit if limit is None else limit
        self.burst = self.burst if burst is None else burst

    @property
    def full_us(self) -> int:
        """The time in which the bucket is refilled."""
        return ceil(self.capacity_us)

    @property
    def believed_us(self) -> int:
        """The most debt that can be true: that of the largest possible bucket."""
        return most_debt_us(LONGEST_FILL_US // 1_000_000)

    @property
    def bound(self) -> int:
        """The burst, and the refilled units: floor(W / T) with W = period and T = period / limit."""
        return self.burst + self.limit

    def check(self, history: Sequence[Admitted]) -> None:
        """Check the bound in windows of every length: a burst's refill may exceed a period."""
        assert_never_in_debt(self, history)

    def edges(self, now_us: int) -> list[int]:
        """Return when the bucket is full, when it was empty, and when the debt would be impossible."""
        full_us = ceil(self.full_at()) or now_us
        return [full_us, full_us - ceil(self.capacity_us), full_us - self.most_debt_us(now_us)]

    def numbers(self) -> dict[str, int]:
        """Return the burst, and the shortest whole time in which a whole number of units is refilled."""
        parts = self.own_parts
        return {
            "limit": self.most,
            "interval_us": self.period_us * parts // self.limit,
            "parts": parts,
        }

    @classmethod
    def options(cls, most: int) -> dict[str, st.SearchStrategy[Any]]:
        """Draw the burst."""
        return {"burst": st.integers(1, most)}

    @classmethod
    def samples(cls, most: int, period_us: int) -> list[Model]:
        """Return rates above and below the burst; neither interval is a whole number."""
        return [cls(7, period_us, most), cls(3, period_us, most)]

    @classmethod
    def small_worlds(cls) -> list[Model]:
        """Return intervals of one and a third microseconds, and of three fifths."""
        return [cls(3, 4), cls(5, 3, burst=4)]

    @classmethod
    def of_every_size(cls, periods: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
        """Draw buckets with every kind of interval that the library would accept."""

        @st.composite
        def buckets(draw: st.DrawFn) -> Model:
            period_us = draw(periods)
            limit = draw(st.one_of(st.integers(1, 12), st.sampled_from([7, 97, 1_000, 1_000_003])))
            bucket = cls(limit, period_us, draw(bursts(limit)))
            assume(bucket.admissible)
            return bucket

        return buckets()

    def changes(self) -> st.SearchStrategy[dict[str, int]]:
        """Draw another rate, another burst, or both."""
        limits = st.one_of(st.integers(1, 12), st.sampled_from([97, 1_000_003]))
        now = {"limit": self.limit, "burst": self.burst}
        optional = {"limit": limits, "burst": bursts(self.limit)}
        return st.fixed_dictionaries({}, optional=optional).filter(
            lambda new: type(self)(period_us=self.period_us, **(now | new)).admissible
        )

    @property
    def admissible(self) -> bool:
        """Whether the library would accept this policy."""
        fills_in_time = self.capacity_us <= LONGEST_FILL_US
        return fills_in_time and (self.burst + 1) * self.own_parts < 2**53


class GCRA(TokenBucket):
    """The same decisions: a cell's theoretical arrival time is the time at which the bucket is full."""

    algorithm = "gcra"


class LeakyBucket(TokenBucket):
    """The same decisions, as a queue: an admitted call waits for the debt before it."""

    algorithm = "leaky_bucket"
    queues = True


def most_debt_us(reach_s: int) -> int:
    """Return the most debt that can be true of a bucket that is refilled in ``reach_s`` seconds."""
    return 2 * (reach_s + 1) * 1_000_000


def bursts(limit: int) -> st.SearchStrategy[int]:
    """Draw bursts of every size; the first is the limit."""
    return st.one_of(st.just(limit), st.integers(1, 12), st.sampled_from([100, 10**6]))

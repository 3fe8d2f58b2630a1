"""``limit`` units drip in every period, and up to ``burst`` are saved."""

from __future__ import annotations

from fractions import Fraction
from math import gcd

from tests.model.base import Model, ceil


class TokenBucket(Model):
    """Every admitted unit is work that takes ``period / limit``; the work waiting is the debt.

    As in any queue with one server, the work waiting at a moment is the most that any suffix of the
    history brought beyond what could be done since that suffix began. So the bucket is full again
    at the largest, over every hit, of its time and all the work from it on.
    """

    def __init__(self, limit: int, period_us: int, burst: int | None = None) -> None:
        self.limit, self.period_us = limit, period_us
        self.burst = limit if burst is None else burst
        #: (clock, work in microseconds), in the order in which they were admitted
        self.hits: list[tuple[int, Fraction]] = []
        #: parts of a microsecond in which the newest hit was kept
        self.parts = self.own_parts

    @property
    def most(self) -> int:
        """The burst: no more than that is ever saved."""
        return self.burst

    @property
    def interval_us(self) -> Fraction:
        """Time in which one unit drips in."""
        return Fraction(self.period_us, self.limit)

    @property
    def own_parts(self) -> int:
        """Parts of a microsecond that express every multiple of the interval."""
        return self.limit // gcd(self.limit, self.period_us)

    @property
    def capacity_us(self) -> Fraction:
        """Time in which an empty bucket fills."""
        return self.burst * self.interval_us

    @property
    def most_debt_us(self) -> int:
        """More debt than this cannot be true, but after a clock that stepped back very far."""
        return 2 * (self.capacity_us // 1 + self.period_us)

    def exactly_full_at(self) -> Fraction | int:
        """The moment at which the bucket is full again, by the whole history."""
        full_at: Fraction | int = 0
        work: Fraction | int = 0
        for at, one in reversed(self.hits):
            work += one
            full_at = max(full_at, at + work)
        return full_at

    def full_at(self) -> Fraction | int:
        """The same, in our parts of a microsecond: those of another rate are rounded up."""
        exactly = self.exactly_full_at()
        return exactly if self.parts == self.own_parts else ceil(exactly)

    def impossible(self, clock_us: int) -> bool:
        """Whether the debt is larger than any history without a clock that jumped could make it."""
        return self.full_at() // 1 - clock_us > self.most_debt_us

    def debt(self, clock_us: int) -> Fraction | int:
        """Time until the bucket is full."""
        if self.impossible(clock_us):
            return self.most_debt_us
        return max(0, self.full_at() - clock_us)

    def heal(self, clock_us: int) -> None:
        """Cut an impossible debt down to the most that we believe."""
        if self.impossible(clock_us):
            self.hits = [(clock_us, Fraction(self.most_debt_us))]
            self.parts = self.own_parts

    def room(self, clock_us: int) -> int:
        """Whole units that the bucket holds."""
        return max(0, (self.capacity_us - self.debt(clock_us)) // self.interval_us)

    def passes_at(self, clock_us: int, units: int) -> int:
        """The first whole microsecond at which the debt leaves room for ``units``."""
        too_much = self.debt(clock_us) + units * self.interval_us - self.capacity_us
        return clock_us + max(0, ceil(too_much))

    def rests_at(self, clock_us: int) -> int:
        """The first whole microsecond without debt."""
        return clock_us + ceil(self.debt(clock_us))

    def admit(self, clock_us: int, units: int) -> None:
        """Put the units' work behind what waits already."""
        self.heal(clock_us)
        # What rounding adds is work like any other.
        self.hits.append((0, Fraction(self.full_at() - self.exactly_full_at())))
        self.parts = self.own_parts
        self.hits.append((clock_us, units * self.interval_us))

    def forget(self) -> None:
        """Drop every hit."""
        self.hits.clear()
        self.parts = self.own_parts

    def change(self, limit: int | None = None, burst: int | None = None) -> None:
        """Give the policy other numbers; the debt stays as the time that it is."""
        self.limit = self.limit if limit is None else limit
        self.burst = self.burst if burst is None else burst

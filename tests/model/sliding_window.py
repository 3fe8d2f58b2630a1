"""The model of the sliding window: the previous window's hits count as if evenly spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from tests.histories import Admitted
from tests.model.base import Model, Rate, taken_from

#: Products of a count and a time are at most this.
EXACT = 2**52


class Counted(NamedTuple):
    """The current window's start and count, and the previous window's count."""

    start_us: int
    current: int
    previous: int


class Window(NamedTuple):
    """A window, and every hit that was admitted in it."""

    start_us: int
    hits: list[tuple[int, int]]


class SlidingWindow(Rate):
    """Windows of one period follow each other from the first hit after a pause.

    A hit counts fully in its own window. In the next window it counts by the share of its window that the
    last period still covers, in steps of one unit of time, rounded up.
    """

    algorithm = script = "sliding_window"

    def __init__(self, limit: int, period_us: int) -> None:
        super().__init__(limit, period_us)
        self.windows: list[Window] = []

    def counted(self, clock_us: int) -> Counted:
        """Return both counts, and the current window's start.

        If the clock stepped back, it is at the start of the newest window, if that is at most a period
        ahead. A later start cannot be true, and counts as now.
        """
        if not self.windows:
            return Counted(clock_us, 0, 0)
        newest_us = self.windows[-1].start_us
        used = {window.start_us: sum(cost for _, cost in window.hits) for window in self.windows}
        if newest_us - clock_us > self.period_us:
            return Counted(clock_us, used[newest_us], used.get(newest_us - self.period_us, 0))
        passed = max(0, clock_us - newest_us) // self.period_us
        if passed >= 2:
            return Counted(clock_us, 0, 0)
        start_us = newest_us + passed * self.period_us
        return Counted(start_us, used.get(start_us, 0), used.get(start_us - self.period_us, 0))

    def unit_us(self, previous: int) -> int:
        """Return the unit of time in which the previous count's share falls."""
        unit_us = max(1, -(-self.limit * self.period_us // EXACT))
        return unit_us * max(1, -(-previous // self.limit))

    def left_at(self, counted: Counted, clock_us: int) -> int:
        """Return the units that are left at a time, if no call takes any before."""
        start_us, current, previous = counted
        passed = max(0, clock_us - start_us) // self.period_us
        if passed >= 2:
            return self.limit
        if passed == 1:
            start_us, current, previous = start_us + self.period_us, 0, current
        unit_us = self.unit_us(previous)
        units = -(-self.period_us // unit_us)
        elapsed = max(0, clock_us - start_us) // unit_us
        return self.limit - current - -(-previous * (units - elapsed) // units)

    def left(self, clock_us: int) -> int:
        """Return the limit less the current count and the previous count's share."""
        return self.left_at(self.counted(clock_us), clock_us)

    def passes_at(self, clock_us: int, units: int) -> int:
        """Search for the time, since the number of units left never falls."""
        counted = self.counted(clock_us)
        early_us, late_us = clock_us - 1, counted.start_us + 2 * self.period_us
        while late_us - early_us > 1:
            middle_us = (early_us + late_us) // 2
            if self.left_at(counted, middle_us) >= units:
                late_us = middle_us
            else:
                early_us = middle_us
        return late_us

    def rests_at(self, clock_us: int) -> int:
        """Return when the newest window with hits stops to count as the previous one."""
        start_us, current, previous = self.counted(clock_us)
        if current:
            return start_us + 2 * self.period_us
        return start_us + self.period_us if previous else clock_us

    def heal(self, clock_us: int) -> None:
        """If windows begin too far ahead to be true, let them begin now, with their counts."""
        if self.windows and self.windows[-1].start_us - clock_us > self.period_us:
            ahead_us = self.windows[-1].start_us - clock_us
            self.windows = [Window(start - ahead_us, hits) for start, hits in self.windows]

    def open(self, clock_us: int) -> None:
        """Open the current window if no hit has opened it; if nothing counts, begin it now."""
        start_us, current, previous = self.counted(clock_us)
        if not current + previous:
            self.windows = [Window(clock_us, [])]
        elif self.windows[-1].start_us != start_us:
            self.windows.append(Window(start_us, []))

    def admit(self, clock_us: int, units: int) -> None:
        """Keep the hit in its window."""
        self.heal(clock_us)
        self.open(clock_us)
        self.windows[-1].hits.append((clock_us, units))

    def return_units(self, clock_us: int, units: int) -> int:
        """Remove hits of the current window, then of the previous one."""
        _, current, previous = self.counted(clock_us)
        if not current + previous:
            return 0
        self.open(clock_us)
        removed = taken_from(self.windows[-1].hits, units)
        if previous:
            removed += taken_from(self.windows[-2].hits, units - removed)
        return removed

    def forget(self) -> None:
        """Delete every window."""
        self.windows.clear()

    @property
    def full_us(self) -> int:
        """A hit counts in its own window and in the next."""
        return 2 * self.period_us

    @property
    def believed_us(self) -> int:
        """A window that begins a period ahead, and the next one."""
        return 3 * self.period_us

    @property
    def bound(self) -> int:
        """All of one window but the hit that opened it, and all of the next but one unit.

        If a hit opened the window after a pause, that hit is at its start, outside of the attacked period.
        In every other window the previous count takes at least one unit.
        """
        return max(self.limit, 2 * self.limit - 2)

    def check(self, history: Sequence[Admitted]) -> None:
        """Check that the model admits each hit, one after the other."""
        replay = type(self)(self.limit, self.period_us)
        for at, cost in sorted(history):
            assert replay.hit(at, cost).granted == cost, f"{cost} at {at} under {self}"

    def edges(self, now_us: int) -> list[int]:
        """Return a period before each window, its start, when it stops to count, and a time between."""
        starts = [window.start_us for window in self.windows[-2:]]
        halves = [start + 3 * self.period_us // 2 for start in starts]
        return [start + step * self.period_us for start in starts for step in range(-1, 3)] + halves

    def numbers(self) -> dict[str, int]:
        """Add the unit of time for a previous count within the limit."""
        return super().numbers() | {"unit_us": self.unit_us(0)}

    @classmethod
    def of_every_size(cls, periods: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
        """Draw small limits, primes, and the largest, whose products would not be exact."""
        limits = st.one_of(st.integers(1, 12), st.sampled_from([97, 1_000_003, 10**12]))
        return st.builds(cls, limits, periods)

    @classmethod
    def small_worlds(cls) -> list[Model]:
        """Return some with more microseconds than units, and one with more units."""
        return [cls(3, 4), cls(5, 3), cls(4, 7)]

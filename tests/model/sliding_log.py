"""The model of the sliding log: at most ``limit`` in any window of one period."""

from __future__ import annotations

from tests.model.base import Model, Rate, taken_from


class SlidingLog(Rate):
    """Every admitted hit counts from its time for exactly one period.

    A hit's time is the clock's, or the newest hit's if the clock stepped back by at most a period. A newest
    hit farther ahead cannot be true: the log counts as empty.
    """

    algorithm = script = "sliding_log"
    key_type = "list"

    def __init__(self, limit: int, period_us: int) -> None:
        super().__init__(limit, period_us)
        self.hits: list[tuple[int, int]] = []

    def live(self, clock_us: int) -> list[tuple[int, int]]:
        """Return the hits of the window that ends now."""
        if not self.hits or self.hits[-1][0] - clock_us > self.period_us:
            return []
        now_us = max(clock_us, self.hits[-1][0])
        return [(at, cost) for at, cost in self.hits if at <= now_us < at + self.period_us]

    def heal(self, clock_us: int) -> None:
        """Delete a log that is too far ahead to be true."""
        if self.hits and self.hits[-1][0] - clock_us > self.period_us:
            self.hits.clear()

    def left(self, clock_us: int) -> int:
        """Return the limit less the hits in the window."""
        return self.limit - sum(cost for _, cost in self.live(clock_us))

    def passes_at(self, clock_us: int, units: int) -> int:
        """Return the first time at which enough of the oldest hits have left the window."""
        live = self.live(clock_us)
        ends = [at + self.period_us for at, _ in live]
        return next(
            end
            for end in [clock_us, *ends]
            if units + sum(cost for at, cost in live if end < at + self.period_us) <= self.limit
        )

    def rests_at(self, clock_us: int) -> int:
        """Return the time at which the newest hit leaves the window."""
        return max([clock_us, *(at + self.period_us for at, _ in self.live(clock_us))])

    def admit(self, clock_us: int, units: int) -> None:
        """Add the hit, at the newest hit's time or later."""
        self.heal(clock_us)
        newest_us = self.hits[-1][0] if self.hits else clock_us
        self.hits.append((max(clock_us, newest_us), units))

    def give_back(self, clock_us: int, units: int) -> int:
        """Remove the oldest hits in the window, and all older ones."""
        live = self.live(clock_us)
        removed = taken_from(live, units)
        if removed:
            self.hits = live
        return removed

    def forget(self) -> None:
        """Delete every hit."""
        self.hits.clear()

    @property
    def most_cost(self) -> int:
        """The limit, but no more entries than one call may write."""
        return min(self.limit, 4_000)

    @property
    def bound(self) -> int:
        """The limit, in any window."""
        return self.limit

    def edges(self, now_us: int) -> list[int]:
        """Return when hits leave, when the newest one would be impossible, and its time."""
        times, period_us = [at for at, _ in self.hits[-6:]], self.period_us
        return [at + period_us for at in times] + [at - period_us for at in times[-1:]] + times[-1:]

    @classmethod
    def small_worlds(cls) -> list[Model]:
        """Return one also with more units than microseconds."""
        return [cls(3, 4), cls(5, 4)]

"""The model of the sliding log: at most ``limit`` in any window of one period."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.model.base import Model, Rate, taken_from


class SlidingLog(Rate):
    """Every admitted hit counts from its time for exactly one period.

    A hit's time is ``hold_us`` from now, within which a caller that takes units in advance uses them; or
    the newest hit's time if that is later. Hits leave by the present clock, and for good when a later call
    takes or refunds. If the clock stepped back by more than a period, all hits count as if taken now.
    """

    algorithm = script = "sliding_log"
    key_type = "list"

    def __init__(self, limit: int, period_us: int, hold_us: int = 0) -> None:
        super().__init__(limit, period_us)
        self.hold_us = hold_us
        self.hits: list[tuple[int, int]] = []

    def impossible(self, clock_us: int) -> bool:
        """Return whether the newest hit is too far ahead to be true."""
        return bool(self.hits) and self.hits[-1][0] - clock_us > self.period_us

    def live(self, clock_us: int) -> list[tuple[int, int]]:
        """Return the hits of the window that ends now."""
        if self.impossible(clock_us):
            return [(clock_us, sum(cost for _, cost in self.hits))]
        return [(at, cost) for at, cost in self.hits if clock_us < at + self.period_us]

    def heal(self, clock_us: int) -> None:
        """If the newest hit is too far ahead to be true, let all hits be of now."""
        if self.impossible(clock_us):
            self.hits = self.live(clock_us)

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
        self.hits = self.live(clock_us)
        newest_us = self.hits[-1][0] if self.hits else clock_us
        self.hits.append((max(clock_us + self.hold_us, newest_us), units))

    def return_units(self, clock_us: int, units: int) -> int:
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

    @property
    def full_us(self) -> int:
        """A hit counts from its time on, which is up to ``hold_us`` ahead."""
        return self.period_us + self.hold_us

    def numbers(self) -> dict[str, int]:
        """Add how long units that are taken in advance are held."""
        return super().numbers() | {"hold_us": self.hold_us}

    def change(self, limit: int | None = None, hold_us: int | None = None) -> None:
        """Change the numbers; the history stays."""
        self.limit = self.limit if limit is None else limit
        self.hold_us = self.hold_us if hold_us is None else hold_us

    def changes(self) -> st.SearchStrategy[dict[str, int]]:
        """Draw another limit, another time of holding, or both."""
        optional = {"limit": st.integers(1, 12), "hold_us": holds(self.period_us)}
        return st.fixed_dictionaries({}, optional=optional)

    @classmethod
    def of_every_size(cls, periods: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
        """Draw small logs, of which some hold units."""
        return periods.flatmap(
            lambda period_us: st.builds(
                cls, st.integers(1, 12), st.just(period_us), holds(period_us)
            )
        )

    def edges(self, now_us: int) -> list[int]:
        """Return when hits leave, when the newest one would be impossible, and its time."""
        times, period_us = [at for at, _ in self.hits[-6:]], self.period_us
        return [at + period_us for at in times] + [at - period_us for at in times[-1:]] + times[-1:]

    @classmethod
    def small_worlds(cls) -> list[Model]:
        """Return one also with more units than microseconds, and one that holds units."""
        return [cls(3, 4), cls(5, 4), cls(3, 5, hold_us=2)]


def holds(period_us: int) -> st.SearchStrategy[int]:
    """Draw times of holding, most often none."""
    return st.one_of(st.just(0), st.integers(0, period_us - 1))

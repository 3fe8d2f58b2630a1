"""At most ``limit`` in any window of one period."""

from __future__ import annotations

from tests.model.base import Model, Rate, taken_from


class SlidingLog(Rate):
    """Every admitted hit counts from its own moment for exactly one period.

    A hit's moment is the clock's, or that of the newest hit if the clock stepped back behind it by
    at most a period. A newest hit that lies farther ahead cannot be true: the log reads as empty.
    """

    algorithm = script = "sliding_log"
    key_type = "list"

    def __init__(self, limit: int, period_us: int) -> None:
        super().__init__(limit, period_us)
        self.hits: list[tuple[int, int]] = []

    def live(self, clock_us: int) -> list[tuple[int, int]]:
        """The hits of the window that ends now."""
        if not self.hits or self.hits[-1][0] - clock_us > self.period_us:
            return []
        now_us = max(clock_us, self.hits[-1][0])
        return [(at, cost) for at, cost in self.hits if at <= now_us < at + self.period_us]

    def heal(self, clock_us: int) -> None:
        """Drop a log from an impossible future."""
        if self.hits and self.hits[-1][0] - clock_us > self.period_us:
            self.hits.clear()

    def left(self, clock_us: int) -> int:
        """What the live hits have left of the limit."""
        return self.limit - sum(cost for _, cost in self.live(clock_us))

    def passes_at(self, clock_us: int, units: int) -> int:
        """The first moment at which enough of the oldest hits have left the window."""
        live = self.live(clock_us)
        ends = [at + self.period_us for at, _ in live]
        return next(
            end
            for end in [clock_us, *ends]
            if units + sum(cost for at, cost in live if end < at + self.period_us) <= self.limit
        )

    def rests_at(self, clock_us: int) -> int:
        """The moment at which the newest hit leaves the window."""
        return max([clock_us, *(at + self.period_us for at, _ in self.live(clock_us))])

    def admit(self, clock_us: int, units: int) -> None:
        """Log the hit, never before one that is logged already."""
        self.heal(clock_us)
        newest_us = self.hits[-1][0] if self.hits else clock_us
        self.hits.append((max(clock_us, newest_us), units))

    def give_back(self, clock_us: int, units: int) -> int:
        """The oldest live ones leave, and with them whatever is older and has left already."""
        live = self.live(clock_us)
        given = taken_from(live, units)
        if given:
            self.hits = live
        return given

    def forget(self) -> None:
        """Drop every hit."""
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
        """Where hits leave, and where the newest would be impossible or behind the clock."""
        times, period_us = [at for at, _ in self.hits[-6:]], self.period_us
        return [at + period_us for at in times] + [at - period_us for at in times[-1:]] + times[-1:]

    @classmethod
    def small_worlds(cls) -> list[Model]:
        """Also more units than microseconds."""
        return [cls(3, 4), cls(5, 4)]

"""The model of leases: at most ``limit`` units at every instant."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from tests.model.base import Answer, Model

#: No lease is longer than this, so a later end cannot be true.
LONGEST_US = 366 * 24 * 3_600_000_000


class Lease(NamedTuple):
    """One unit of a holder, and when it expires if it is not renewed."""

    holder: str
    unit: int
    ends_us: int


class Concurrency(Model):
    """A holder has units 1, 2, ...; each of them counts until it expires or is released.

    Expired leases are stored until others are taken or renewed. If the clock steps back before their end
    meanwhile, they count again.
    """

    algorithm = script = "concurrency"
    key_type = "zset"

    def __init__(self, limit: int, period_us: int) -> None:
        super().__init__(limit, period_us)
        self.leases: list[Lease] = []

    def live(self, clock_us: int) -> list[Lease]:
        """Return every unit that is held now, ordered by its end."""
        held = [unit for unit in self.leases if clock_us < unit.ends_us <= clock_us + LONGEST_US]
        return sorted(held, key=lambda unit: unit.ends_us)

    def held_by(self, clock_us: int, holder: str, units: int) -> list[Lease]:
        """Return the holder's units 1, 2, ... that are held now."""
        live = self.live(clock_us)
        return [lease for lease in live if lease.holder == holder and lease.unit <= units]

    def left(self, clock_us: int) -> int:
        """Return the number of units that no holder has."""
        return self.limit - len(self.live(clock_us))

    def passes_at(self, clock_us: int, units: int) -> int:
        """Return the first time at which enough leases have expired."""
        ends = [lease.ends_us for lease in self.live(clock_us)]
        return next(
            end for end in [clock_us, *ends] if units + sum(end < e for e in ends) <= self.limit
        )

    def rests_at(self, clock_us: int) -> int:
        """Return the end of the last lease."""
        return max([clock_us, *(lease.ends_us for lease in self.live(clock_us))])

    def forget(self) -> None:
        """Delete every lease."""
        self.leases.clear()

    def acquire(self, clock_us: int, cost: int, holder: str, at_least: int | None = None) -> Answer:
        """Take ``cost`` units; if the holder has some already, answer with those."""
        if cost == 0:
            return self.peek(clock_us, 0)
        if held := self.held_by(clock_us, holder, cost):
            return self.ask(clock_us, 0)._replace(granted=len(held))
        before = self.ask(clock_us, cost if at_least is None else at_least)
        granted = min(cost, before.remaining)
        return self.take(clock_us, granted, holder) if before.allowed and granted else before

    def take(self, clock_us: int, granted: int, holder: str) -> Answer:
        """Take ``granted`` free units for a holder that has none."""
        ends_us = clock_us + self.period_us
        taken = [Lease(holder, unit, ends_us) for unit in range(1, granted + 1)]
        self.leases = self.live(clock_us) + taken
        return self.ask(clock_us, 0)._replace(granted=granted)

    def renew(self, clock_us: int, cost: int, holder: str) -> Answer:
        """Extend the holder's units to a lease from now, if all of them are still held.

        A unit that lasts longer already keeps its end, such as after the clock stepped back.
        """
        held, granted = self.held_by(clock_us, holder, cost), 0
        if cost and len(held) == cost:
            granted = cost
            ends_us = clock_us + self.period_us
            kept = [unit for unit in self.live(clock_us) if unit not in held]
            self.leases = kept + [
                unit._replace(ends_us=max(unit.ends_us, ends_us)) for unit in held
            ]
        return self.ask(clock_us, 0)._replace(granted=granted)

    def release(self, clock_us: int, cost: int, holder: str) -> Answer:
        """Release the holder's units, if any of them is still held."""
        granted = len(self.held_by(clock_us, holder, cost))
        if granted:
            self.leases = [
                unit for unit in self.leases if unit.holder != holder or unit.unit > cost
            ]
        return self.ask(clock_us, 0)._replace(granted=granted)

    @property
    def most_cost(self) -> int:
        """The limit, but no more entries than one call may write."""
        return min(self.limit, 4_000)

    @property
    def believed_us(self) -> int:
        """The longest possible lease."""
        return LONGEST_US

    def edges(self, now_us: int) -> list[int]:
        """Return when leases expire, and when the last one is too far ahead to be true."""
        ends = sorted({unit.ends_us for unit in self.leases[-6:]})
        return ends + [end - LONGEST_US for end in ends[-1:]]

    @property
    def field(self) -> str:
        """The field without the period: leases of every length are in one set."""
        return self.identity

    def numbers(self) -> dict[str, int]:
        """Return the numbers; the period is the length of a lease."""
        return {"limit": self.limit, "lease_us": self.period_us}

    def changes(self) -> st.SearchStrategy[dict[str, int]]:
        """Draw another limit, another length of lease, or both."""
        lengths = st.one_of(st.integers(1, 40), st.sampled_from([1_000_000, 3_600_000_000]))
        return st.fixed_dictionaries(
            {}, optional={"limit": st.integers(1, 12), "period_us": lengths}
        )

    def change(self, limit: int | None = None, period_us: int | None = None) -> None:
        """Change the numbers; leases keep their ends."""
        self.limit = self.limit if limit is None else limit
        self.period_us = self.period_us if period_us is None else period_us

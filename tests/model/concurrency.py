"""At most ``limit`` leases at every instant."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from tests.model.base import Answer, Model

#: No lease is longer than this, so none that ends later can be true.
LONGEST_US = 366 * 24 * 3_600_000_000


class Lease(NamedTuple):
    """One unit that somebody took, and when it ends if nobody renews it."""

    holder: str
    unit: int
    ends_us: int


class Concurrency(Model):
    """A holder has units 1, 2, ...; each of them is live until it ends, is renewed or given back.

    Leases that have ended are kept until others are taken or renewed: if the clock steps back behind
    their end before that, they are live once more.
    """

    algorithm = script = "concurrency"
    key_type = "zset"

    def __init__(self, limit: int, period_us: int) -> None:
        super().__init__(limit, period_us)
        self.leases: list[Lease] = []

    def live(self, clock_us: int) -> list[Lease]:
        """Every unit that is held now, the first one to end first."""
        held = [one for one in self.leases if clock_us < one.ends_us <= clock_us + LONGEST_US]
        return sorted(held, key=lambda one: one.ends_us)

    def held_by(self, clock_us: int, holder: str, units: int) -> list[Lease]:
        """Those of the holder's units 1, 2, ... that are live."""
        live = self.live(clock_us)
        return [one for one in live if one.holder == holder and one.unit <= units]

    def left(self, clock_us: int) -> int:
        """Units that nobody holds."""
        return self.limit - len(self.live(clock_us))

    def passes_at(self, clock_us: int, units: int) -> int:
        """The first moment at which enough leases have ended."""
        ends = [one.ends_us for one in self.live(clock_us)]
        return next(
            end for end in [clock_us, *ends] if units + sum(end < e for e in ends) <= self.limit
        )

    def rests_at(self, clock_us: int) -> int:
        """The end of the last lease."""
        return max([clock_us, *(one.ends_us for one in self.live(clock_us))])

    def forget(self) -> None:
        """Drop every lease."""
        self.leases.clear()

    def acquire(self, clock_us: int, cost: int, holder: str, at_least: int | None = None) -> Answer:
        """Take ``cost`` leases, or say that the holder has some already: then those are the ones."""
        if cost == 0:
            return self.peek(clock_us, 0)
        if held := self.held_by(clock_us, holder, cost):
            return self.ask(clock_us, 0)._replace(granted=len(held))
        before = self.ask(clock_us, cost if at_least is None else at_least)
        if not before.allowed:
            return before
        return self.take(clock_us, min(cost, before.remaining), holder)

    def take(self, clock_us: int, granted: int, holder: str) -> Answer:
        """Take as many as were found to be free; the holder has none."""
        ends_us = clock_us + self.period_us
        taken = [Lease(holder, unit, ends_us) for unit in range(1, granted + 1)]
        self.leases = self.live(clock_us) + taken
        return self.ask(clock_us, 0)._replace(granted=granted)

    def renew(self, clock_us: int, cost: int, holder: str) -> Answer:
        """Let the holder's units last a lease from now, if all of them are live still.

        One that lasts longer already, since the clock stepped back or leases were longer, stays so:
        nobody loses what was promised.
        """
        held, granted = self.held_by(clock_us, holder, cost), 0
        if cost and len(held) == cost:
            granted = cost
            ends_us = clock_us + self.period_us
            kept = [one for one in self.live(clock_us) if one not in held]
            self.leases = kept + [one._replace(ends_us=max(one.ends_us, ends_us)) for one in held]
        return self.ask(clock_us, 0)._replace(granted=granted)

    def release(self, clock_us: int, cost: int, holder: str) -> Answer:
        """Give the holder's units back, if any of them is live still."""
        granted = len(self.held_by(clock_us, holder, cost))
        if granted:
            self.leases = [one for one in self.leases if one.holder != holder or one.unit > cost]
        return self.ask(clock_us, 0)._replace(granted=granted)

    @property
    def most_cost(self) -> int:
        """The limit, but no more entries than one call may write."""
        return min(self.limit, 4_000)

    @property
    def believed_us(self) -> int:
        """The longest lease that there can be."""
        return LONGEST_US

    def edges(self, now_us: int) -> list[int]:
        """Where leases end, and where they lie too far ahead to be true."""
        ends = sorted({one.ends_us for one in self.leases[-6:]})
        return ends + [end - LONGEST_US for end in ends[-1:]]

    @property
    def field(self) -> str:
        """Leases of every length are the same places."""
        return self.identity

    def numbers(self) -> dict[str, int]:
        """The period is the lease."""
        return {"limit": self.limit, "lease_us": self.period_us}

    def changes(self) -> st.SearchStrategy[dict[str, int]]:
        """Another limit, another length of lease, or both."""
        lengths = st.one_of(st.integers(1, 40), st.sampled_from([1_000_000, 3_600_000_000]))
        return st.fixed_dictionaries(
            {}, optional={"limit": st.integers(1, 12), "period_us": lengths}
        )

    def change(self, limit: int | None = None, period_us: int | None = None) -> None:
        """Give the policy other numbers; leases keep their end."""
        self.limit = self.limit if limit is None else limit
        self.period_us = self.period_us if period_us is None else period_us

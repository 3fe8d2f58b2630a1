"""``Concurrency``, and the decisions of ``lua/v1/concurrency.lua`` in Python."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

from limiter import units
from limiter.errors import InvalidPolicy
from limiter.policies.base import Policy
from limiter.policies.step import Step


@dataclass(frozen=True, init=False, repr=False)
class Concurrency(Policy):
    """At most ``limit`` leases held at any instant.

    A lease ends when its holder releases it, or ``lease`` seconds after it was taken or last renewed. If
    a holder dies, it blocks its place no longer than that. ``lease`` corresponds to ``per`` of the other
    policies. A call may cost at most 4,000, since each unit is an entry. With ``max_hold``, the holder's
    process releases a lease that many seconds after it was taken, and reports it as lost, so a slow client
    holds its place no longer. Source: the semaphore with timeouts of Redis in Action (J. Carlson, 2013),
    on the server's clock.

    Bound: ``limit`` held at every instant, apart from holders that go on after their lease expired.

    Raises:
        InvalidPolicy: ``limit`` is not in 1 to 100,000, ``lease`` not in 1 ms to 366 days, or
            ``max_hold`` not in ``lease`` to 366 days.

    """

    algorithm: ClassVar[str] = "concurrency"
    script: ClassVar[str] = "concurrency"
    key_type: ClassVar[str] = "zset"
    leases: ClassVar[bool] = True
    most_limit: ClassVar[int] = 100_000
    most_entries: ClassVar[int] = 4_000
    _period_name: ClassVar[str] = "lease"

    max_hold_us: int | None

    def __init__(
        self,
        limit: int,
        lease: units.Period = 30,
        *,
        max_hold: units.Period | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(limit, lease, name)
        self._set("max_hold_us", None if max_hold is None else self._longest(max_hold))

    def _longest(self, max_hold: units.Period) -> int:
        try:
            longest_us = units.period_us(max_hold)
        except InvalidPolicy as error:
            value, expected = str(error.value), str(error.expected)
        else:
            if longest_us >= self.period_us:
                return longest_us
            value = str(units.seconds(longest_us))
            expected = f"expected seconds from the length of a lease, {self.lease}"
        raise InvalidPolicy.of("max_hold", value, expected, type(self).__name__)

    @property
    def lease(self) -> int | float:
        """Seconds after which a lease expires if it is not renewed."""
        return self.per

    @property
    def max_hold(self) -> int | float | None:
        """Seconds after which a lease is released, however often it was renewed; None: never."""
        return None if self.max_hold_us is None else units.seconds(self.max_hold_us)

    @property
    def most_cost(self) -> int:
        """The limit, but no more entries than one call may write."""
        return min(self.limit, self.most_entries)

    @cached_property
    def field(self) -> str:
        """The end of the policy's own key, without the period: ``lease`` may change from call to call."""
        return self.identity if self.name is None else f"{self.identity}:{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """Return the same as other policies, and ``max_hold`` if it is set."""
        longest = {} if self.max_hold is None else {"max_hold": self.max_hold}
        return {**super().to_dict(), **longest}

    def _others(self, burst: int | None) -> dict[str, Any]:
        longest = None if self.max_hold_us is None else timedelta(microseconds=self.max_hold_us)
        return {**super()._others(burst), "max_hold": longest}

    def _options(self) -> str:
        return "" if self.max_hold is None else f", max_hold={self.max_hold}"

    def step(
        self, state: LeaseSet | None, now_us: int, lease: str = "", units: int = 0
    ) -> ConcurrencyStep:
        """Read the policy's leases, and how many of the units 1 to ``units`` this ``lease`` holds."""
        return ConcurrencyStep(self, state or LeaseSet(), now_us, lease, units)


class LeaseSet:
    """Members ordered by the time at which they expire: the part of a sorted set that leases need."""

    __slots__ = ("ends", "order")

    def __init__(self) -> None:
        #: The end of each member, and the pairs in order: scores and ranks of Redis's set.
        self.ends: dict[str, int] = {}
        self.order: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.ends)

    def rank(self, end_us: int) -> int:
        """Return the number of members that expire before ``end_us``."""
        return bisect_left(self.order, (end_us,))

    def put(self, member: str, end_us: int) -> None:
        """Add the member, or extend it; never shorten it."""
        before_us = self.ends.get(member, -1)
        if end_us > before_us:
            if before_us >= 0:
                self._unorder(before_us, member)
            self.ends[member] = end_us
            insort(self.order, (end_us, member))

    def drop(self, member: str) -> None:
        """Remove the member, if it is there."""
        end_us = self.ends.pop(member, None)
        if end_us is not None:
            self._unorder(end_us, member)

    def keep(self, first_us: int, last_us: int) -> None:
        """Keep the members that expire from ``first_us`` to ``last_us``, and remove the others."""
        dead, far = self.rank(first_us), self.rank(last_us + 1)
        for _, member in self.order[:dead] + self.order[far:]:
            del self.ends[member]
        self.order = self.order[dead:far]

    def _unorder(self, end_us: int, member: str) -> None:
        del self.order[bisect_left(self.order, (end_us, member))]


class ConcurrencyStep(Step):
    """One call on the members ``lease:unit``."""

    __slots__ = ("_dropped", "_lease", "_leases", "_now_us", "_policy", "_taken")

    def __init__(
        self, policy: Concurrency, leases: LeaseSet, now_us: int, lease: str, units: int
    ) -> None:
        super().__init__()
        self._policy, self._leases, self._lease, self._now_us = policy, leases, lease, now_us
        self._taken = self._dropped = 0
        first, far = self._live()
        self.room = policy.limit - (far - first)
        if far > first:
            self.reset_us = leases.order[far - 1][0] - now_us
            if lease:
                self.held = sum(map(self._lives, range(1, units + 1)))

    def _live(self) -> tuple[int, int]:
        """Return the ranks of the first unexpired member, and of the first after the last one."""
        # No lease lasts longer than 366 days: a later end cannot be true, and counts as expired.
        return self._leases.rank(self._now_us + 1), self._leases.rank(self._far_us + 1)

    @property
    def _far_us(self) -> int:
        return self._now_us + units.LONGEST_US

    def _lives(self, unit: int) -> bool:
        end_us = self._leases.ends.get(f"{self._lease}:{unit}", 0)
        return self._now_us < end_us <= self._far_us

    def retry_us(self, at_least: int) -> int:
        """Return the time until the unit expires whose end makes room, if all before it expire too."""
        _, far = self._live()
        return self._leases.order[far + at_least - self._policy.limit - 1][0] - self._now_us

    def charge(self, units: int) -> None:
        """Hold ``units`` until the lease ends."""
        self._taken = units
        self.room -= units
        self.reset_us = max(self.reset_us, self._policy.period_us)

    def renew(self, units: int) -> int:
        """Extend the lease from now, if it still holds all of the units."""
        if not units or self.held != units:
            return 0
        self._taken = units
        self.reset_us = max(self.reset_us, self._policy.period_us)
        return units

    def release(self, units: int) -> int:
        """Release the lease; other leases keep their ends."""
        if self.held:
            self._dropped = units
            self.room += self.held
            own = {f"{self._lease}:{unit}" for unit in range(1, units + 1)}
            first, far = self._live()
            others = (
                end for end, member in reversed(self._leases.order[first:far]) if member not in own
            )
            self.reset_us = next(others, self._now_us) - self._now_us
        return self.held

    def write(self, state: LeaseSet) -> None:
        """Remove expired members and add the new ones, or remove the released ones."""
        if self._taken:
            state.keep(self._now_us + 1, self._far_us)
            for unit in range(1, self._taken + 1):
                state.put(f"{self._lease}:{unit}", self._now_us + self._policy.period_us)
        for unit in range(1, self._dropped + 1):
            state.drop(f"{self._lease}:{unit}")

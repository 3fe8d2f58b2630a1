"""``SlidingLog``, and the decisions of ``lua/v1/sliding_log.lua`` in Python."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar

from limiter import units
from limiter.policies.base import Policy
from limiter.policies.step import EXACT, Step


@dataclass(frozen=True, init=False, repr=False)
class SlidingLog(Policy):
    """At most ``limit`` in any window of one period, to the microsecond.

    It keeps the time of every admitted unit, about 11 bytes each; also known as the moving window. A
    call may cost at most 4,000, since each unit is an entry.

    Bound: ``limit`` in any window. No algorithm is more exact, and none takes more memory.

    Raises:
        InvalidPolicy: ``limit`` is not in 1 to 100,000, or ``per`` not in 1 ms to 366 days.

    """

    algorithm: ClassVar[str] = "sliding_log"
    script: ClassVar[str] = "sliding_log"
    key_type: ClassVar[str] = "list"
    stamps: ClassVar[bool] = True
    most_limit: ClassVar[int] = 100_000
    most_entries: ClassVar[int] = 4_000

    def __init__(self, limit: int, per: units.Period, *, name: str | None = None) -> None:
        super().__init__(limit, per, name)

    @property
    def most_cost(self) -> int:
        """The limit, but no more entries than one call may write."""
        return min(self.limit, self.most_entries)

    @property
    def arguments(self) -> tuple[int, ...]:
        """Limit, period, and 0: no unit is taken in advance."""
        return (self.limit, self.period_us, 0)

    def arguments_ahead(self, hold_us: int) -> tuple[int, ...]:
        """Limit, period, and how far ahead the entries are stamped."""
        return (self.limit, self.period_us, hold_us)

    def own_us(self, reset_us: int) -> int:
        """The period: then the entries have left, or leave soon."""
        return self.period_us

    def _instead(self, field: str) -> str:
        return "; for more, use SlidingWindow or TokenBucket"

    def step(
        self, state: list[int] | None, now_us: int, lease: str = "", units: int = 0
    ) -> SlidingLogStep:
        """Read the policy's own list."""
        return SlidingLogStep(self, state or [], now_us)


class SlidingLogStep(Step):
    """One call on a list of times: one for each unit, the oldest first, never decreasing."""

    __slots__ = ("_added", "_dead", "_entries", "_last_us", "_limit", "_next_us", "_now_us")

    def __init__(self, policy: SlidingLog, entries: list[int], now_us: int) -> None:
        super().__init__()
        period_us, size = policy.period_us, len(entries)
        # The first `dead` entries have left the window.
        dead, last_us = 0, now_us
        if size:
            newest_us = entries[-1]
            if newest_us + period_us <= now_us or newest_us >= EXACT or newest_us % 1:
                dead = size
            elif newest_us - now_us > period_us:
                # No clock steps back that far: keep the count, as if all units had been taken now.
                entries, self.needs_repair, self.reset_us = [now_us] * size, True, period_us
            else:
                dead = bisect_right(entries, now_us - period_us)
                last_us = max(newest_us, now_us)
                self.reset_us = newest_us + period_us - now_us
        self.room = policy.limit - size + dead
        self._entries, self._dead, self._added, self._last_us = entries, dead, 0, last_us
        self._now_us = now_us
        self._limit, self._next_us = policy.limit, period_us - now_us

    def retry_us(self, at_least: int) -> int:
        """Return the time until the entry leaves the window whose end makes room."""
        freeing = len(self._entries) - self._limit + at_least - 1
        return self._entries[freeing] + self._next_us

    def stamp(self, hold_us: int) -> None:
        """Let the new entries have the time at which units taken in advance expire."""
        self._last_us = max(self._last_us, self._now_us + hold_us)

    def charge(self, units: int) -> None:
        """Add an entry for each unit; if the clock stepped back, at the newest entry's time."""
        self._added = units
        self.room -= units
        self.reset_us = self._last_us + self._next_us

    def refund(self, units: int) -> int:
        """Remove the oldest entries: without the newest, a later window would admit too much."""
        refunded = min(units, len(self._entries) - self._dead)
        self._dead += refunded
        self.room += refunded
        if self._dead == len(self._entries):
            self.reset_us = 0
        return refunded

    def write(self, state: list[int]) -> None:
        """Append the new entries, and remove those that left the window."""
        if self.needs_repair:
            state[:] = self._entries
        state += [self._last_us] * self._added
        del state[: self._dead]

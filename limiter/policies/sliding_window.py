"""``SlidingWindow``, and the decisions of ``lua/v1/sliding_window.lua`` in Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from limiter import units
from limiter.policies.base import Policy
from limiter.policies.step import DOUBLES, EXACT, Hash, Step, numbers


@dataclass(frozen=True, init=False, repr=False)
class SlidingWindow(Policy):
    """About ``limit`` in any window of one period, from the counts of two windows.

    The previous window's count is weighted by the share of that window that the last period still
    covers, as if its hits had been evenly spread. The state is two counters for every limit. A window
    begins at the first hit after a pause. Source: Cloudflare's sliding window counter (J. Desgats, 2017).

    Bound: ``2 * limit - 2`` in any window of one period against an attacker (1 if ``limit`` is 1). Under
    even traffic it is about ``limit``, or exactly one less, since the share is rounded up.

    Raises:
        InvalidPolicy: ``limit`` is not in 1 to 10^12, or ``per`` not in 1 ms to 366 days.

    """

    algorithm: ClassVar[str] = "sliding_window"
    script: ClassVar[str] = "sliding_window"

    def __init__(self, limit: int, per: units.Period, *, name: str | None = None) -> None:
        super().__init__(limit, per, name)

    @property
    def arguments(self) -> tuple[int, ...]:
        """Limit, period, and the unit of time in microseconds."""
        return (self.limit, self.period_us, self.unit_us)

    def own_us(self, reset_us: int) -> int:
        """Until the window that was charged ends; it has a weight for one more period."""
        return reset_us - self.period_us

    @cached_property
    def unit_us(self) -> int:
        """The least unit of time in microseconds that keeps ``limit * period`` within 2^52, often 1."""
        return max(1, -(-self.limit * self.period_us // (EXACT // 2)))

    def step(
        self, state: Hash | None, now_us: int, lease: str = "", units: int = 0
    ) -> SlidingWindowStep:
        """Read the policy's field of the subject's hash."""
        return SlidingWindowStep(self, state, now_us)


class SlidingWindowStep(Step):
    """One call on a field of three doubles: the window's start, its count, and the previous count."""

    __slots__ = ("_current", "_now_us", "_policy", "_previous", "_start_us")

    def __init__(self, policy: SlidingWindow, state: Hash | None, now_us: int) -> None:
        super().__init__()
        period_us = policy.period_us
        start_us, current, previous = now_us, 0, 0
        stored = numbers(state, policy.field)
        if len(stored) == 3:
            stored_us, newer, older = stored
            if stored_us - now_us > period_us:
                # No clock steps back that far: keep the counts, in a window that begins now.
                stored_us, self.needs_repair = now_us, True
            if now_us - stored_us >= period_us:
                stored_us, newer, older = stored_us + period_us, 0, newer
            if now_us - stored_us < period_us and newer + older > 0:
                start_us, current, previous = stored_us, newer, older
        self._policy, self._now_us = policy, now_us
        self._start_us, self._current, self._previous = start_us, current, previous
        self._weigh()

    def _grid(self, previous: int) -> tuple[int, int]:
        """Return the unit of time for a previous count, and the number of units in a period."""
        policy = self._policy
        unit_us = policy.unit_us
        if previous > policy.limit:
            unit_us *= -(-previous // policy.limit)
        return unit_us, -(-policy.period_us // unit_us)

    def _weigh(self) -> None:
        """Compute the room, and the time until both counts have expired."""
        current, previous = self._current, self._previous
        self.room, self.reset_us = self._policy.limit - current, 0
        left_us = self._start_us + self._policy.period_us - self._now_us
        if previous:
            unit_us, width = self._grid(previous)
            # The last period covers `covered` of the `width` time units of the previous window.
            covered = width - max(0, self._now_us - self._start_us) // unit_us
            self.room += -previous * covered // width
            self.reset_us = left_us
        if current:
            self.reset_us = left_us + self._policy.period_us

    def retry_us(self, at_least: int) -> int:
        """Return the time until the previous count's share, or later this count's, is small enough."""
        period_us, limit = self._policy.period_us, self._policy.limit
        left_us = self._start_us + period_us - self._now_us
        spare = limit - self._current - at_least
        if spare > 0 and self._previous:
            unit_us, width = self._grid(self._previous)
            fitting = spare * width // self._previous
            if fitting:
                return left_us - period_us + (width - fitting) * unit_us
        if not self._current:
            return left_us
        # In the next window, in which this count is the previous one; or after that window.
        unit_us, width = self._grid(self._current)
        fitting = (limit - at_least) * width // self._current
        if not fitting:
            return left_us + period_us
        return left_us + max(0, width - fitting) * unit_us

    def charge(self, units: int) -> None:
        """Count ``units`` in the open window."""
        self._current += units
        self.room -= units
        self.reset_us = self._start_us + 2 * self._policy.period_us - self._now_us

    def refund(self, units: int) -> int:
        """Lower this window's count first, then the previous one."""
        refunded = min(units, self._current + self._previous)
        from_current = min(refunded, self._current)
        self._current -= from_current
        self._previous -= refunded - from_current
        self._weigh()
        return refunded

    def write(self, state: Hash) -> None:
        """Pack the field."""
        packed = DOUBLES[24].pack(self._start_us, self._current, self._previous)
        state[self._policy.field] = packed

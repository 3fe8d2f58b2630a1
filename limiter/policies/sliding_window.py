"""Python's side of ``lua/v1/sliding_window.lua``."""

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

    What was admitted in the window before counts in proportion to how much of it the last period
    still covers, as if it had come evenly. Two counters, whatever the limit. Windows begin at the
    first hit after idleness. Source: the sliding window counter of Cloudflare (J. Desgats, 2017).

    Bound: ``2 * limit - 2`` in any window of one period against an adversary (1 where ``limit`` is 1);
    under even traffic about ``limit``, in truth one less, since the share is rounded up.

    Raises:
        InvalidPolicy: ``limit`` is not in 1 to 10^12, or ``per`` not in 1 ms to 366 days.

    """

    algorithm: ClassVar[str] = "sliding_window"
    script: ClassVar[str] = "sliding_window"

    def __init__(self, limit: int, per: units.Period, *, name: str | None = None) -> None:
        super().__init__(limit, per, name)

    @property
    def arguments(self) -> tuple[int, ...]:
        """Limit, period, and the microseconds by which the passing of a window is told."""
        return (self.limit, self.period_us, self.unit_us)

    @cached_property
    def unit_us(self) -> int:
        """The least unit of time in which ``limit`` times a period is at most 2^52: most often 1."""
        return max(1, -(-self.limit * self.period_us // (EXACT // 2)))

    def step(
        self, state: Hash | None, now_us: int, lease: str = "", units: int = 0
    ) -> SlidingWindowStep:
        """Read the policy's field of the subject's hash."""
        return SlidingWindowStep(self, state, now_us)


class SlidingWindowStep(Step):
    """A field of three doubles: start of the window, what it holds, what the one before it held."""

    __slots__ = ("_current", "_now_us", "_policy", "_previous", "_start_us")

    def __init__(self, policy: SlidingWindow, state: Hash | None, now_us: int) -> None:
        super().__init__()
        period_us = policy.period_us
        start_us, current, previous = now_us, 0, 0
        stored = numbers(state, policy.field)
        if len(stored) == 3:
            stored_us, newer, older = stored
            if stored_us - now_us > period_us:
                # No clock steps back that far: keep the counts, and let them end like any other.
                stored_us, self.heal = now_us, True
            if now_us - stored_us >= period_us:
                stored_us, newer, older = stored_us + period_us, 0, newer
            if now_us - stored_us < period_us and newer + older > 0:
                start_us, current, previous = stored_us, newer, older
        self._policy, self._now_us = policy, now_us
        self._start_us, self._current, self._previous = start_us, current, previous
        self._weigh()

    def _grid(self, previous: int) -> tuple[int, int]:
        """The unit in which time is told beside such a count, and a period's number of them."""
        policy = self._policy
        unit_us = policy.unit_us
        if previous > policy.limit:
            unit_us *= -(-previous // policy.limit)
        return unit_us, -(-policy.period_us // unit_us)

    def _weigh(self) -> None:
        """Work out the room, and when both counts are gone."""
        current, previous = self._current, self._previous
        self.room, self.reset_us = self._policy.limit - current, 0
        left_us = self._start_us + self._policy.period_us - self._now_us
        if previous:
            unit_us, width = self._grid(previous)
            # Of `width` units, the window still covers `covered` of the one before.
            covered = width - max(0, self._now_us - self._start_us) // unit_us
            self.room += -previous * covered // width
            self.reset_us = left_us
        if current:
            self.reset_us = left_us + self._policy.period_us

    def retry_us(self, at_least: int) -> int:
        """Until the share of the window before has shrunk enough, or that of this one."""
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
        # In the next window, where this one is the one before; or when that is over, too.
        unit_us, width = self._grid(self._current)
        fitting = (limit - at_least) * width // self._current
        if not fitting:
            return left_us + period_us
        return left_us + max(0, width - fitting) * unit_us

    def charge(self, units: int) -> None:
        """Count them in the window that is open."""
        self._current += units
        self.room -= units
        self.reset_us = self._start_us + 2 * self._policy.period_us - self._now_us

    def refund(self, units: int) -> int:
        """Off this window's count, then off that of the one before."""
        given = min(units, self._current + self._previous)
        here = min(given, self._current)
        self._current -= here
        self._previous -= given - here
        self._weigh()
        return given

    def write(self, state: Hash) -> None:
        """Pack the field."""
        packed = DOUBLES[24].pack(self._start_us, self._current, self._previous)
        state[self._policy.field] = packed

"""Python's side of ``lua/v1/sliding_window.lua``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from limiter import units
from limiter.policies.base import EXACT, Policy


@dataclass(frozen=True, init=False, repr=False)
class SlidingWindow(Policy):
    """About ``limit`` in any window of one period, from the counts of two windows.

    What was admitted in the window before counts in proportion to how much of it the last period
    still covers, as if it had come evenly. Two counters, whatever the limit. Windows begin at the
    first hit after idleness. Source: the sliding window counter of Cloudflare (J. Desgats, 2017).

    Bound: ``2 * limit - 1`` in any window against an adversary; ``limit`` when the traffic is even.

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
        return (self.limit, self.period_us, unit_us(self.limit, self.period_us))


def unit_us(limit: int, period_us: int) -> int:
    """The least unit of time in which ``limit`` times a period stays within 2^52: most often 1."""
    return max(1, -(-limit * period_us // (EXACT // 2)))

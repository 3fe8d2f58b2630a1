"""Python's side of ``lua/v1/sliding_log.lua``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from limiter import units
from limiter.policies.base import Policy


@dataclass(frozen=True, init=False, repr=False)
class SlidingLog(Policy):
    """At most ``limit`` in any window of one period, to the microsecond.

    Keeps the time of every unit admitted, about 11 bytes each; also known as the moving window. A
    call may cost at most 4,000, since each unit is an entry.

    Bound: ``limit`` in any window. No algorithm is more exact; none takes more memory.

    Raises:
        InvalidPolicy: ``limit`` is not in 1 to 100,000, or ``per`` not in 1 ms to 366 days.

    """

    algorithm: ClassVar[str] = "sliding_log"
    script: ClassVar[str] = "sliding_log"
    key_type: ClassVar[str] = "list"
    most_limit: ClassVar[int] = 100_000
    most_entries: ClassVar[int] = 4_000

    def __init__(self, limit: int, per: units.Period, *, name: str | None = None) -> None:
        super().__init__(limit, per, name)

    @property
    def most_cost(self) -> int:
        """The limit, and no more than one call may write."""
        return min(self.limit, self.most_entries)

    def _instead(self, field: str) -> str:
        return "; for more, use SlidingWindow or TokenBucket"

"""Python's side of ``lua/v1/fixed_window.lua``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from limiter import units
from limiter.errors import InvalidPolicy
from limiter.policies.base import Policy


@dataclass(frozen=True, init=False, repr=False)
class FixedWindow(Policy):
    """At most ``limit`` in each window of one period.

    A window opens at the first admitted hit and lasts exactly ``per``; with ``align`` windows end at
    multiples of ``per`` since 1970. The cheapest algorithm, and the oldest: Redis's own
    documentation of INCR describes it (docs/incr.md shows what that version loses).

    Bound: ``limit`` in each own window; up to ``2 * limit`` in any other window of that length, at
    the seam of two.

    Raises:
        InvalidPolicy: ``limit`` is not in 1 to 10^12, or ``per`` not in 1 ms to 366 days.

    """

    algorithm: ClassVar[str] = "fixed_window"
    script: ClassVar[str] = "fixed_window"

    align: bool

    def __init__(
        self, limit: int, per: units.Period, align: bool = False, *, name: str | None = None
    ) -> None:
        super().__init__(limit, per, name)
        if not isinstance(align, bool):
            raise InvalidPolicy(f"FixedWindow: align is {align!r}: accepted are True and False")
        self._set("align", align)

    @property
    def identity(self) -> str:
        """Aligned windows are others than those that open at the first hit."""
        return "fixed_window.aligned" if self.align else "fixed_window"

    @property
    def arguments(self) -> tuple[int, ...]:
        """Limit, period, and 1 for aligned windows."""
        return (self.limit, self.period_us, int(self.align))

    def _others(self, burst: int | None) -> dict[str, Any]:
        return {**super()._others(burst), "align": self.align}

    def _more(self) -> str:
        return ", align=True" if self.align else ""

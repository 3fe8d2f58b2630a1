"""``FixedWindow``, and the decisions of ``lua/v1/fixed_window.lua`` in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from limiter import units
from limiter.errors import InvalidPolicy
from limiter.policies.base import Policy
from limiter.policies.step import DOUBLES, Hash, Step, numbers


@dataclass(frozen=True, init=False, repr=False)
class FixedWindow(Policy):
    """At most ``limit`` in each window of one period.

    A window opens at the first admitted hit and lasts exactly ``per``. With ``align``, windows end at
    multiples of ``per`` since 1970. This algorithm is the cheapest and the oldest: Redis's documentation
    of INCR describes it (docs/incr.md shows what that version loses).

    Bound: ``limit`` in each of these windows; up to ``2 * limit`` in any other window of one period,
    since it can cover the end of one and the start of the next.

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
            expected = "expected True or False"
            raise InvalidPolicy.of("align", repr(align), expected, "FixedWindow")
        self._set("align", align)

    @property
    def identity(self) -> str:
        """The algorithm's name in keys: aligned windows share no state with those that open at a hit."""
        return "fixed_window.aligned" if self.align else "fixed_window"

    @property
    def arguments(self) -> tuple[int, ...]:
        """Limit, period, and 1 for aligned windows."""
        return (self.limit, self.period_us, int(self.align))

    def own_us(self, reset_us: int) -> int:
        """Until the window ends."""
        return reset_us

    def _others(self, burst: int | None) -> dict[str, Any]:
        return {**super()._others(burst), "align": self.align}

    def _options(self) -> str:
        return ", align=True" if self.align else ""

    def step(
        self, state: Hash | None, now_us: int, lease: str = "", units: int = 0
    ) -> FixedWindowStep:
        """Read the policy's field of the subject's hash."""
        return FixedWindowStep(self, state, now_us)


class FixedWindowStep(Step):
    """One call on a field of two doubles: the window's start and its count."""

    __slots__ = ("_field", "_left_us", "_start_us", "_used")

    def __init__(self, policy: FixedWindow, state: Hash | None, now_us: int) -> None:
        super().__init__()
        period_us = policy.period_us
        start_us, used = now_us, 0
        if policy.align:
            start_us = now_us - now_us % period_us
        stored = numbers(state, policy.field)
        if len(stored) == 2:
            stored_us, count = stored
            if stored_us - now_us > period_us:
                # No clock steps back that far: keep the count, in a window that begins now.
                stored_us, self.needs_repair = now_us, True
            if stored_us + period_us > now_us:
                start_us, used = stored_us, count
                self.reset_us = start_us + period_us - now_us
        self.room = policy.limit - used
        self._field, self._start_us, self._used = policy.field, start_us, used
        self._left_us = start_us + period_us - now_us

    def retry_us(self, at_least: int) -> int:
        """Return the time until the window ends."""
        return self._left_us

    def charge(self, units: int) -> None:
        """Count ``units``; the first hit opens the window."""
        self._used += units
        self.room -= units
        self.reset_us = self._left_us

    def refund(self, units: int) -> int:
        """Lower the count; the window stays open."""
        refunded = min(units, self._used)
        self._used -= refunded
        self.room += refunded
        return refunded

    def write(self, state: Hash) -> None:
        """Pack the field."""
        state[self._field] = DOUBLES[16].pack(self._start_us, self._used)

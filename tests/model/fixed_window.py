"""The model of the fixed window: at most ``limit`` in each window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.histories import Admitted, own_windows
from tests.model.base import Model, Rate, taken_from


class Window(NamedTuple):
    """A window, and every hit that was admitted in it."""

    start_us: int
    hits: list[tuple[int, int]]


class FixedWindow(Rate):
    """A window opens at the first admitted hit; with ``align``, at a multiple of the period."""

    algorithm = script = "fixed_window"

    def __init__(self, limit: int, period_us: int, align: bool = False) -> None:
        super().__init__(limit, period_us)
        self.align = align
        self.windows: list[Window] = []

    def window(self, clock_us: int) -> Window | None:
        """Return the window that counts now.

        If the clock stepped back, it is still in the newest window if that begins at most a period ahead.
        A later beginning cannot be true, and counts as now.
        """
        if not self.windows:
            return None
        newest = self.windows[-1]
        if newest.start_us - clock_us > self.period_us:
            return newest._replace(start_us=clock_us)
        return newest if clock_us < newest.start_us + self.period_us else None

    def heal(self, clock_us: int) -> None:
        """If the window begins too far ahead to be true, let it begin now, with its count."""
        if self.windows and self.windows[-1].start_us - clock_us > self.period_us:
            self.windows[-1] = self.windows[-1]._replace(start_us=clock_us)

    def left(self, clock_us: int) -> int:
        """Return the limit less the window's hits."""
        window = self.window(clock_us)
        used = sum(cost for _, cost in window.hits) if window else 0
        return self.limit - used

    def passes_at(self, clock_us: int, units: int) -> int:
        """Return now, or the end of the window: the next window is empty."""
        return clock_us if units <= self.room(clock_us) else self.rests_at(clock_us)

    def rests_at(self, clock_us: int) -> int:
        """Return the end of the window."""
        window = self.window(clock_us)
        return window.start_us + self.period_us if window else clock_us

    def admit(self, clock_us: int, units: int) -> None:
        """Count the hit in its window; open one if there is none."""
        self.heal(clock_us)
        if self.window(clock_us) is None:
            behind_us = clock_us % self.period_us if self.align else 0
            self.windows.append(Window(clock_us - behind_us, []))
        self.windows[-1].hits.append((clock_us, units))

    def return_units(self, clock_us: int, units: int) -> int:
        """Remove hits of the current window; it stays open, even if it is empty."""
        window = self.window(clock_us)
        return taken_from(window.hits, units) if window else 0

    def forget(self) -> None:
        """Drop every window."""
        self.windows.clear()

    @property
    def bound(self) -> int:
        """Two full windows, which overlap the period."""
        return 2 * self.limit

    def check(self, history: Sequence[Admitted]) -> None:
        """Check that each window kept the limit."""
        for start_us, used in own_windows(history, self.period_us, self.align).items():
            assert used <= self.limit, f"{used} in the window from {start_us} under {self}"

    def edges(self, now_us: int) -> list[int]:
        """Return a period before each window, its start and its end."""
        starts = [window.start_us for window in self.windows[-2:]]
        return [start + step * self.period_us for start in starts for step in (-1, 0, 1)]

    @property
    def identity(self) -> str:
        """Aligned windows have another name."""
        return f"{self.algorithm}.aligned" if self.align else self.algorithm

    def numbers(self) -> dict[str, int]:
        """Add whether windows are aligned."""
        return super().numbers() | {"aligned": int(self.align)}

    @classmethod
    def options(cls, most: int) -> dict[str, st.SearchStrategy[Any]]:  # noqa: ARG003 (a count needs it)
        """Draw whether windows are aligned."""
        return {"align": st.booleans()}

    @classmethod
    def samples(cls, most: int, period_us: int) -> list[Model]:
        """Return unaligned and aligned windows."""
        return [cls(most, period_us), cls(most, period_us, align=True)]

    @classmethod
    def of_every_size(cls, periods: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
        """Draw small limits, and the largest."""
        limits = st.one_of(st.integers(1, 12), st.just(10**12))
        return st.builds(cls, limits, periods, **cls.options(12))

"""At most ``limit`` in each window of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.histories import Admitted, own_windows
from tests.model.base import Model, Rate, taken_from


class Window(NamedTuple):
    """A window that an admitted hit opened, and every hit that was admitted in it."""

    start_us: int
    hits: list[tuple[int, int]]


class FixedWindow(Rate):
    """A window of one period opens at the first admitted hit, or on the clock with ``align``."""

    algorithm = script = "fixed_window"

    def __init__(self, limit: int, period_us: int, align: bool = False) -> None:
        super().__init__(limit, period_us)
        self.align = align
        self.windows: list[Window] = []

    def window(self, clock_us: int) -> Window | None:
        """The window that counts now.

        A clock that stepped back is still in the newest window if that begins at most a period
        ahead; one that begins later cannot be true, and is read as begun now.
        """
        if not self.windows:
            return None
        newest = self.windows[-1]
        if newest.start_us - clock_us > self.period_us:
            return newest._replace(start_us=clock_us)
        return newest if clock_us < newest.start_us + self.period_us else None

    def heal(self, clock_us: int) -> None:
        """Let a window from an impossible future begin now, with its count."""
        if self.windows and self.windows[-1].start_us - clock_us > self.period_us:
            self.windows[-1] = self.windows[-1]._replace(start_us=clock_us)

    def left(self, clock_us: int) -> int:
        """What the window's hits have left of the limit."""
        window = self.window(clock_us)
        used = sum(cost for _, cost in window.hits) if window else 0
        return self.limit - used

    def passes_at(self, clock_us: int, units: int) -> int:
        """Now, or the end of the window: the next one is empty."""
        return clock_us if units <= self.room(clock_us) else self.rests_at(clock_us)

    def rests_at(self, clock_us: int) -> int:
        """The end of the window."""
        window = self.window(clock_us)
        return window.start_us + self.period_us if window else clock_us

    def admit(self, clock_us: int, units: int) -> None:
        """Count the hit in its window; open one if there is none."""
        self.heal(clock_us)
        if self.window(clock_us) is None:
            behind_us = clock_us % self.period_us if self.align else 0
            self.windows.append(Window(clock_us - behind_us, []))
        self.windows[-1].hits.append((clock_us, units))

    def give_back(self, clock_us: int, units: int) -> int:
        """Out of the window that counts; it stays open, be it empty."""
        window = self.window(clock_us)
        return taken_from(window.hits, units) if window else 0

    def forget(self) -> None:
        """Drop every window."""
        self.windows.clear()

    @property
    def bound(self) -> int:
        """What two windows hold that meet in it."""
        return 2 * self.limit

    def check(self, history: Sequence[Admitted]) -> None:
        """Each window that was opened kept the limit."""
        for start_us, used in own_windows(history, self.period_us, self.align).items():
            assert used <= self.limit, f"{used} in the window from {start_us} under {self}"

    def edges(self, now_us: int) -> list[int]:
        """A period before a window, its beginning and its end."""
        starts = [window.start_us for window in self.windows[-2:]]
        return [start + step * self.period_us for start in starts for step in (-1, 0, 1)]

    @property
    def identity(self) -> str:
        """Windows on the clock are others."""
        return f"{self.algorithm}.aligned" if self.align else self.algorithm

    def numbers(self) -> dict[str, int]:
        """And whether windows begin on the clock."""
        return super().numbers() | {"aligned": int(self.align)}

    @classmethod
    def options(cls, most: int) -> dict[str, st.SearchStrategy[Any]]:  # noqa: ARG003 (a count needs it)
        """Whether windows begin on the clock."""
        return {"align": st.booleans()}

    @classmethod
    def samples(cls, most: int, period_us: int) -> list[Model]:
        """Windows of their own, and on the clock."""
        return [cls(most, period_us), cls(most, period_us, align=True)]

    @classmethod
    def of_every_size(cls, periods: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
        """Small limits, and the largest."""
        limits = st.one_of(st.integers(1, 12), st.just(10**12))
        return st.builds(cls, limits, periods, **cls.options(12))

"""At most ``limit`` in each window of its own."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.base import Model


class Window(NamedTuple):
    """A window that an admitted hit opened, and every hit that was admitted in it."""

    start_us: int
    hits: list[tuple[int, int]]


class FixedWindow(Model):
    """A window of one period opens at the first admitted hit, or on the clock with ``align``."""

    def __init__(self, limit: int, period_us: int, align: bool = False) -> None:
        self.limit, self.period_us, self.align = limit, period_us, align
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

    def room(self, clock_us: int) -> int:
        """What the window's hits have left of the limit."""
        window = self.window(clock_us)
        used = sum(cost for _, cost in window.hits) if window else 0
        return max(0, self.limit - used)

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

    def forget(self) -> None:
        """Drop every window."""
        self.windows.clear()

"""The units that all subjects together are admitted, by the second."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Iterator
from operator import sub
from typing import NamedTuple

from limiter import units

#: Seconds that are kept together, so that busy times take about 10 bytes a second.
_PAGE = 64


class Peak(NamedTuple):
    """The most units that all subjects together were admitted.

    Both count whole seconds of the clock, as most dashboards do.
    """

    second: int
    """In one second."""
    period: int
    """In any run of seconds that is as long as the period, rounded up."""


class Load:
    """Units by the second in which they were admitted."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = defaultdict(lambda: array("q", bytes(8 * _PAGE)))

    def add(self, time_us: int, cost: int) -> None:
        """Count the units of one request, in any order of time."""
        page, place = divmod(time_us // units.SECOND_US, _PAGE)
        self._pages[page][place] += cost

    def peak(self, period_us: int, denied: Load) -> Peak:
        """Return the most units in a second, and in a period, without those that were denied."""
        length = -(-period_us // units.SECOND_US)
        most_second = most_period = inside = 0
        run: deque[tuple[int, int]] = deque()
        for second, cost in self._seconds(denied):
            run.append((second, cost))
            inside += cost
            while run[0][0] <= second - length:
                inside -= run.popleft()[1]
            most_second, most_period = max(most_second, cost), max(most_period, inside)
        return Peak(most_second, most_period)

    def _seconds(self, denied: Load) -> Iterator[tuple[int, int]]:
        none = array("q", bytes(8 * _PAGE))
        for page, costs in sorted(self._pages.items()):
            less = denied._pages.get(page, none)
            for place, cost in enumerate(map(sub, costs, less)):
                if cost:
                    yield page * _PAGE + place, cost

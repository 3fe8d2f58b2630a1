"""Which items of a stream are the most frequent: counted in bounded memory, with error bounds."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappush, heapreplace
from typing import NamedTuple


class Summary(NamedTuple):
    """What one or several sketches know of their streams.

    If the streams have N items together, and each sketch has k counters, then ``others`` is at most N/k.
    So is the distance between the two bounds of each item.
    """

    total: int
    """The number of items in the streams."""
    others: int
    """No item without bounds is more frequent than this."""
    bounds: dict[str, tuple[int, int]]
    """The least and the most that the number of an item can be."""

    @classmethod
    def merge(cls, summaries: Sequence[Summary]) -> Summary:
        """Return the summary of all streams together; the bounds of an item add up."""
        others = sum(each.others for each in summaries)
        bounds = {}
        for item in {item for each in summaries for item in each.bounds}:
            pairs = [each.bounds.get(item, (0, each.others)) for each in summaries]
            bounds[item] = sum(least for least, _ in pairs), sum(most for _, most in pairs)
        return cls(sum(each.total for each in summaries), others, bounds)

    def ranked(self) -> list[tuple[str, int, int]]:
        """Return each item with its bounds, the most frequent first."""
        rows = [(item, least, most) for item, (least, most) in self.bounds.items()]
        return sorted(rows, key=lambda row: (-row[2], -row[1], row[0]))


class Sketch:
    """Counts the most frequent items of a stream with at most ``size`` counters.

    The algorithm is Space-Saving: Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and
    Top-k Elements in Data Streams", 2005. An item without a counter takes over the smallest one. It begins
    at that count, which is also its largest possible error. So no item is underestimated.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._total = 0
        #: By item: its count, and the part of it that may belong to other items.
        self._counts: dict[str, list[int]] = {}
        #: Each counted item once, with its count or an earlier, smaller one.
        self._heap: list[tuple[int, str]] = []

    def add(self, item: str) -> None:
        """Count an item of the stream."""
        self._total += 1
        if item in self._counts:
            self._counts[item][0] += 1
        elif len(self._counts) < self._size:
            self._counts[item] = [1, 0]
            heappush(self._heap, (1, item))
        else:
            least = self._least()
            del self._counts[self._heap[0][1]]
            self._counts[item] = [least + 1, least]
            heapreplace(self._heap, (least + 1, item))

    def _least(self) -> int:
        """Return the smallest count, and leave its item at the top of the heap."""
        while True:
            noted, item = self._heap[0]
            count, _ = self._counts[item]
            if count == noted:
                return count
            heapreplace(self._heap, (count, item))

    def summary(self) -> Summary:
        """Return the bounds of each counted item, and of the others."""
        is_full = len(self._counts) == self._size
        bounds = {item: (count - error, count) for item, (count, error) in self._counts.items()}
        return Summary(self._total, self._least() if is_full else 0, bounds)

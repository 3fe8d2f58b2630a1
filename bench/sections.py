"""What a part hands to the report: figures with their spread, and tables made of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Failed(Exception):
    """Something cannot be measured, or measured something else than it claims; the message says why."""


class Spread(NamedTuple):
    """The median over all repetitions, and the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))


#: Column (most often a server) -> what was measured -> the figure.
Figures = dict[str, dict[str, Spread]]


class Table(NamedTuple):
    """One table of the report."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """What one part measured, and how."""

    part: str
    title: str
    text: str
    figures: Figures = field(default_factory=dict)
    checks: Figures = field(default_factory=dict)
    """Figures that support the others, and that no goal looks at."""
    tables: list[Table] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    """Rows that are no figures, for the JSON file."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured, and why."""


def tabulate(title: str, what: str, figures: Figures, digits: int) -> Table:
    """A table with a row for each thing measured and a column for each server."""
    names = list(dict.fromkeys(name for column in figures.values() for name in column))
    rows = [
        [name, *(shown(column.get(name), digits) for column in figures.values())] for name in names
    ]
    return Table(title, [what, *figures], rows)


def shown(spread: Spread | None, digits: int) -> str:
    """The median, with the smallest and the largest in small print where they differ."""
    if spread is None:
        return "-"
    median, low, high = (f"{value:,.{digits}f}" for value in spread)
    return median if low == high else f"{median} <sub>{low} to {high}</sub>"

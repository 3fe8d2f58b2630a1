"""The results of one part for the report: figures with their spread, and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Failed(Exception):
    """A part cannot be measured, or would measure something else; the message says why."""


class Spread(NamedTuple):
    """The median over all repetitions, and the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        numbers = list(values)
        return cls(statistics.median(numbers), min(numbers), max(numbers))


#: Column (most often a server) -> case -> figure.
Figures = dict[str, dict[str, Spread]]


class Comparison(NamedTuple):
    """The cases of another revision's library, and the quotients: this checkout's / the other's."""

    before: dict[str, Spread]
    quotients: dict[str, Spread]


#: Server -> line -> number (such as that of threads) -> figure.
Lines = dict[str, dict[str, dict[int, Spread]]]


class Curve(NamedTuple):
    """Figures by a number: a table for each server and, with a file, a plot."""

    name: str
    """The key in the JSON file."""
    title: str
    axis: str
    """What the number counts."""
    unit: str
    lines: Lines
    more_is_better: bool = False
    file: str = ""
    """The name of the plot's file, without its suffix; empty if the tables are enough."""

    def tables(self, digits: int = 1) -> list[Table]:
        """Build a table for each server, with a row for each line."""
        tables = []
        for server, by_line in self.lines.items():
            numbers = sorted({number for points in by_line.values() for number in points})
            rows = [
                [line, *(shown(points.get(number), digits) for number in numbers)]
                for line, points in by_line.items()
            ]
            columns = [self.axis, *(f"{number:,}" for number in numbers)]
            tables.append(Table(f"{self.title}, {self.unit}: {server}", columns, rows))
        return tables


class Table(NamedTuple):
    """One table of the report."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """The results of one part, and a description of how it measures."""

    part: str
    title: str
    text: str
    figures: Figures = field(default_factory=dict)
    checks: Figures = field(default_factory=dict)
    """Figures without goals, which support the others."""
    compared: dict[str, Comparison] = field(default_factory=dict)
    """For each column of ``figures``, the library of ``--against``; empty without that option."""
    compared_checks: dict[str, Comparison] = field(default_factory=dict)
    """The same for ``checks``."""
    curves: list[Curve] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    """Rows for the JSON file that are not figures."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured, and why."""


def tabulate(title: str, what: str, figures: Figures, digits: int) -> Table:
    """Build a table with a row for each case and a column for each server."""
    names = list(dict.fromkeys(name for column in figures.values() for name in column))
    rows = [
        [name, *(shown(column.get(name), digits) for column in figures.values())] for name in names
    ]
    return Table(title, [what, *figures], rows)


def compare(
    title: str,
    what: str,
    figures: Figures,
    compared: dict[str, Comparison],
    digits: int = 2,
) -> Table:
    """Build a table with three columns for each server: before, now, and the quotient of these."""
    columns = [what]
    names: dict[str, None] = {}
    for server, comparison in compared.items():
        columns += [f"{server}: before", "now", "now / before"]
        names |= dict.fromkeys(comparison.before)
    rows = [
        [
            name,
            *(
                cell
                for server, (before, quotients) in compared.items()
                for cell in (
                    shown(before.get(name), digits),
                    shown(figures[server].get(name), digits),
                    shown(quotients.get(name), 2),
                )
            ),
        ]
        for name in names
    ]
    return Table(title, columns, rows)


def shown(spread: Spread | None, digits: int) -> str:
    """Write the median, with the smallest and the largest in small print if they differ."""
    if spread is None:
        return "-"
    median, low, high = (f"{value:,.{digits}f}" for value in spread)
    return median if low == high else f"{median} <sub>{low} to {high}</sub>"

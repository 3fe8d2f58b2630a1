"""Write a suggestion as tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from limiter import units
from limiter.policies import FixedWindow, Policy, TokenBucket
from limiter.simulate.suggest import Suggestion, Trial
from limiter.simulate.words import a, duration


class Table(NamedTuple):
    """A table with its title, its head, and its rows; the first cell of a row is its name."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(suggestion: Suggestion, unit: str) -> Iterator[Table]:
    """Yield the smallest limits, and the smallest bursts of other rates, if there are any."""
    period = duration(suggestion.period_us)
    share = f"{float(100 * suggestion.share):g}%"
    subjects = f"{share} of {suggestion.subjects:,} subjects"
    columns = ["never denied", "denied requests", f"{unit} in a second"]
    if suggestion.period_us > units.SECOND_US:
        columns.append(f"in {a(period)}")
    columns.append("possible")
    if suggestion.limits:
        rows = [_row(suggestion, trial, _limit(trial.policy)) for trial in suggestion.limits]
        if suggestion.present is not None:
            rows.insert(0, _row(suggestion, suggestion.present, _limit(suggestion.present.policy)))
            rows[0][0] = f"present {rows[0][0]}"
        yield Table(
            f"the smallest limits per {period} that never deny {subjects}",
            ["", "limit", *columns],
            rows,
        )
    if suggestion.bursts:
        rows = [_row(suggestion, trial, _burst(trial.policy)) for trial in suggestion.bursts]
        head = [f"rate per {period}", "burst", *columns]
        yield Table(
            f"the smallest burst of a token bucket at each rate that never denies {subjects}",
            head,
            rows,
        )


#: What the columns of a table are.
NOTES = (
    "Each limit was simulated alone on the log; the columns after it are what it did.",
    "In a second and in a period: the most that all subjects together were admitted, by whole seconds.",
    "Possible: what the subjects of the busiest period could take in it, if each took the most that its "
    "limit ever admits within a period.",
)


def _limit(policy: Policy) -> list[str]:
    name = policy.algorithm
    if isinstance(policy, FixedWindow) and policy.align:
        name += ", aligned"
    elif isinstance(policy, TokenBucket):
        name += ", gcra"
    burst = f" burst {policy.capacity:,}" if policy.capacity != policy.limit else ""
    return [name, f"{policy.limit:,}{burst}"]


def _burst(policy: Policy) -> list[str]:
    return [f"{policy.limit:,}", f"{policy.capacity:,}"]


def _row(suggestion: Suggestion, trial: Trial, named: list[str]) -> list[str]:
    longer = [f"{trial.peak.period:,}"] if suggestion.period_us > units.SECOND_US else []
    return [
        *named,
        f"{trial.never_denied / suggestion.subjects:.2%}",
        f"{trial.denied:,}",
        f"{trial.peak.second:,}",
        *longer,
        f"{trial.possible:,}",
    ]


def lines_of(suggestion: Suggestion, unit: str) -> Iterator[str]:
    """Yield the lines of the tables, for a terminal."""
    for place, table in enumerate(tables(suggestion, unit)):
        if place:
            yield ""
        yield f"{suggestion.name}: {table.title}"
        widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
        for first, *others in (table.head, *table.rows):
            cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
            yield "  ".join((f"{first:{widths[0]}}", *cells)).rstrip()
    yield from suggestion.notes

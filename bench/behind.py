"""Which figures are worse than in the last committed run of the same machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.sections import Section, Spread, Table, shown

_CHECKOUT = Path(__file__).parent.parent

#: The method itself is not more exact, also where all repetitions agree.
_NOISE = 0.02


class Slower(NamedTuple):
    """A figure that fell behind."""

    part: str
    server: str
    figure: str
    before: Spread
    now: Spread

    def as_json(self) -> dict[str, Any]:
        """Return it with plain spreads."""
        return self._asdict() | {"before": self.before._asdict(), "now": self.now._asdict()}


class Past(NamedTuple):
    """The comparison with earlier runs."""

    runs: dict[str, str]
    """The run's folder for each part that could be compared."""
    slower: list[Slower]
    reason: str = "No run of this machine is committed, so nothing was compared."
    """Why nothing was compared, if it is so."""

    def sentence(self) -> str:
        """Say what was compared."""
        if not self.runs:
            return self.reason
        runs = ", ".join(dict.fromkeys(self.runs.values()))
        return (
            f"Figures that are worse than in {runs}, by more than the spread of both runs: "
            f"{len(self.slower) or 'none'}."
        )

    def table(self) -> Table:
        """Build the table of what fell behind."""
        rows = [
            [slower.figure, slower.part, slower.server, *(shown(each, 2) for each in slower[3:])]
            for slower in self.slower
        ]
        return Table("", ["figure", "part", "server", "before", "now"], rows)

    def lines(self) -> list[str]:
        """Describe each figure in a line."""
        return [
            f"{slower.part}: {slower.figure} on {slower.server}: {slower.before.median:.2f} in "
            f"{self.runs[slower.part]}, {slower.now.median:.2f} now"
            for slower in self.slower
        ]


QUICK = Past({}, [], "A quick run is compared with no other: its figures are rough.")


def committed() -> list[Path]:
    """Return the results of all committed runs, the newest first; none without a git checkout."""
    words = ["git", "-C", str(_CHECKOUT), "log", "--format=", "--name-only", "--diff-filter=A"]
    try:
        words += ["--", "bench/results/*/results.json"]
        listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    paths = [_CHECKOUT / line for line in dict.fromkeys(listed.split("\n")) if line]
    return [path for path in paths if path.exists()]


def compare(sections: Iterable[Section], processor: str, results: Iterable[Path]) -> Past:
    """Compare each part with the newest full run of this machine that has it."""
    runs = [(path.parent.name, json.loads(path.read_text())) for path in results]
    same = [(name, run) for name, run in runs if _is_of(run, processor)]
    past = Past({}, [])
    for section in sections:
        before = next(
            (
                (name, run["sections"][section.part])
                for name, run in same
                if _has(run, section.part)
            ),
            None,
        )
        if before is None:
            continue
        name, old = before
        past.runs[section.part] = name
        past.slower.extend(_slower(section, old))
    return past


def _is_of(run: dict[str, Any], processor: str) -> bool:
    return "sections" in run and not run.get("quick") and run["machine"]["processor"] == processor


def _has(run: dict[str, Any], part: str) -> bool:
    section = run["sections"].get(part, {})
    return bool(section.get("figures") or section.get("curves"))


def _slower(section: Section, old: dict[str, Any]) -> Iterator[Slower]:
    for server, by_case in section.figures.items():
        for name, now in by_case.items():
            before = old["figures"].get(server, {}).get(name)
            if before is not None and _is_worse(now, Spread(**before)):
                yield Slower(section.part, server, name, Spread(**before), now)
    for curve in section.curves:
        then = old.get("curves", {}).get(curve.name, {}).get("lines", {})
        for server, by_line in curve.lines.items():
            for line, points in by_line.items():
                for number, now in points.items():
                    before = then.get(server, {}).get(line, {}).get(str(number))
                    if before is not None and _is_worse(
                        now, Spread(**before), more_is_better=curve.more_is_better
                    ):
                        figure = f"{line}, {number:,} {curve.axis}, {curve.unit}"
                        yield Slower(section.part, server, figure, Spread(**before), now)


def _is_worse(now: Spread, before: Spread, *, more_is_better: bool = False) -> bool:
    """Whether even the best repetition is worse than the worst one before."""
    if more_is_better:
        return now.high < before.low * (1 - _NOISE)
    return now.low > before.high * (1 + _NOISE)

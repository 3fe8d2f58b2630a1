"""A folder for each run: the figures as JSON, and a report with plots."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from bench import behind, goals, plots
from bench.sections import Comparison, Figures, Lines, Section, Spread, Table

RESULTS = Path(__file__).parent / "results"


class Run(NamedTuple):
    """The date, machine, load and length of a run."""

    date: str
    machine: dict[str, str]
    load: tuple[float, float]
    """Load average before and after the run. If it is not near 0 before, other work disturbed the run."""
    seconds: float
    quick: bool = False
    past: behind.Past = behind.QUICK
    """The comparison with earlier runs of this machine."""


def as_json(run: Run, sections: list[Section]) -> dict[str, Any]:
    """Return all figures; a spread has median, smallest and largest."""
    return {
        "date": run.date,
        "seconds": round(run.seconds, 1),
        "load_average": {"before": run.load[0], "after": run.load[1]},
        "quick": run.quick,
        "machine": run.machine,
        "behind": {
            "compared_with": run.past.runs,
            "figures": [slower.as_json() for slower in run.past.slower],
        },
        "goals": goals.judge(sections),
        "sections": {
            section.part: {
                "title": section.title,
                "figures": _plain(section.figures),
                "checks": _plain(section.checks),
                "curves": {
                    curve.name: {
                        "title": curve.title,
                        "axis": curve.axis,
                        "unit": curve.unit,
                        "more_is_better": curve.more_is_better,
                        "lines": _plain_lines(curve.lines),
                    }
                    for curve in section.curves
                },
                "against": {
                    "figures": _compared(section.compared),
                    "checks": _compared(section.compared_checks),
                },
                "records": section.records,
                "notes": section.notes,
            }
            for section in sections
        },
    }


def _plain(figures: Figures) -> dict[str, Any]:
    return {column: _plain_spreads(by_case) for column, by_case in figures.items()}


def _plain_spreads(by_case: dict[str, Spread]) -> dict[str, Any]:
    return {name: spread._asdict() for name, spread in by_case.items()}


def _plain_lines(lines: Lines) -> dict[str, Any]:
    return {
        server: {
            line: {str(number): spread._asdict() for number, spread in points.items()}
            for line, points in by_line.items()
        }
        for server, by_line in lines.items()
    }


def _compared(compared: dict[str, Comparison]) -> dict[str, Any]:
    return {
        column: {
            "before": _plain_spreads(comparison.before),
            "now_over_before": _plain_spreads(comparison.quotients),
        }
        for column, comparison in compared.items()
    }


def write(parent: Path, description: str, run: Run, sections: list[Section]) -> Path:
    """Write the folder, and return it."""
    folder = new_folder(parent, f"{run.date}-{description}")
    with (folder / "results.json").open("w") as file:
        json.dump(as_json(run, sections), file, indent=1)
        file.write("\n")
    pictures = {section.part: plots.draw(section, folder) for section in sections}
    (folder / "report.md").write_text(_markdown(run, sections, pictures))
    return folder


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder of that name, or with a number at the end if it exists already."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent / name} exists, and so do {name}-2 to {name}-999: remove some")


def _markdown(run: Run, sections: list[Section], pictures: dict[str, list[str]]) -> str:
    lines = [f"# Measured on {run.date}", ""]
    lines += [f"* {name}: {_code(name, value)}" for name, value in run.machine.items()]
    lines += [
        f"* load average before and after: {run.load[0]:.2f} and {run.load[1]:.2f}",
        f"* took {run.seconds:.0f} s",
        "",
        "What the columns mean, and how to repeat this: [bench/README.md](../../README.md).",
        "",
    ]
    judged = goals.judge(sections)
    if judged:
        lines += ["## Goals", ""]
        lines += [_sentence(judged), "", *markdown(goals.table(judged)), ""]
    lines += ["## Compared with earlier runs of this machine", "", run.past.sentence(), ""]
    if run.past.slower:
        lines += [*markdown(run.past.table()), ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.text, ""]
        lines += [f"*Not measured*: {note}\n" for note in section.notes]
        for picture in pictures[section.part]:
            lines += [f"![{section.title}]({picture})", ""]
        curves = [table for curve in section.curves for table in curve.tables()]
        for table in [*section.tables, *curves]:
            if table.rows:
                lines += [f"### {table.title}", "", *markdown(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _sentence(judged: list[dict[str, Any]]) -> str:
    missed = sum(judgement["verdict"] == goals.MISSED for judgement in judged)
    return f"{len(judged) - missed} met, {missed} not met. The goal is in parentheses."


def _code(name: str, value: str) -> str:
    return f"`{value}`" if name == "command" else value


def markdown(table: Table) -> list[str]:
    """Write the lines of a table."""

    def line(cells: Any) -> str:
        return "| " + " | ".join(re.sub(r"\|", r"\\|", str(cell)) for cell in cells) + " |"

    # Text to the left, figures to the right; a sentence may begin with a figure.
    first = table.rows[0]
    rules = [
        "--:" if re.match(r"[-+*\d]", str(cell)) and len(str(cell).split()) < 8 else "---"
        for cell in first
    ]
    rules[0] = "---"
    return [line(table.columns), line(rules), *map(line, table.rows)]

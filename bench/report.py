"""One folder for each run: the figures as JSON, and a report with plots for people."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from bench import goals, plots
from bench.sections import Figures, Section, Table

RESULTS = Path(__file__).parent / "results"


class Run(NamedTuple):
    """Everything about a run but its figures."""

    date: str
    machine: dict[str, str]
    load: tuple[float, float]
    """Before and after; much above zero before, and others were at work."""
    seconds: float


def as_json(run: Run, sections: list[Section]) -> dict[str, Any]:
    """All figures; a spread is median, smallest and largest."""
    return {
        "date": run.date,
        "seconds": round(run.seconds, 1),
        "load_average": {"before": run.load[0], "after": run.load[1]},
        "machine": run.machine,
        "goals": goals.judge(sections),
        "sections": {
            section.part: {
                "title": section.title,
                "figures": _plain(section.figures),
                "checks": _plain(section.checks),
                "records": section.records,
                "notes": section.notes,
            }
            for section in sections
        },
    }


def _plain(figures: Figures) -> dict[str, Any]:
    return {
        column: {name: spread._asdict() for name, spread in found.items()}
        for column, found in figures.items()
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
    """Make a folder of that name; of another one, where there is one already."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent / name} and 999 more")


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
    for section in sections:
        lines += [f"## {section.title}", "", section.text, ""]
        lines += [f"*Not measured*: {note}\n" for note in section.notes]
        for picture in pictures[section.part]:
            lines += [f"![{section.title}]({picture})", ""]
        for table in section.tables:
            if table.rows:
                lines += [f"### {table.title}", "", *markdown(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _sentence(judged: list[dict[str, Any]]) -> str:
    counts = {
        verdict: sum(found["verdict"] == verdict for found in judged)
        for verdict in ("met", "within 10 %", "not met")
    }
    return (
        f"{counts['met']} met, {counts['within 10 %']} within 10 %, {counts['not met']} not met. "
        "(Within 10 %: a script takes its arguments as plain decimal text, for which the goals of "
        "the server's time allow that much. Packed numbers would be faster, and nobody could type "
        "them.)"
    )


def _code(name: str, value: str) -> str:
    return f"`{value}`" if name == "command" else value


def markdown(table: Table) -> list[str]:
    """The lines of a table."""

    def line(cells: Any) -> str:
        return "| " + " | ".join(re.sub(r"\|", r"\\|", str(cell)) for cell in cells) + " |"

    # Text to the left, figures to the right.
    first = table.rows[0]
    rules = ["--:" if re.match(r"[-+*\d]", str(cell)) else "---" for cell in first]
    rules[0] = "---"
    return [line(table.columns), line(rules), *map(line, table.rows)]

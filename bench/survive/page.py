"""Write the table of ``docs/survival.md`` from a run.

``python -m bench.survive.page [FOLDER]``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from bench.page import fill
from bench.report import RESULTS, markdown
from bench.sections import Table
from bench.survive.report import explanation, table

PAGE = Path(__file__).parents[2] / "docs" / "survival.md"
BEGIN = "<!-- figures: begin; written by python -m bench.survive.page -->"


def block(name: str, run: dict[str, Any]) -> str:
    """Write what stands between the page's two marks."""
    machine, events, load = run["machine"], run["events"], run["load_average"]
    broken = [
        f"* {event['name']}, {event['server']}: {line}."
        for event in events
        for line in event["broken"]
    ]
    calls = sum(event["figures"]["calls"] for event in events)
    lines = [
        f"[This run](../bench/results/{name}/report.md) is of {run['date']}: {machine['processor']}, "
        f"{machine['python']}, {machine['servers']}. {calls:,} calls in {run['seconds'] / 60:.0f} minutes; "
        f"load average {load['before']:.1f} before, {load['after']:.1f} after.",
        "",
        "### The promises of the README",
        "",
        *markdown(Table("", ["promise", "figure"], run["promises"])),
        "",
        "### Events",
        "",
        "If several servers had the event, each figure is the worst of them.",
        "",
        *markdown(table(events)),
        "",
        *explanation(),
        "",
        "### Broken promises",
        "",
        *(broken or ["None in this run."]),
        "",
        f"![The course of each event](../bench/results/{name}/courses.png)",
        "",
    ]
    if run["not_measured"]:
        lines += ["Not measured:", "", *(f"* {note}" for note in run["not_measured"]), ""]
    return "\n".join(lines)


def newest() -> Path:
    """Return the folder of the newest run."""
    runs = [
        (run["date"], path.stat().st_mtime, path.parent)
        for path in RESULTS.glob("*-survival*/results.json")
        for run in [json.loads(path.read_text())]
    ]
    if not runs:
        raise click.ClickException("there is no run: run make survive")
    return max(runs)[-1]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
def page(folder: Path | None) -> None:
    """Write the figures of the run in FOLDER into docs/survival.md.

    Without FOLDER, these are the figures of the newest run under bench/results.

    Example: python -m bench.survive.page bench/results/2026-11-29-survival
    """
    folder = folder or newest()
    run = json.loads((folder / "results.json").read_text())
    PAGE.write_text(fill(PAGE.read_text(), block(folder.name, run), BEGIN))
    click.echo(f"{PAGE.name} shows {folder.name}", err=True)


if __name__ == "__main__":
    sys.exit(page(prog_name="python -m bench.survive.page"))

"""The folder of a run: the figures as JSON, and a report with pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import report
from bench.report import Run, markdown
from bench.sections import Table
from bench.survive import plots, promises
from bench.survive.trial import CUT, GRACE, Trial

COLUMNS = (
    "event",
    "store out, s",
    "undecided: there",
    "elsewhere",
    "all decided again after, s",
    "late",
    "slowest, ms",
    "charged twice",
    "worst window / bound",
    "descriptors before, after",
    "memory before, after, MiB",
)


def explanation() -> list[str]:
    """Return the meaning of each column."""
    return [
        "* **store out**: seconds in which a plain client of redis-py had no write executed, on the shard "
        "that was out longest. In parentheses: seconds of a fault that this client does not meet, such as "
        "a silent name server.",
        "* **undecided there**: calls without a decision that were made during an outage or fault, or "
        "before calls must be decided again. (If connections end at one moment, calls of that moment and "
        f"of the {CUT} s after it.) **Elsewhere**: all other calls without a decision.",
        "* **all decided again after**: seconds from the end of the outage or fault to the end of the last "
        "such call.",
        f"* **late**: calls that took longer than their timeout and a grace of {GRACE} s. Times in "
        "which the machine did not run the application are subtracted; a thread that only sleeps measures "
        "them. **Slowest** is the slowest call, with nothing subtracted.",
        "* **charged twice**: calls that the store charged more than once. Every other call has a subject "
        "of its own, whose count the store then reports. Counters beside the other limits must show no "
        "more than the allowed and the undecided calls.",
        "* **worst window / bound**: the most that one limit admitted in any window of its period, and the "
        "most that its algorithm may admit. Of eight limits, it is the one that came nearest to its bound. "
        "If the store can lose state, the bound counts again after each loss.",
        "* **descriptors, memory**: those of the application's process while it calls.",
    ]


def as_json(run: Run, trials: Iterable[Trial], not_measured: list[str]) -> dict[str, Any]:
    """Return all figures, and the course of each event."""
    trials = list(trials)
    return {
        "date": run.date,
        "seconds": round(run.seconds, 1),
        "load_average": {"before": run.load[0], "after": run.load[1]},
        "machine": run.machine,
        "promises": [list(row) for row in promises.rows(map(_event, trials))],
        "not_measured": not_measured,
        "events": [_event(trial) for trial in trials],
    }


def _event(trial: Trial) -> dict[str, Any]:
    figures = trial.figures
    return {
        "name": trial.event.name,
        "group": trial.event.group,
        "server": trial.server,
        "again_within": trial.event.again,
        "losses": trial.event.losses,
        "figures": {
            **{
                name: round(value, 4) if isinstance(value, float) else value
                for name, value in figures._asdict().items()
            },
            "charges": figures.charges._asdict(),
            "worst": [worst._asdict() for worst in figures.worst],
            "before": figures.before._asdict(),
            "after": figures.after._asdict(),
            "extra": {name: round(value, 3) for name, value in figures.extra.items()},
        },
        "broken": trial.broken,
        "course": trial.course,
    }


def write(
    parent: Path, description: str, run: Run, trials: list[Trial], not_measured: list[str]
) -> Path:
    """Write the folder, and return it."""
    folder = report.new_folder(parent, f"{run.date}-{description}")
    results = as_json(run, trials, not_measured)
    with (folder / "results.json").open("w") as file:
        json.dump(results, file)
        file.write("\n")
    pictures = plots.draw(results["events"], folder)
    (folder / "report.md").write_text(_markdown(results, pictures))
    return folder


def _markdown(results: dict[str, Any], pictures: list[str]) -> str:
    before, after = results["load_average"].values()
    broken = [
        f"* {event['name']}, {event['server']}: {line}"
        for event in results["events"]
        for line in event["broken"]
    ]
    lines = [f"# Survived on {results['date']}", ""]
    lines += [
        f"* {name}: {f'`{value}`' if name == 'command' else value}"
        for name, value in results["machine"].items()
    ]
    lines += [
        f"* load average before and after: {before:.2f} and {after:.2f}",
        f"* took {results['seconds']:.0f} s",
        "",
        "## Broken promises",
        "",
        *(broken or ["None."]),
        "",
        "## The promises of the README",
        "",
        *markdown(Table("", ["promise", "figure"], results["promises"])),
        "",
        "## Events",
        "",
        *explanation(),
        "",
    ]
    lines += [f"*Not measured*: {note}\n" for note in results["not_measured"]]
    for server in dict.fromkeys(event["server"] for event in results["events"]):
        events = [event for event in results["events"] if event["server"] == server]
        lines += [f"### {server}", "", *markdown(table(events)), ""]
    for title, picture in zip(("Courses", "Times of calls"), pictures, strict=False):
        lines += [f"![{title}]({picture})", ""]
    return "\n".join(lines).rstrip() + "\n"


def table(events: Iterable[dict[str, Any]]) -> Table:
    """Build the table of events; of equal names, each figure is the worst."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_name.setdefault(event["name"], []).append(event["figures"])
    return Table("", COLUMNS, [_row(name, figures) for name, figures in by_name.items()])


def _row(name: str, every: list[dict[str, Any]]) -> list[str]:
    def most(figure: str) -> Any:
        return max(figures[figure] for figures in every)

    fault = most("fault")
    worst = max((figures["worst"][0] for figures in every), key=promises.share)
    grown = max(every, key=lambda figures: figures["after"]["memory"] - figures["before"]["memory"])
    opened = max(
        every,
        key=lambda figures: figures["after"]["descriptors"] - figures["before"]["descriptors"],
    )
    return [
        name,
        f"{most('outage'):.2f}{f' ({fault:.2f})' if fault else ''}",
        f"{most('undecided_there'):,}",
        f"{most('undecided_elsewhere'):,}",
        f"{most('again'):.2f}" if most("undecided_there") else "-",
        f"{most('late'):,}",
        f"{1e3 * most('slowest'):.0f}",
        f"{max(figures['charges']['twice'] for figures in every):,}",
        f"{worst['admitted']} / {worst['bound']}",
        f"{opened['before']['descriptors']}, {opened['after']['descriptors']}",
        f"{grown['before']['memory'] / 2**20:.0f}, {grown['after']['memory'] / 2**20:.0f}",
    ]

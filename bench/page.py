"""Write the figures of a run into docs/how-fast.md: ``python -m bench.page [FOLDER]``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import click

from bench import (
    coroutine_rates,
    decision_service,
    flask_process,
    hot_keys,
    many_subjects,
    peers,
    shards,
    threads,
)
from bench.report import RESULTS, markdown
from bench.sections import Table

PAGE = Path(__file__).parent.parent / "docs" / "how-fast.md"
BEGIN = "<!-- figures: begin; written by python -m bench.page -->"
END = "<!-- figures: end -->"

#: The parts whose figures the page shows.
PARTS = ("hit", "async", "threads", "coroutines", "keys", "shards", "subjects", "flask")

#: The share of a core's time that the rule plans with: at more, calls wait for each other.
USE = 0.7
TARGET = 1_000_000

_PLOTS = {
    "threads": "Decisions a second by threads",
    "coroutines": "Decisions a second by tasks",
    "keys": "Decisions a second by hot keys",
    "subjects-latency": "Time of a hit by subjects",
}


class Results:
    """The figures of a run, of one server."""

    def __init__(self, name: str, run: dict[str, Any], server: str) -> None:
        self.name, self.run, self.server = name, run, server

    def at(self, part: str, curve: str, line: str, number: int | None = None) -> float | None:
        """Return a curve's median at a number, or at the largest one; None if it was not measured."""
        lines = self.run["sections"][part]["curves"][curve]["lines"].get(self.server, {})
        points = lines.get(line, {})
        if not points:
            return None
        point = points.get(str(max(map(int, points)) if number is None else number))
        return None if point is None else float(point["median"])

    def figures(self, part: str) -> dict[str, float]:
        """Return the medians of a part's figures."""
        figures = self.run["sections"].get(part, {}).get("figures", {})
        by_case = figures.get(self.server, {})
        return {name: float(spread["median"]) for name, spread in by_case.items()}


def servers(run: dict[str, Any]) -> list[str]:
    """Return the servers of a run."""
    return list(run["sections"]["threads"]["curves"]["rate"]["lines"])


def lacking(run: dict[str, Any]) -> list[str]:
    """Return the parts that a run has not measured."""
    sections = run.get("sections", {})
    return [
        part
        for part in PARTS
        if not (sections.get(part, {}).get("curves") or sections.get(part, {}).get("figures"))
    ]


def block(name: str, run: dict[str, Any]) -> str:
    """Write the page's figures."""
    every = [Results(name, run, server) for server in servers(run)]
    first = every[0]
    machine = run["machine"]
    lines = [
        f"[This run](../bench/results/{name}/report.md) is of {run['date']}: {machine['processor']}, "
        f"{machine['python']}, {machine['servers']}. A table that names no server is of {first.server}.",
        "",
        "### A call",
        "",
        "Time of a call / time of redis-py's own `evalsha` of `return 1`, client and server on one core.",
        "",
        *markdown(_calls(every)),
        "",
        "### Where a decision's time goes",
        "",
        "Microseconds of processor time of a decision, and how many decisions a second one core makes.",
        "",
        *markdown(_costs(first)),
        "",
        "### Many subjects",
        "",
        *markdown(_subjects(every)),
        "",
        *markdown(_memory(every)),
        "",
        *markdown(_clients(first)),
        "",
        "### A Flask route",
        "",
        "Time of a request / time of the route without a limit, under gunicorn with 16 threads; *in "
        "process* without a server, with a stub as the store.",
        "",
        *markdown(_flask(every)),
        "",
        *_decision_service(first),
        "### For a million decisions a second",
        "",
        f"The rule below with these figures. Each core is used to {USE:.0%}, and a shard has one core.",
        "",
        *markdown(_capacity(first)),
        "",
    ]
    for file, title in _PLOTS.items():
        lines += [f"![{title}](../bench/results/{name}/{file}.png)", ""]
    return "\n".join(lines)


#: Cases of single calls, as patterns, in the order of the table.
_CALLS = {
    "hit": (
        "fixed_window: hit, (allowed|denied)",
        "three limits: hit, (allowed|denied)",
        "fixed_window: .*(prepaid.*|from the denial cache)",
        "limits .*, fixed window: hit, allowed",
        "(throttled-py|pyrate-limiter).*",
    ),
    "async": (
        "fixed_window: hit, allowed, (one at a time|64 at once.*)",
        "redis.asyncio: .*",
    ),
}


def _calls(every: list[Results]) -> Table:
    """Return the cases of single calls."""
    figures = [
        {
            f"{name}{', coroutines' if part == 'async' else ''}": median
            for part, patterns in _CALLS.items()
            for pattern in patterns
            for name, median in results.figures(part).items()
            if re.fullmatch(pattern, name)
        }
        for results in every
    ]
    return _by_server("call", every, figures, 2)


def _by_server(
    what: str, every: list[Results], figures: list[dict[str, float]], digits: int
) -> Table:
    names = dict.fromkeys(name for by_case in figures for name in by_case)
    rows = [[name, *(_shown(by_case.get(name), digits) for by_case in figures)] for name in names]
    return Table("", [what, *(results.server for results in every)], rows)


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _places() -> Iterator[tuple[str, str, str, int]]:
    """Return a row's text, and its part, line and number."""
    yield "`Limiter.hit`, one thread", "threads", threads.OURS, 1
    yield "`Limiter.hit`, 64 threads", "threads", threads.OURS, 64
    yield "`AsyncLimiter.hit`, one task", "coroutines", coroutine_rates.DIFFERENT, 1
    yield "`AsyncLimiter.hit`, 64 tasks", "coroutines", coroutine_rates.DIFFERENT, 64
    yield "64 tasks, one key, joined", "coroutines", coroutine_rates.HOT, 64
    for line in (*hot_keys.THREADS, *hot_keys.COROUTINES):
        if "prepaid" in line or "cache" in line:
            yield f"{line}, one key", "keys", line, 1
    yield "three shards, 64 tasks", "shards", shards.MANY_TASKS, 3
    for line in (peers.BARE, *peers.NAMES):
        yield f"{line}, one thread", "threads", line, 1
    for line in (peers.BARE, *peers.NAMES):
        yield f"{line}, 64 tasks", "coroutines", line, 64


def _costs(results: Results) -> Table:
    rows = []
    for text, part, line, number in _places():
        client = results.at(part, "client", line, number)
        server = results.at(part, "server", line, number)
        if client is not None and server is not None:
            rows.append([text, *map(_us, (client, server)), *map(_a_second, (client, server))])
    columns = ["decision", "client, us", "server, us", "per client core", "per server core"]
    return Table("", columns, rows)


def _us(us: float) -> str:
    return f"{us:.2f}" if us < 10 else f"{us:.0f}"


def _a_second(us: float) -> str:
    """Write decisions a second and core; a side that does almost nothing is no bound."""
    return f"{float(f'{1e6 / us:.2g}'):,.0f}" if us >= 0.05 else "-"


def _subjects(every: list[Results]) -> Table:
    columns, found = ["subjects"], []
    for results in every:
        columns += [
            f"{results.server}: bytes a subject",
            "three limits",
            "hit, median us",
            "hit, 99 % us",
        ]
        for curve, line in (
            ("server_memory", many_subjects.ONE),
            ("server_memory", many_subjects.THREE),
            ("latency", many_subjects.HIT_P50),
            ("latency", many_subjects.HIT_P99),
        ):
            curves = results.run["sections"]["subjects"]["curves"]
            found.append(curves[curve]["lines"][results.server].get(line, {}))
    numbers = sorted({int(number) for points in found for number in points})
    rows = [
        [
            f"{number:,}",
            *(_shown(points.get(str(number), {}).get("median"), 0) for points in found),
        ]
        for number in numbers
    ]
    return Table("", columns, rows)


def _memory(every: list[Results]) -> Table:
    figures = [
        {name.partition(", bytes")[0]: size for name, size in results.figures("subjects").items()}
        for results in every
    ]
    return _by_server(
        f"bytes a subject, all in all, {many_subjects.COMPARED:,} subjects", every, figures, 0
    )


def _clients(results: Results) -> Table:
    """Return what a client remembers after hits on many subjects, in KiB."""
    lines = results.run["sections"]["subjects"]["curves"]["client_memory"]["lines"][results.server]
    rows = [
        [line, *(_shown(point["median"], 0) for point in points.values())]
        for line, points in lines.items()
    ]
    numbers = [f"{int(number):,}" for number in next(iter(lines.values()))]
    return Table("", ["KiB of a client after hits on as many subjects", *numbers], rows)


def _flask(every: list[Results]) -> Table:
    # Without a server, in one process: a column of its own.
    columns = [*every, Results(every[0].name, every[0].run, flask_process.COLUMN)]
    return _by_server("route", columns, [results.figures("flask") for results in columns], 2)


def _decision_service(results: Results) -> list[str]:
    """Return the lines about the decision service; none if it was not measured."""
    lines = []
    records = results.run["sections"].get("service", {}).get("records")
    if records:
        lines += [
            "### The decision service",
            "",
            "One worker with a core to itself, 32 kept connections (batches: 4). Us are of the worker's "
            "processor time. *Now / before* compares the time of a request with that of another revision.",
            "",
            *markdown(_requests(records, results.figures("service"))),
            "",
        ]
    routes = results.figures("forward-auth")
    if routes:
        rows = [[name, _shown(ratio, 2)] for name, ratio in routes.items()]
        columns = ["route through Traefik", "time of a request / without a limit"]
        lines += [*markdown(Table("", columns, rows)), ""]
    return lines


def _requests(records: list[dict[str, Any]], figures: dict[str, float]) -> Table:
    rows = [
        [
            record["case"],
            *(
                _shown(record[key]["median"], 0)
                for key in ("requests_per_second", "processor_us", "decisions_per_core")
            ),
            _shown(figures.get(f"{record['case']}{decision_service.BY_BEFORE}"), 2),
        ]
        for record in records
        if record["side"] == decision_service.NOW
    ]
    columns = ["request", "requests/s", "us a request", "decisions/s and core", "now / before"]
    return Table("", columns, rows)


def _capacity(results: Results) -> Table:
    uneven = max([1.0, *results.figures("shards").values()])
    rows = []
    for text, part, line, number in _places():
        if part == "shards" or line in (peers.BARE, *peers.NAMES) or text.endswith("one task"):
            continue
        client = results.at(part, "client", line, number)
        server = results.at(part, "server", line, number)
        if client is not None and server is not None:
            hot = part == "keys" or "joined" in text
            rows.append(
                [text, cores(client), "one key, one shard" if hot else cores(server * uneven)]
            )
    return Table("", ["calls", "cores of clients", "shards"], rows)


def cores(us: float) -> str:
    """Return the cores for a million decisions a second of ``us`` microseconds each."""
    return f"{ceil(TARGET * us / 1e6 / USE):,}"


def fill(text: str, figures: str, begin: str = BEGIN) -> str:
    """Replace what stands between the page's two marks."""
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise click.ClickException(f"the page lacks one of the marks {begin} and {END}")
    return f"{before}{begin}\n\n{figures}\n{END}{after}"


def newest() -> Path:
    """Return the folder of the newest full run that has all parts."""
    runs = [
        (run["date"], path.stat().st_mtime, path.parent)
        for path in RESULTS.glob("*/results.json")
        for run in [json.loads(path.read_text())]
        if "sections" in run and not run.get("quick") and not lacking(run)
    ]
    if not runs:
        raise click.ClickException("there is no full run with all parts: run make bench")
    return max(runs)[-1]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
def page(folder: Path | None) -> None:
    """Write the figures of a run in FOLDER into docs/how-fast.md.

    Without FOLDER, these are the figures of the newest full run under bench/results that has all parts.

    Example: python -m bench.page bench/results/2026-11-30-full
    """
    folder = folder or newest()
    run = json.loads((folder / "results.json").read_text())
    if missing := lacking(run):
        raise click.ClickException(
            f"{folder.name} has no figures of {', '.join(missing)}: run make bench without --only"
        )
    PAGE.write_text(fill(PAGE.read_text(), block(folder.name, run)))
    click.echo(f"{PAGE.name} shows {folder.name}", err=True)


if __name__ == "__main__":
    sys.exit(page(prog_name="python -m bench.page"))

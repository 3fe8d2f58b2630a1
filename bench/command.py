"""The command line of the benchmarks."""

from __future__ import annotations

import datetime
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import redis

from bench import (
    coroutines,
    flask_route,
    goals,
    hit_profile,
    hits,
    machine,
    memory,
    report,
    server_time,
    through_traefik,
)
from bench.effort import FULL, QUICK, Effort
from bench.sections import Failed, Section
from bench.stores import Program, programs
from limiter import LimiterError
from service.demo.servers import ServerError

PARTS: dict[str, Callable[[list[Program], Effort], Section]] = {
    "hit": hits.measure,
    "async": coroutines.measure,
    "cluster": hits.measure_cluster,
    "server": server_time.measure,
    "memory": memory.measure,
    "flask": flask_route.measure,
    "ab": lambda _, effort: through_traefik.measure(effort),
    "profile": hit_profile.measure,
}
#: Why a part cannot run here, of those that need more than the package.
_MISSING = {"ab": through_traefik.missing, "flask": flask_route.missing}
#: The profile explains figures; it is none of them.
USUAL = [part for part in PARTS if part != "profile"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Few repetitions: to see that it works, not to know.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(USUAL),
    help="This part; may be given several times. Without it: all of them.",
)
@click.option("--profile", is_flag=True, help="Show where the time of a hit goes, layer by layer.")
@click.option(
    "--server",
    type=click.Choice(["redis", "valkey"]),
    help="On this one alone. Without it: on both, as far as they are installed.",
)
@click.option("--name", "description", metavar="WORDS", help="Ends the name of the run's folder.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the run's folder goes.  [default: bench/results]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON as well.")
@click.option("--strict", is_flag=True, help="Fail where a goal is not met.")
def bench(
    quick: bool,
    only: tuple[str, ...],
    profile: bool,
    server: str | None,
    description: str | None,
    output: Path | None,
    as_json: bool,
    strict: bool,
) -> None:
    """Measure the limiter; write a report with plots, and its figures as JSON.

    Progress goes to standard error. A full run takes some minutes and wants a quiet machine.

    Example: limiter bench --quick --only hit

    Exit code: 0 when everything asked for was measured, 1 when something was not (or, with --strict, a
    goal was not met), 2 when the command line makes no sense.
    """
    chosen = [part for part in PARTS if part in only] or ([] if profile else USUAL)
    if profile:
        chosen.append("profile")
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("the plots need matplotlib: pip install -e '.[bench]'")
    try:
        found = programs(server)
    except ServerError as error:
        raise click.ClickException(str(error)) from None
    facts = machine.describe(found, _command())
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    began, load = time.monotonic(), machine.load()
    sections, failures = _measure(chosen, found, QUICK if quick else FULL)
    run = report.Run(date, facts, (load, machine.load()), time.monotonic() - began)
    name = description or "-".join((["quick"] if quick else []) + _named(chosen))
    folder = report.write(output or report.RESULTS, name.replace(" ", "-"), run, sections)
    if as_json:
        click.echo(json.dumps(report.as_json(run, sections), indent=1))
    missed = goals.missed(goals.judge(sections))
    for line in missed:
        click.echo(f"goal not met: {line}", err=True)
    for line in failures:
        click.echo(f"not measured: {line}", err=True)
    click.echo(f"{folder / 'report.md'}", err=True)
    sys.exit(1 if failures or (strict and missed) else 0)


def _measure(
    chosen: list[str], found: list[Program], effort: Effort
) -> tuple[list[Section], list[str]]:
    """Every part, whatever happens to the others."""
    sections, failures = [], []
    for part in chosen:
        reason = _MISSING[part]() if part in _MISSING else ""
        if not reason:
            try:
                sections.append(PARTS[part](found, effort))
                continue
            except (Failed, LimiterError, ServerError, redis.RedisError) as error:
                reason = str(error)
        failures.append(f"{part}: {reason}")
        sections.append(Section(part, f"{part}: not measured", "", notes=[reason]))
    return sections, failures


def _named(chosen: list[str]) -> list[str]:
    return ["full"] if chosen == USUAL else chosen


def _command() -> str:
    """What was typed, without the folder on this machine to which the results go."""
    words, hidden = ["python", "-m", "bench"], False
    for word in sys.argv[1:]:
        if not hidden and not word.startswith("--output"):
            words.append(word)
        hidden = word == "--output"
    return " ".join(words)

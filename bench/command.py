"""The command line of the benchmarks."""

from __future__ import annotations

import datetime
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import redis

from bench import (
    behind,
    budgets,
    coroutine_rates,
    coroutines,
    decision_service,
    flask_route,
    forward_auth,
    goals,
    hit_profile,
    hits,
    hot_keys,
    machine,
    many_subjects,
    memory,
    report,
    server_time,
    shards,
    simulate,
    threads,
    through_traefik,
    wrk,
)
from bench.against import Library, NoLibrary, library
from bench.effort import FULL, QUICK, Effort
from bench.sections import Failed, Section
from bench.stores import Program, programs
from limiter import LimiterError
from service.demo.servers import ServerError

PARTS: dict[str, Callable[[list[Program], Effort, Library | None], Section]] = {
    "hit": hits.measure,
    "async": coroutines.measure,
    "cluster": hits.measure_cluster,
    "threads": lambda servers, effort, _: threads.measure_threads(servers, effort),
    "coroutines": lambda servers, effort, _: coroutine_rates.measure_coroutines(servers, effort),
    "keys": lambda servers, effort, _: hot_keys.measure_keys(servers, effort),
    "shards": lambda servers, effort, _: shards.measure_shards(servers, effort),
    "server": server_time.measure,
    "memory": memory.measure,
    "subjects": lambda servers, effort, _: many_subjects.measure_subjects(servers, effort),
    "flask": lambda servers, effort, _: flask_route.measure(servers, effort),
    "ab": lambda _servers, effort, _: through_traefik.measure(effort),
    "service": decision_service.measure,
    "forward-auth": lambda servers, effort, _: forward_auth.measure(servers, effort),
    "budgets": lambda servers, effort, _: budgets.measure(servers, effort),
    "simulate": lambda _servers, effort, _: simulate.measure(effort),
    "profile": lambda servers, effort, _: hit_profile.measure(servers, effort),
}
#: For parts that cannot measure another library beside the checkout's: the reason.
_ALONE = dict.fromkeys(
    ("threads", "coroutines", "keys", "shards", "subjects"),
    "its figures are of whole runs, not of single calls between two of another",
) | {
    "flask": "the applications under gunicorn are this checkout's, and import its library",
    "ab": "the demo is this checkout's, and imports its library",
    "forward-auth": "Traefik's configuration is this checkout's, and so are the services",
    "budgets": "the proxy is this checkout's, and imports its library",
    "simulate": "no other revision reads the same logs",
    "profile": "it calls internals of the library, which differ between revisions",
}
#: For parts that need another program: a function that says why the part cannot run.
_MISSING = {
    "ab": through_traefik.missing,
    "flask": through_traefik.missing,
    "service": wrk.missing,
    "forward-auth": wrk.missing,
}
#: The profile runs only on request: it explains the other parts' figures.
USUAL = [part for part in PARTS if part != "profile"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quick",
    is_flag=True,
    help="Few repetitions: shows that everything works; the figures are rough.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([part for part in PARTS if part != "profile"]),
    help="Measure this part only; may be repeated.  [default: all parts]",
)
@click.option("--profile", is_flag=True, help="Measure the time of each layer of a hit.")
@click.option(
    "--server",
    type=click.Choice(["redis", "valkey"]),
    help="Measure on this server only.  [default: each that is installed]",
)
@click.option(
    "--against",
    metavar="REVISION",
    help="Measure the library of this git revision too, in the same run: before, and now.",
)
@click.option("--name", "description", metavar="WORDS", help="The end of the run folder's name.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the run's folder.  [default: bench/results]",
)
@click.option("--json", "as_json", is_flag=True, help="Also print the JSON.")
@click.option("--strict", is_flag=True, help="Fail if a goal is not met, or a figure fell behind.")
def bench(
    quick: bool,
    only: tuple[str, ...],
    profile: bool,
    server: str | None,
    against: str | None,
    description: str | None,
    output: Path | None,
    as_json: bool,
    strict: bool,
) -> None:
    """Measure the limiter; write a report with plots, and its figures as JSON.

    Progress goes to standard error. A full run takes some minutes, and needs a machine without other work.

    Example: limiter bench --quick --only hit

    With --against, the report also has the figures of that revision's library, and the quotients. Both
    libraries are measured on the same servers and core, in the same repetitions.

    Example: limiter bench --only hit --against main

    A figure falls behind if it is worse than in the last committed run of the same machine, by more than
    the spread of both runs. The command reports each one.

    Exit code: 0 if every requested part was measured, 1 if a part was not (or, with --strict, a goal was
    not met or a figure fell behind), 2 for a mistake in the command.
    """
    chosen = [part for part in PARTS if part in only] or ([] if profile else USUAL)
    if profile:
        chosen.append("profile")
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("the plots need matplotlib: pip install -e '.[bench]'")
    try:
        servers = programs(server)
    except ServerError as error:
        raise click.ClickException(str(error)) from None
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    with _library(against) as before:
        facts = machine.describe(
            servers, machine.command_line("bench"), before and f"{before.commit} ({against})"
        )
        began, load = time.monotonic(), machine.load()
        sections, failures = _measure(chosen, servers, QUICK if quick else FULL, before)
    past = (
        behind.compare(sections, facts["processor"], behind.committed())
        if not quick
        else behind.QUICK
    )
    loads, seconds = (load, machine.load()), time.monotonic() - began
    run = report.Run(date, facts, loads, seconds, quick, past)
    name = description or "-".join((["quick"] if quick else []) + _named(chosen))
    folder = report.write(output or report.RESULTS, name.replace(" ", "-"), run, sections)
    if as_json:
        click.echo(json.dumps(report.as_json(run, sections), indent=1))
    missed = goals.missed(goals.judge(sections))
    for line in missed:
        click.echo(f"goal not met: {line}", err=True)
    for line in past.lines():
        click.echo(f"fell behind: {line}", err=True)
    for line in failures:
        click.echo(f"not measured: {line}", err=True)
    click.echo(f"{folder / 'report.md'}", err=True)
    sys.exit(1 if failures or (strict and (missed or past.slower)) else 0)


@contextmanager
def _library(revision: str | None) -> Iterator[Library | None]:
    if revision is None:
        yield None
        return
    with ExitStack() as stack:
        try:
            before = stack.enter_context(library(revision))
        except NoLibrary as error:
            raise click.BadParameter(str(error), param_hint="--against") from None
        yield before


def _measure(
    chosen: list[str], servers: list[Program], effort: Effort, before: Library | None
) -> tuple[list[Section], list[str]]:
    """Measure every part, also after another part failed."""
    sections, failures = [], []
    for part in chosen:
        reason = _MISSING[part]() if part in _MISSING else ""
        if not reason:
            try:
                section = PARTS[part](servers, effort, before)
                if before is not None and part in _ALONE:
                    section.notes.append(f"the library of {before.commit}: {_ALONE[part]}.")
                sections.append(section)
                continue
            except (Failed, NoLibrary, LimiterError, ServerError, redis.RedisError) as error:
                reason = str(error)
        failures.append(f"{part}: {reason}")
        sections.append(Section(part, f"{part}: not measured", "", notes=[reason]))
    return sections, failures


def _named(chosen: list[str]) -> list[str]:
    return ["full"] if chosen == USUAL else chosen

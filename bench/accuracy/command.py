"""The command line of the accuracy measurements."""

from __future__ import annotations

import datetime
import importlib.util
import json
import sys
import time
from pathlib import Path

import click
import redis

from bench import machine, report
from bench.accuracy import contenders, prepaid, realtime, simulated
from bench.accuracy.effort import FULL, QUICK, Effort
from bench.accuracy.report import Results, as_json, write
from bench.effort import progress
from bench.stores import Program, programs
from limiter import LimiterError
from service.demo.servers import Server, ServerError

PARTS = ("simulated", "real", "prepaid")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quick", is_flag=True, help="A small limit and short loads: shows that everything works."
)
@click.option(
    "--only",
    type=click.Choice(PARTS),
    help="In simulated time (our algorithms), in real time (all libraries), or prepaid units of four "
    "processes.  [default: all]",
)
@click.option(
    "--server",
    type=click.Choice(["redis", "valkey"]),
    help="Measure on this server only.  [default: simulated time on each that is installed, real time "
    "on the first]",
)
@click.option("--name", "description", metavar="WORDS", help="The end of the run folder's name.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the run's folder.  [default: bench/results]",
)
@click.option("--json", "as_text", is_flag=True, help="Also print the JSON.")
def accuracy(
    quick: bool,
    only: str | None,
    server: str | None,
    description: str | None,
    output: Path | None,
    as_text: bool,
) -> None:
    """Measure the accuracy of the algorithms, and of other libraries that are installed.

    For each: the most that it admits in a period, how much less than its limit it admits under overload,
    and the error of retry_after. Progress goes to standard error; a full run takes three minutes.

    Exit code: 0 if our algorithms kept their bounds and no retry_after was too early, 1 if not (or if
    nothing could be measured), 2 for a mistake in the command.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("the plots need matplotlib: pip install -e '.[bench]'")
    effort = QUICK if quick else FULL
    results = Results(effort)
    try:
        servers = programs(server)
        facts = machine.describe(servers, machine.command_line("bench.accuracy"))
        facts["packages"] += "".join(
            f", {name} {version}"
            for name, version in contenders.versions().items()
            if name not in facts["packages"]
        )
        facts.pop("ab", None)
        date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        began, load = time.monotonic(), machine.load()
        if only in (None, "simulated"):
            for program in servers:
                _simulated(program, effort, results)
        if only in (None, "prepaid"):
            _prepaid(servers[0], effort, results)
        if only in (None, "real"):
            _real(servers[0], effort, list(realtime.QUICKLY if quick else realtime.LOADS), results)
    except (LimiterError, ServerError, redis.RedisError) as error:
        raise click.ClickException(str(error)) from None
    run = report.Run(date, facts, (load, machine.load()), time.monotonic() - began)
    words = [*(["quick"] if quick else []), "accuracy", *([only] if only else [])]
    name = description or "-".join(words)
    folder = write(output or report.RESULTS, name.replace(" ", "-"), run, results)
    if as_text:
        click.echo(json.dumps(as_json(run, results), indent=1))
    for line in results.violations:
        click.echo(f"wrong: {line}", err=True)
    for line in results.notes:
        click.echo(f"not measured: {line}", err=True)
    click.echo(f"{folder / 'report.md'}", err=True)
    sys.exit(1 if results.violations else 0)


def _simulated(program: Program, effort: Effort, results: Results) -> None:
    """Measure our algorithms in simulated time, to the microsecond."""
    every = [
        (name, policy)
        for limit, period_us in [(effort.limit, effort.period_us), *effort.others]
        for name, policy in simulated.policies(limit, period_us)
    ]
    measured = results.exact.setdefault(program.name, [])
    steps = len(every) * len(simulated.LOADS) + 1
    with (
        Server(program.path) as server,
        progress(f"simulated time on {program.name}", steps) as step,
    ):
        for name, policy in every:
            loads = simulated.measure(server.url, policy, effort, step)
            measured.append((name, policy, loads))
            results.violations += simulated.violations(f"{name} on {program.name}", policy, loads)
        leases = simulated.measure_leases(server.url, effort.limit, effort)
        results.leases[program.name] = leases
        results.violations += simulated.lease_violations(effort.limit, leases)
        step()


def _prepaid(program: Program, effort: Effort, results: Results) -> None:
    """Measure prepaid units in real time."""
    results.prepaid_server = program.name
    with (
        Server(program.path) as server,
        progress(f"prepaid units on {program.name}", prepaid.steps()) as step,
    ):
        results.prepaid = prepaid.measure(server.url, effort, step)
    results.violations += prepaid.violations(results.prepaid)


def _real(program: Program, effort: Effort, names: list[str], results: Results) -> None:
    """Measure all contenders in real time, side by side."""
    results.real_server = program.name
    with Server(program.path) as server:

        def make(key: str) -> list[contenders.Contender]:
            return contenders.contenders(server.url, key, effort.limit, effort.period_us)

        unused = make("unused")
        steps = realtime.steps(len(unused), names)
        with progress(f"real time on {program.name}", steps) as step:
            by_title = realtime.measure(make, effort, names, step)
    results.real = [(contender, by_title[realtime.title(contender)]) for contender in unused]
    for contender, behaviour in results.real:
        results.violations += realtime.violations(contender, behaviour)
    results.notes += [
        f"the library {name} is not installed (pip install {name})" for name in contenders.missing()
    ]

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
from bench.accuracy import contenders, realtime, simulated
from bench.accuracy.effort import FULL, QUICK, Effort
from bench.accuracy.report import Results, as_json, write
from bench.effort import progress
from bench.stores import Program, programs
from limiter import LimiterError
from service.demo.servers import Server, ServerError

PARTS = ("simulated", "real")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A small limit and short loads: to see that it works.")
@click.option(
    "--only",
    type=click.Choice(PARTS),
    help="In simulated time (ours alone), or in real time (everybody). Without it: both.",
)
@click.option(
    "--server",
    type=click.Choice(["redis", "valkey"]),
    help="On this one alone. Without it: simulated time on both, as far as they are installed, and "
    "real time on the first.",
)
@click.option("--name", "description", metavar="WORDS", help="Ends the name of the run's folder.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the run's folder goes.  [default: bench/results]",
)
@click.option("--json", "as_text", is_flag=True, help="Print the JSON as well.")
def accuracy(
    quick: bool,
    only: str | None,
    server: str | None,
    description: str | None,
    output: Path | None,
    as_text: bool,
) -> None:
    """Measure how exact the algorithms are, and those of other libraries that are installed.

    The most that each admits in a period, how much less than its rate, and whether retry_after is
    true. Progress goes to standard error; a full run takes two minutes.

    Exit code: 0 when all of ours kept their bounds and told the truth, 1 when one did not (or nothing
    could be measured), 2 when the command line makes no sense.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("the plots need matplotlib: pip install -e '.[bench]'")
    effort = QUICK if quick else FULL
    results = Results(effort)
    try:
        found = programs(server)
        facts = machine.describe(found, _command())
        facts["packages"] += "".join(
            f", {name} {version}"
            for name, version in contenders.versions().items()
            if name not in facts["packages"]
        )
        facts.pop("ab", None)
        date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        began, load = time.monotonic(), machine.load()
        if only != "real":
            for program in found:
                _simulated(program, effort, results)
        if only != "simulated":
            _real(found[0], effort, list(realtime.QUICKLY if quick else realtime.LOADS), results)
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
    """Ours, to the microsecond."""
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


def _real(program: Program, effort: Effort, names: list[str], results: Results) -> None:
    """Everybody, side by side."""
    results.real_server = program.name
    with Server(program.path) as server:

        def make(key: str) -> list[contenders.Contender]:
            return contenders.contenders(server.url, key, effort.limit, effort.period_us)

        everybody = make("nobody")
        steps = realtime.steps(len(everybody), names)
        with progress(f"real time on {program.name}", steps) as step:
            found = realtime.measure(make, effort, names, step)
    results.real = [(one, found[realtime.title(one)]) for one in everybody]
    for one, what in results.real:
        results.violations += realtime.violations(one, what)
    results.notes += [
        f"the peer {name} is not installed (pip install {name})" for name in contenders.missing()
    ]


def _command() -> str:
    """What was typed, without the folder on this machine to which the results go."""
    words, hidden = ["python", "-m", "bench.accuracy"], False
    for word in sys.argv[1:]:
        if not hidden and not word.startswith("--output"):
            words.append(word)
        hidden = word == "--output"
    return " ".join(words)

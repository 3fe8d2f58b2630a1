"""The command line of ``make survive``."""

from __future__ import annotations

import datetime
import importlib.util
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import redis

from bench import machine, report
from bench.report import Run
from bench.sections import Failed
from bench.stores import Program, programs
from bench.survive import report as survival
from bench.survive import soak
from bench.survive.application import KINDS, TIMEOUT
from bench.survive.events import EVENTS, Event
from bench.survive.stages import NotPossible
from bench.survive.trial import Trial, run
from limiter import LimiterError
from service.demo.servers import ServerError

_GROUPS = (*dict.fromkeys(event.group for event in EVENTS), "soak")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--minutes",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 24 * 60),
    help="The length of the soak with random faults, over all servers; 0: no soak.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="WORDS",
    help=f"Only events with these words in their name, or of this group ({', '.join(_GROUPS)}); "
    "may be repeated.",
)
@click.option(
    "--server",
    type=click.Choice(["redis", "valkey"]),
    help="Use this server only.  [default: each that is installed]",
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="Call by threads (Limiter) or by coroutines (AsyncLimiter) only.  [default: both at once]",
)
@click.option(
    "--timeout",
    default=TIMEOUT,
    show_default=True,
    type=click.FloatRange(0.01, 10),
    help="Seconds for a whole decision.",
)
@click.option("--seed", type=int, help="The seed of the soak's faults.  [default: drawn]")
@click.option("--name", "description", metavar="WORDS", help="The end of the run folder's name.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the run's folder.  [default: bench/results]",
)
@click.option("--json", "as_text", is_flag=True, help="Also print the JSON.")
def survive(
    minutes: float,
    only: tuple[str, ...],
    server: str | None,
    kind: str | None,
    timeout: float,
    seed: int | None,
    description: str | None,
    output: Path | None,
    as_text: bool,
) -> None:
    """Let faults happen to real servers while an application calls, and check every promise.

    Writes a report with pictures, and its figures as JSON. Progress goes to standard error. All events
    on two servers, and a soak of a minute, take about ten minutes.

    Example: make survive SURVIVE="--only topology --server redis"

    Exit code: 0 if every promise was kept, 1 if not (or an event could not be made), 2 for a mistake in
    the command.
    """
    try:
        servers = programs(server)
    except ServerError as error:
        raise click.ClickException(str(error)) from None
    seed = random.randrange(10**6) if seed is None else seed
    events = [
        event
        for event in (
            *EVENTS,
            *(soak.events_of(60 * minutes / len(servers), seed) if minutes else ()),
        )
        if not only or any(words == event.group or words in event.name for words in only)
    ]
    if not events:
        raise click.BadParameter(
            f"no event has these words in its name; groups are {', '.join(_GROUPS)}",
            param_hint="--only",
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("the plots need matplotlib: pip install -e '.[bench]'")
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    facts = machine.describe(servers, machine.command_line("bench.survive")) | {
        "seed of the soak": str(seed)
    }
    facts["timeout of a call"] = f"{timeout:g} s"
    facts.pop("ab", None)
    began, load = time.monotonic(), machine.load()
    trials, notes = _run(events, servers, (kind,) if kind else KINDS, timeout)
    survived = Run(date, facts, (load, machine.load()), time.monotonic() - began)
    name = (description or "survival").replace(" ", "-")
    folder = survival.write(output or report.RESULTS, name, survived, trials, notes)
    if as_text:
        click.echo((folder / "results.json").read_text())
    broken = [
        f"{trial.event.name}, {trial.server}: {line}" for trial in trials for line in trial.broken
    ]
    made = {trial.event for trial in trials}
    broken += [f"{event.name}: it could not be made" for event in events if event not in made]
    for line in broken:
        click.echo(f"broken: {line}", err=True)
    click.echo(f"{folder / 'report.md'}", err=True)
    sys.exit(1 if broken else 0)


def _run(
    events: Sequence[Event], servers: Sequence[Program], kinds: tuple[str, ...], timeout: float
) -> tuple[list[Trial], list[str]]:
    """Run every event on every server, also after one could not be made."""
    trials, notes = [], []
    for number, (program, event) in enumerate(
        ((program, event) for program in servers for event in events), 1
    ):
        click.echo(
            f"{number:3} of {len(servers) * len(events)}  {program.name}: {event.name} ... ",
            err=True,
            nl=False,
        )
        try:
            trial = run(event, program, kinds, timeout)
        except NotPossible as error:
            notes.append(f"{event.name}, {program.name}: {error}.")
            click.echo(f"not possible: {error}", err=True)
        except (Failed, AssertionError, LimiterError, ServerError, redis.RedisError) as error:
            notes.append(f"{event.name}, {program.name}: {type(error).__name__}: {error}.")
            click.echo(f"failed: {error}", err=True)
        else:
            trials.append(trial)
            click.echo(_line(trial), err=True)
    return trials, notes


def _line(trial: Trial) -> str:
    figures = trial.figures
    words = (
        f"{figures.outage:.2f} s out, {figures.undecided_there} undecided, "
        f"{figures.undecided_elsewhere} elsewhere"
    )
    return f"{words}; BROKEN: {'; '.join(trial.broken)}" if trial.broken else words

"""Run simulated schedules.

``python -m tests.simulation --count 100000`` runs many, and ``--seed 7 --trace`` shows all events of one.
"""

from __future__ import annotations

import gc
import sys
import time

import click

from tests.simulation.checks import broken
from tests.simulation.runs import run

#: Seconds between two lines of progress.
_PROGRESS_EVERY = 10.0


@click.command()
@click.option("--seed", type=click.IntRange(min=0), help="Run this schedule alone.")
@click.option("--trace", is_flag=True, help="Show all events of each schedule, also of sound ones.")
@click.option(
    "--first", default=0, show_default=True, type=click.IntRange(min=0), help="The first seed."
)
@click.option(
    "--count", default=1_000, show_default=True, type=click.IntRange(min=1), help="How many seeds."
)
def main(seed: int | None, trace: bool, first: int, count: int) -> None:
    """Run simulated schedules of the clients, and show each that breaks a promise."""
    seeds = range(first, first + count) if seed is None else [seed]
    gc.freeze()
    began = shown = time.monotonic()
    failed = 0
    for done, each in enumerate(seeds, 1):
        record = run(each)
        problems = broken(record)
        failed += bool(problems)
        if trace or (problems and seed is not None):
            click.echo("\n".join(record.world.trace()))
        for problem in problems:
            click.echo(f"seed {each}: {problem}")
        if problems and seed is None:
            click.echo(f"  python -m tests.simulation --seed {each} --trace")
        if time.monotonic() - shown >= _PROGRESS_EVERY:
            shown = time.monotonic()
            rate = done / (shown - began)
            click.echo(
                f"{done:,} of {len(seeds):,} schedules, {rate:.0f} a second, {failed} broken"
            )
    seconds = time.monotonic() - began
    click.echo(f"{len(seeds):,} schedules in {seconds:.1f} s, {failed} broken")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Run the tests that depend on timing again and again, every other round on a busy machine.

``make repeat``, or ``make repeat REPEAT="--rounds 4"``. Exit code 1 when any round failed: what failed is
listed, with the round and whether the machine was kept busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
DEFAULT = ("tests/concurrency", "tests/transport", "tests/e2e", "tests/machines")


def _spin(parent: int) -> None:
    while os.getppid() == parent:  # a parent that was killed cannot stop this process
        pass


@click.command()
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.argument("tests", nargs=-1)
def repeat(rounds: int, tests: tuple[str, ...]) -> None:
    """Repeat TESTS (those of concurrency, transport, demo and state machines) for ROUNDS rounds."""
    failed: list[str] = []
    for number in range(1, rounds + 1):
        busy = number % 2 == 0
        context = get_context("spawn")
        spinning = [
            context.Process(target=_spin, args=(os.getpid(),), daemon=True)
            for _ in range(os.cpu_count() or 1)
        ]
        if busy:
            for process in spinning:
                process.start()
        began = time.monotonic()
        try:
            run = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "--no-header", *(tests or DEFAULT)],
                cwd=ROOT,
                env={"TEST_DEPTH": "2", **os.environ},
                capture_output=True,
                text=True,
            )
        finally:
            for process in spinning:
                if process.is_alive():
                    process.kill()
                    process.join()
        how = "busy" if busy else "quiet"
        lines = run.stdout.strip().splitlines() or [run.stderr.strip()]
        click.echo(
            f"round {number}/{rounds} ({how}, {time.monotonic() - began:.0f} s): {lines[-1]}"
        )
        if run.returncode:
            broken = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            found = [f"round {number} ({how}): {line}" for line in broken or lines[-20:]]
            click.echo("\n".join(found))
            failed += found
    for line in failed:
        click.echo(line, err=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    repeat()

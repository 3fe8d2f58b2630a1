"""Thousands of simulated schedules break no promise, and a seed always leads to the same events."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.checks import broken
from tests.simulation.runs import run
from tests.simulation.support import COUNT

#: Each test runs one part of them, so that several processes share the work.
PART = 250


@pytest.mark.slow(3)
@pytest.mark.parametrize("first", range(0, COUNT, PART))
def test_no_schedule_breaks_a_promise(first: int) -> None:
    """Each message has the command that replays its schedule."""
    problems = {seed: found for seed in range(first, first + PART) if (found := broken(run(seed)))}
    assert not problems, "\n".join(
        f"python -m tests.simulation --seed {seed} --trace: {found}"
        for seed, found in problems.items()
    )


@pytest.mark.slow
def test_a_seed_always_leads_to_the_same_events() -> None:
    """Also in another process, where sets have another order."""
    seeds = range(12)
    here = [run(seed).world.trace() for seed in seeds]
    assert here == [run(seed).world.trace() for seed in seeds]
    arguments = ["--count", str(len(seeds)), "--trace"]
    for hash_seed in ("1", "2"):
        other = subprocess.run(
            [sys.executable, "-m", "tests.simulation", *arguments],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert other.stdout.splitlines()[:-1] == [line for trace in here for line in trace]


@pytest.mark.slow
def test_the_schedules_have_many_ends() -> None:
    """They are not all quiet: some calls are decided, some fail, some are decided without the store."""
    ends = {type(outcome.result).__name__ for seed in range(100) for outcome in run(seed).outcomes}
    assert {"Decision", "MarkedDecision", "StoreUnavailable", "CancelledError"} <= ends


@pytest.mark.slow
def test_a_broken_schedule_is_printed_with_its_command() -> None:
    """The command replays it; with the fault planted in the process that runs it."""
    code = (
        "from tests.simulation.__main__ import main\n"
        "from tests.simulation.faults import FAULTS, planted\n"
        "with planted(next(fault for fault in FAULTS if 'newest' in fault.name)):\n"
        "    main(['--count', '3'])\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert "  python -m tests.simulation --seed " in shown.stdout

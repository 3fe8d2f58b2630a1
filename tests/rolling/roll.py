"""Rolling deploys: workers of two revisions call the same limiters, and replace each other under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from bench.against import extract

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("worker.py")
WORKERS = 2
#: Seconds for which a new worker runs beside the one that it replaces, and seconds until the next change.
TOGETHER, APART = 0.5, 0.3
#: The most seconds that a worker may take to end.
PATIENCE = 60.0


class Hit(NamedTuple):
    """One decided hit: the store's time, the case, the cost, and the reply but for the time.

    ``sent`` and ``received`` are monotonic nanoseconds of the machine.
    """

    decided_us: int
    case: str
    cost: int
    reply: tuple[int, ...]
    sent: int
    received: int
    side: str

    @property
    def granted(self) -> int:
        """Units that the hit took from each policy."""
        return self.reply[0]


class Record(NamedTuple):
    """What all workers of a roll did."""

    hits: list[Hit]
    held: list[tuple[int, int]]
    charged: int
    errors: list[str]

    def of(self, case: str) -> list[Hit]:
        """The hits of one case."""
        return [hit for hit in self.hits if hit.case == case]


class Worker:
    """A process with the library in ``library``, which calls until it is stopped."""

    def __init__(self, side: str, library: Path, store: str, cases: Mapping[str, Any]) -> None:
        self.side = side
        self._messages = TemporaryFile("w+")  # noqa: SIM115 (`close` closes it)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", PROGRAM, store, json.dumps(cases)],
            env=os.environ | {"PYTHONPATH": str(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
        )

    def wait(self) -> None:
        """Wait until its limiters are open, and it calls."""
        assert self._process.stdout
        ready = self._process.stdout.readline()
        assert ready == "ready\n", self._said()

    def stop(self) -> Record:
        """End it as its last calls are decided; return what it did."""
        output, _ = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, self._said()
        record = json.loads(output)
        hits = [
            Hit(reply[-1], case, cost, tuple(reply[:-1]), sent, received, self.side)
            for case, cost, reply, sent, received in record["hits"]
        ]
        said = self._said()
        errors = record["errors"] + ([said] if said else [])
        return Record(hits, [tuple(each) for each in record["held"]], record["charged"], errors)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._messages.close()

    def _said(self) -> str:
        self._messages.seek(0)
        return self._messages.read()


@contextmanager
def library(revision: str) -> Iterator[Path]:
    """The library of a commit, from the history of the checkout."""
    with extract(revision, "limiter", "lua") as folder:
        yield folder


def roll(store: str, cases: Mapping[str, Any], before: Path) -> Record:
    """Replace all workers of an earlier library by those of the checkout, and these by the former again."""
    sides = {"before": before, "now": ROOT}
    records = []
    with ExitStack() as stack:

        def start(side: str) -> Worker:
            worker = Worker(side, sides[side], store, cases)
            stack.callback(worker.close)
            return worker

        running = [start("before") for _ in range(WORKERS)]
        for worker in running:
            worker.wait()
        for side in ("now", "before"):
            for place in range(WORKERS):
                time.sleep(APART)  # the load goes on
                fresh = start(side)
                fresh.wait()
                time.sleep(TOGETHER)  # the load goes on
                records.append(running[place].stop())
                running[place] = fresh
        time.sleep(APART)  # the load goes on
        records += [worker.stop() for worker in running]
    return Record(
        [hit for record in records for hit in record.hits],
        [pair for record in records for pair in record.held],
        sum(record.charged for record in records),
        [error for record in records for error in record.errors],
    )

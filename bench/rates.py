"""Decisions a second, and the processor time of a decision on each side."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

from bench.effort import progress
from bench.sections import Curve, Section, Spread


class Rate(NamedTuple):
    """One run of many calls."""

    thousands: float
    """Thousand calls a second."""
    client: float
    """Microseconds of processor time of a call, in this process."""
    server: float
    """The same in the servers, with the system's part."""


class Meter:
    """Measures from ``start`` to ``stop``."""

    def __init__(self, pids: Collection[int]) -> None:
        self._clocks = [Path(f"/proc/{pid}/schedstat") for pid in pids]
        self.start()

    def start(self) -> None:
        """Begin."""
        self._server, self._client, self._began = self._worked(), process_time(), perf_counter()

    def stop(self, calls: int) -> Rate:
        """Return the rate of as many calls since ``start``."""
        seconds, client = perf_counter() - self._began, process_time() - self._client
        server = self._worked() - self._server
        return Rate(calls / seconds / 1e3, client / calls * 1e6, server / calls * 1e6)

    def _worked(self) -> float:
        """Return the seconds that the servers' main threads, which do all of their work, have run."""
        try:
            return sum(int(clock.read_text().split()[0]) for clock in self._clocks) / 1e9
        except OSError:  # another system than Linux
            return 0.0


#: Line -> number -> a run.
Runs = dict[str, dict[int, Callable[[], Rate]]]


def curves(name: str, title: str, axis: str) -> list[Curve]:
    """Make the three curves of a part, without lines; the first one is plotted."""
    return [
        Curve("rate", title, axis, "thousand decisions a second", {}, True, name),
        Curve("client", "Processor time of the client", axis, "us a decision", {}),
        Curve("server", "Processor time of the server", axis, "us a decision", {}),
    ]


def measure(section: Section, server: str, label: str, runs: Runs, rounds: int) -> None:
    """Make every run once in each round, in random order, and add the rates to the section's curves."""
    points = [(line, number, run) for line, by in runs.items() for number, run in by.items()]
    rates: dict[tuple[str, int], list[Rate]] = {point[:2]: [] for point in points}
    with progress(label, rounds * len(points)) as step:
        for _ in range(rounds):
            for line, number, run in random.sample(points, len(points)):
                rates[line, number].append(run())
                step()
    for index, curve in enumerate(section.curves):
        curve.lines[server] = {
            line: {number: Spread.of(rate[index] for rate in rates[line, number]) for number in by}
            for line, by in runs.items()
        }

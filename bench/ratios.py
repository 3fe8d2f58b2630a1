"""Ratios to a floor that is measured immediately before and after each case."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from pathlib import Path
from time import perf_counter, thread_time
from typing import NamedTuple

from bench.effort import Effort, Step
from bench.sections import Failed, Spread
from service.demo.servers import Server


class Cost(NamedTuple):
    """Microseconds of one call."""

    time: float
    processor: float
    """Processor time of client and servers; on one core of an idle machine, the same as ``time``."""


#: Runs several calls, and returns the cost of one.
Chunk = Callable[[], Cost]


class Ratios(NamedTuple):
    """Every case as a multiple of the floor, and the floor in microseconds."""

    cases: dict[str, Spread]
    processor: dict[str, Spread]
    """The same ratios of processor time, without other work on the machine."""
    floor: Spread
    floor_processor: float


def timed(
    call: Callable[[], object],
    calls: int,
    servers: Collection[Server],
    expected: bool | None = None,
) -> Chunk:
    """Make a chunk that repeats ``call``; the rest as in ``measured``."""

    def repeat() -> object:
        for _ in range(calls):
            answer = call()
        return answer

    return measured(repeat, calls, servers, expected)


def measured(
    run: Callable[[], object],
    calls: int,
    servers: Collection[Server],
    expected: bool | None = None,
) -> Chunk:
    """Make a chunk of ``calls`` calls. ``run`` makes them, and returns the last answer.

    The truth of the answer must be ``expected``. If a limit was used up too early, or not at all, the
    chunk would otherwise measure something else without an error.
    """
    clocks = [Path(f"/proc/{server.pid}/schedstat") for server in servers]

    def worked() -> float:
        return sum(_nanoseconds(clock) for clock in clocks) / 1e9

    def chunk() -> Cost:
        before = worked()
        own, began = thread_time(), perf_counter()
        answer = run()
        spent, own = perf_counter() - began, thread_time() - own
        processor = own + worked() - before
        if expected is not None and bool(answer) is not expected:
            raise Failed(f"a call returned {answer!r}, but this case measures another answer")
        return Cost(spent / calls * 1e6, processor / calls * 1e6)

    return chunk


def ratios(floor: Chunk, cases: Mapping[str, Chunk], effort: Effort, step: Step) -> Ratios:
    """Measure each case as a multiple of the floor: the median over all repetitions, in random order.

    A chunk is between two chunks of the floor, so a machine that becomes slower or faster changes both.
    Within a repetition the median of these ratios counts, so an interrupted chunk does not matter.
    """
    costs_by_case: dict[str, list[Cost]] = {name: [] for name in cases}
    floors: list[Cost] = []
    for chunk in (floor, *cases.values()):
        chunk()
    for _ in range(effort.repetitions):
        for name in random.sample(list(cases), len(cases)):
            beside, own = [floor()], []
            for _ in range(effort.pairs):
                own.append(cases[name]())
                beside.append(floor())
            costs_by_case[name].append(
                Cost(
                    _median_ratio([cost.time for cost in own], [cost.time for cost in beside]),
                    _median_ratio(
                        [cost.processor for cost in own], [cost.processor for cost in beside]
                    ),
                )
            )
            floors += beside
            step()
    return Ratios(
        {name: Spread.of(cost.time for cost in costs) for name, costs in costs_by_case.items()},
        {
            name: Spread.of(cost.processor for cost in costs)
            for name, costs in costs_by_case.items()
        },
        _without_extremes([cost.time for cost in floors]),
        statistics.median(cost.processor for cost in floors),
    )


def _median_ratio(own: list[float], beside: list[float]) -> float:
    around = [(before + after) / 2 for before, after in pairwise(beside)]
    return statistics.median(time / base for time, base in zip(own, around, strict=True))


def _nanoseconds(clock: Path) -> int:
    """Return the time that a server's main thread, which does all of its work, has run."""
    try:
        return int(clock.read_text().split()[0])
    except OSError:  # another system than Linux: the client alone is counted
        return 0


def _without_extremes(values: list[float]) -> Spread:
    """Return the median, and the range without the lowest and the highest tenth."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return Spread(statistics.median(ordered), ordered[cut], ordered[-1 - cut])

"""Ratios to a floor that is measured right beside each case."""

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
    """What client and servers worked, together; on one core and a quiet machine, the same."""


#: Runs some calls, and returns what one of them cost.
Chunk = Callable[[], Cost]


class Ratios(NamedTuple):
    """Every case as a multiple of the floor, and the floor itself in microseconds."""

    cases: dict[str, Spread]
    processor: dict[str, Spread]
    """The same of the processor's time: what else the machine does is not in it."""
    floor: Spread
    floor_processor: float


def timed(
    call: Callable[[], object],
    calls: int,
    servers: Collection[Server],
    expected: bool | None = None,
) -> Chunk:
    """A chunk that repeats ``call``.

    As ``measured``.
    """

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
    """A chunk of so many calls, which ``run`` makes; it returns the answer of the last one.

    The answer must be as true as ``expected``: a limit that was used up too early, or not at all,
    would silently measure something else.
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
            raise Failed(f"a call was answered {answer!r}, which is not what is measured here")
        return Cost(spent / calls * 1e6, processor / calls * 1e6)

    return chunk


def ratios(floor: Chunk, cases: Mapping[str, Chunk], effort: Effort, step: Step) -> Ratios:
    """Each case as a multiple of the floor: the median over all repetitions, in an ever new order.

    A chunk stands between two chunks of the floor, so that a machine which gets slower or faster
    slows or speeds both; within a repetition the median over such neighbours counts, so that a chunk
    which something interrupted does not.
    """
    found: dict[str, list[Cost]] = {name: [] for name in cases}
    floors: list[Cost] = []
    for chunk in (floor, *cases.values()):
        chunk()
    for _ in range(effort.repetitions):
        for name in random.sample(list(cases), len(cases)):
            beside, own = [floor()], []
            for _ in range(effort.pairs):
                own.append(cases[name]())
                beside.append(floor())
            found[name].append(
                Cost(
                    _median_ratio([one.time for one in own], [one.time for one in beside]),
                    _median_ratio(
                        [one.processor for one in own], [one.processor for one in beside]
                    ),
                )
            )
            floors += beside
            step()
    return Ratios(
        {name: Spread.of(one.time for one in costs) for name, costs in found.items()},
        {name: Spread.of(one.processor for one in costs) for name, costs in found.items()},
        _without_extremes([one.time for one in floors]),
        statistics.median(one.processor for one in floors),
    )


def _median_ratio(own: list[float], beside: list[float]) -> float:
    around = [(before + after) / 2 for before, after in pairwise(beside)]
    return statistics.median(one / base for one, base in zip(own, around, strict=True))


def _nanoseconds(clock: Path) -> int:
    """How long a server's main thread, which does all of its work, has run."""
    try:
        return int(clock.read_text().split()[0])
    except OSError:  # another system than Linux: the client alone is counted
        return 0


def _without_extremes(values: list[float]) -> Spread:
    """The median, and the range of all but the tenth at either end."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return Spread(statistics.median(ordered), ordered[cut], ordered[-1 - cut])

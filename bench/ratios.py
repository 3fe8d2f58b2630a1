"""Ratios to a floor that is measured immediately before and after each case."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from time import perf_counter, thread_time
from types import MappingProxyType
from typing import NamedTuple

from bench.effort import Effort, Step
from bench.sections import Comparison, Failed, Section, Spread


class Cost(NamedTuple):
    """Microseconds of one call."""

    time: float
    processor: float
    """Processor time of client and servers; on one core of an idle machine, the same as ``time``."""


_time: Callable[[Cost], float] = attrgetter("time")
_processor: Callable[[Cost], float] = attrgetter("processor")

#: Runs several calls, and returns the cost of one.
Chunk = Callable[[], Cost]


#: Case -> its ratio to the floor in each repetition.
Series = dict[str, list[Cost]]


class Ratios(NamedTuple):
    """Every case as a multiple of the floor, and the floor in microseconds."""

    now: Series
    before: Series
    """The cases of the other revision's library; empty unless one is measured."""
    floor: Spread
    floor_processor: float

    @property
    def cases(self) -> dict[str, Spread]:
        """The ratios of elapsed time."""
        return _spreads(self.now, _time)

    @property
    def processor(self) -> dict[str, Spread]:
        """The ratios of processor time, without other work on the machine."""
        return _spreads(self.now, _processor)

    def record(self, section: Section, column: str) -> None:
        """Add the ratios to a section; the quotients of both libraries are taken in each repetition."""
        section.figures[column], section.checks[column] = self.cases, self.processor
        if self.before:
            quotients = {
                name: _quotients(self.now[name], costs) for name, costs in self.before.items()
            }
            section.compared[column], section.compared_checks[column] = (
                Comparison(_spreads(self.before, of), _spreads(quotients, of))
                for of in (_time, _processor)
            )

    def divide(self, name: str, case: str, base: str) -> None:
        """Add the quotient of two cases as another case, for each library."""
        for series in (self.now, self.before):
            if case in series:
                series[name] = _quotients(series[case], series.get(base, self.now[base]))


def _spreads(series: Series, of: Callable[[Cost], float]) -> dict[str, Spread]:
    return {name: Spread.of(map(of, costs)) for name, costs in series.items()}


def _quotients(costs: list[Cost], bases: list[Cost]) -> list[Cost]:
    return [
        Cost(cost.time / base.time, cost.processor / base.processor)
        for cost, base in zip(costs, bases, strict=True)
    ]


def timed(
    call: Callable[[], object],
    calls: int,
    pids: Collection[int],
    expected: bool | None = None,
) -> Chunk:
    """Make a chunk that repeats ``call``; the rest as in ``measured``."""

    def repeat() -> object:
        for _ in range(calls):
            answer = call()
        return answer

    return measured(repeat, calls, pids, expected)


def measured(
    run: Callable[[], object],
    calls: int,
    pids: Collection[int],
    expected: bool | None = None,
) -> Chunk:
    """Make a chunk of ``calls`` calls. ``run`` makes them, and returns the last answer.

    ``pids`` are the servers' processes, whose processor time counts too.
    The truth of the answer must be ``expected``. If a limit was used up too early, or not at all, the
    chunk would otherwise measure something else without an error.
    """
    clocks = [Path(f"/proc/{pid}/schedstat") for pid in pids]

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


def ratios(
    floor: Chunk,
    now: Mapping[str, Chunk],
    effort: Effort,
    step: Step,
    before: Mapping[str, Chunk] = MappingProxyType({}),
) -> Ratios:
    """Measure each case as a multiple of the floor: the median over all repetitions, in random order.

    A chunk is between two chunks of the floor, so a machine that becomes slower or faster changes both. The
    first run of each chunk is for the caches, unless there is one repetition, which is no measurement.
    Within a repetition the median of these ratios counts, so an interrupted chunk does not matter.
    ``before`` has the cases of another revision's library, which are measured in the same way.
    """
    measured: tuple[Series, Series] = {name: [] for name in now}, {name: [] for name in before}
    cases = [
        (chunk, costs[name])
        for chunks, costs in zip((now, before), measured, strict=True)
        for name, chunk in chunks.items()
    ]
    floors: list[Cost] = []
    if effort.repetitions > 1:
        for chunk in (floor, *(chunk for chunk, _ in cases)):
            chunk()
    for _ in range(effort.repetitions):
        floors.append(floor())
        for chunk, costs in random.sample(cases, len(cases)):
            beside, own = floors[-1:], []
            for _ in range(effort.pairs):
                own.append(chunk())
                beside.append(floor())
            costs.append(Cost(*(_median_ratio(own, beside, of) for of in (_time, _processor))))
            floors += beside[1:]
            step()
    return Ratios(
        *measured,
        _without_extremes([cost.time for cost in floors]),
        statistics.median(cost.processor for cost in floors),
    )


def _median_ratio(own: list[Cost], beside: list[Cost], of: Callable[[Cost], float]) -> float:
    around = [(of(before) + of(after)) / 2 for before, after in pairwise(beside)]
    return statistics.median(of(cost) / base for cost, base in zip(own, around, strict=True))


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

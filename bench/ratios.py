"""Ratios to a floor that is measured right beside each case."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from itertools import pairwise
from time import perf_counter
from typing import NamedTuple

from bench.effort import Effort, Step
from bench.sections import Failed, Spread

#: Runs some calls, and returns the microseconds of one.
Chunk = Callable[[], float]


class Ratios(NamedTuple):
    """Every case as a multiple of the floor, and the floor itself in microseconds."""

    cases: dict[str, Spread]
    floor: Spread


def timed(call: Callable[[], object], calls: int, expected: bool | None = None) -> Chunk:
    """A chunk that repeats ``call``.

    Its answer must be as true as ``expected``: a limit that was used up too early, or not at all,
    would silently measure something else.
    """

    def chunk() -> float:
        began = perf_counter()
        for _ in range(calls):
            answer = call()
        spent = perf_counter() - began
        if expected is not None and bool(answer) is not expected:
            raise Failed(f"a call was answered {answer!r}, which is not what is measured here")
        return spent / calls * 1e6

    return chunk


def ratios(floor: Chunk, cases: Mapping[str, Chunk], effort: Effort, step: Step) -> Ratios:
    """Each case as a multiple of the floor: the median over all repetitions, in an ever new order.

    A chunk stands between two chunks of the floor, so that a machine which gets slower or faster
    slows or speeds both; within a repetition the median over such neighbours counts, so that a chunk
    which something interrupted does not.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    floors: list[float] = []
    for chunk in (floor, *cases.values()):
        chunk()
    for _ in range(effort.repetitions):
        for name in random.sample(list(cases), len(cases)):
            beside, own = [floor()], []
            for _ in range(effort.pairs):
                own.append(cases[name]())
                beside.append(floor())
            around = [(before + after) / 2 for before, after in pairwise(beside)]
            found[name].append(
                statistics.median(one / base for one, base in zip(own, around, strict=True))
            )
            floors += beside
            step()
    return Ratios(
        {name: Spread.of(values) for name, values in found.items()},
        _without_extremes(floors),
    )


def _without_extremes(values: list[float]) -> Spread:
    """The median, and the range of all but the tenth at either end."""
    ordered = sorted(values)
    cut = len(ordered) // 10
    return Spread(statistics.median(ordered), ordered[cut], ordered[-1 - cut])

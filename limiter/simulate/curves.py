"""What the page draws of a policy besides its report: numbers, without colours."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import pairwise
from math import log10
from operator import itemgetter
from typing import NamedTuple

from limiter.errors import InvalidPolicy
from limiter.keys import Key
from limiter.policies import Policy
from limiter.simulate import counts, needs
from limiter.simulate.demand import Requests
from limiter.simulate.report import Timeline

#: Limits of a curve, beside the present one.
_POINTS = 24
#: Bins of a distribution for each factor of 10.
_BINS = 8
#: Bins of one subject's requests over time.
_SUBJECT_BINS = 120


class Point(NamedTuple):
    """What a limit denies."""

    limit: int
    requests: int
    """Denied requests."""
    subjects: int
    """Subjects of which at least one request is denied."""


class Bin(NamedTuple):
    """Subjects whose peak is from ``low`` to ``high``, both included."""

    low: int
    high: int
    subjects: int


@dataclass
class LimitCurves:
    """The curves of one limit.

    Attributes:
        policy: The limit.
        requests: All requests.
        subjects: All subjects.
        points: What other limits of the same algorithm deny; a bucket's burst changes in proportion.
        peaks: The distribution of the most units that a subject requested within one period.

    """

    policy: Policy
    requests: int = 0
    subjects: int = 0
    points: list[Point] = field(default_factory=list)
    peaks: list[Bin] = field(default_factory=list)


def limit_curves(policy: Policy, demand: Iterable[Requests]) -> LimitCurves:
    """Count what other limits would deny; read the requests twice."""
    curves = LimitCurves(policy)
    peaks: Counter[int] = Counter()
    for _, times, costs, _ in demand:
        curves.requests += len(times)
        peaks[needs.peak(policy.period_us, times, costs)] += 1
    curves.subjects = peaks.total()
    if not peaks:
        return curves
    curves.peaks = _binned(peaks, policy.limit)
    others = list(_others(policy, _spread(max(peaks))))
    denied: Counter[int] = Counter()
    subjects: Counter[int] = Counter()
    for _, times, costs, _ in demand:
        for other in others:
            count = counts.denied(other, times, costs)
            if not count:
                break  # no larger limit denies any
            denied[other.limit] += count
            subjects[other.limit] += 1
    curves.points = [
        Point(other.limit, denied[other.limit], subjects[other.limit]) for other in others
    ]
    return curves


def _binned(peaks: Counter[int], limit: int) -> list[Bin]:
    """Count subjects in bins whose edges grow by one factor; another edge is above the limit."""
    edges = [1]
    while edges[-1] <= max(peaks):
        edges.append(max(edges[-1] + 1, round(10 ** (round(_BINS * log10(edges[-1]) + 1) / _BINS))))
    if limit < edges[-1]:
        edges = sorted({*edges, limit + 1})
    found = [0] * len(edges)
    for peak, subjects in peaks.items():
        found[bisect_right(edges, peak) - 1] += subjects
    return [
        Bin(low, above - 1, subjects)
        for (low, above), subjects in zip(pairwise(edges), found, strict=False)
    ]


def _spread(most: int) -> set[int]:
    """Whole numbers from 1 to the most, each about the same factor above the one before."""
    return {round(most ** (place / (_POINTS - 1))) for place in range(_POINTS)}


def _others(policy: Policy, limits: set[int]) -> Iterator[Policy]:
    """The policy with each of the limits and with its own, in their order."""
    for limit in sorted(limits | {policy.limit}):
        burst = max(1, limit * policy.capacity // policy.limit) if policy.has_burst else None
        try:
            yield policy.renumbered(limit, burst)
        except InvalidPolicy:  # the limit is larger than the algorithm accepts
            continue


class WorstSubject(NamedTuple):
    """A subject that was denied often, and its requests over time."""

    subject: Key
    requests: int
    denied: int
    timeline: Timeline


def worst_subjects(demand: Iterable[Requests], most: int = 10) -> list[WorstSubject]:
    """The subjects that were denied most often when the log was replayed, the worst first."""
    denied = ((sum(requests.denied), requests) for requests in demand)
    worst = nlargest(most, (pair for pair in denied if pair[0]), key=itemgetter(0))
    return [
        WorstSubject(requests.subject, len(requests.times), count, _timeline(requests))
        for count, requests in worst
    ]


def _timeline(requests: Requests) -> Timeline:
    timeline = Timeline(_SUBJECT_BINS)
    for at_us, is_denied in zip(requests.times, requests.denied, strict=True):
        timeline.add(at_us, 1 - is_denied, is_denied)
    return timeline

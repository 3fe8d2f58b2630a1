"""One event, and its figures: what the calls got, and what the store says was charged."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.accuracy.bounds import BOUNDS
from bench.stores import Program
from bench.survive.application import (
    CALLERS,
    COUNTER,
    HELD,
    HELD_NAME,
    HOT,
    LOCAL,
    LOCAL_NAME,
    ONCE,
    TIMEOUT,
    Call,
    Stall,
    Usage,
)
from bench.survive.events import Event
from bench.survive.probe import Outage
from bench.survive.stages import Stage
from limiter import AsyncLimiter
from limiter.policies import Policy

#: Seconds after the deadline within which a call must have its result.
GRACE = 0.05
#: Seconds without faults at the beginning, and at least at the end.
CALM, CALM_AFTER = 0.6, 1.2
#: How much more memory the process may have afterwards: Python keeps what it had at the peak.
MORE_MEMORY = 16 << 20
#: Seconds after connections end within which calls belong to that.
CUT = 0.1
#: Seconds of one bin of the pictures.
BIN = 0.1
NOTHING = Usage(0, 0, 0)
#: Calls that are read at once.
_AT_ONCE = 500


class Charges(NamedTuple):
    """What the store says, compared with what the calls got."""

    twice: int
    """Calls that were charged more than once, by the store's counts."""
    in_part: int
    """Calls that some of their limits were charged for, and others not."""
    lost: int
    """Allowed calls that are not charged."""


class Worst(NamedTuple):
    """The most that was admitted in a window, and the bound."""

    limiter: str
    admitted: int
    bound: int

    @property
    def share(self) -> float:
        """How much of the bound it is."""
        return self.admitted / self.bound


class Figures(NamedTuple):
    """The figures of one event."""

    calls: int
    denied: int
    outage: float
    """Seconds of the store's own outage."""
    fault: float
    """Seconds of faults that keep the application from the store."""
    undecided_there: int
    """Undecided calls of the outage, and of the time until calls must be decided again."""
    undecided_elsewhere: int
    again: float
    """Seconds after the outage until the last of the undecided calls ended."""
    late: int
    """Calls that ended after the deadline, the grace and the machine's stalls."""
    slowest: float
    """Seconds of the slowest call, with the machine's stalls."""
    charges: Charges
    worst: list[Worst]
    """Of each limiter that is called more often than it admits, the nearest to its bound first."""
    starved: list[str]
    """Limits that admitted no call in the end."""
    before: Usage
    after: Usage
    left: int
    """Descriptors that remain open when all limiters are closed."""
    most_connections: int
    """How many the callers may have to all servers."""
    extra: dict[str, float]
    errors: list[str]
    """Some of the undecided calls without an outage, and of the late ones."""


class Trial(NamedTuple):
    """An event on a server: its figures, the promises that it broke, and its course for the picture."""

    event: Event
    server: str
    figures: Figures
    broken: list[str]
    course: dict[str, Any]


@dataclass
class Watched:
    """What was seen of an event while it happened, with times by ``time.monotonic``."""

    began: float
    fault: float = 0.0
    fault_ended: float = 0.0
    calm: float = 0.0
    """From then on nothing more is expected to fail."""
    ended: float = 0.0
    before: Usage = NOTHING
    after: Usage = NOTHING
    left: int = 0
    outages: list[list[Outage]] = field(default_factory=list)
    """Of each shard."""


def run(event: Event, program: Program, kinds: tuple[str, ...], timeout: float = TIMEOUT) -> Trial:
    """Let the event happen to its store, while an application calls."""
    with event.stage(program, kinds, timeout) as stage:
        application = stage.application
        application.until_decided()
        watched = Watched(time.monotonic())
        time.sleep(CALM)
        watched.before = application.usage()
        watched.fault = time.monotonic()
        event.fault(stage)
        watched.fault_ended = time.monotonic()
        application.until(
            lambda: all(probe.is_up for probe in stage.probes), "the store was not up"
        )
        application.until_decided()
        watched.calm = time.monotonic()
        time.sleep(max(CALM_AFTER, event.again))
        watched.after = application.usage()
        watched.outages = [probe.outages() for probe in stage.probes]
        watched.ended = time.monotonic()
        watched.left = application.stop()
        stage.mend()
        figures = _figures(event, stage, watched)
        course = _course(application.calls, stage, watched)
    return Trial(event, program.name, figures, broken(event, figures), course)


def broken(event: Event, figures: Figures) -> list[str]:
    """Return the promises that an event broke, in words."""
    charges = figures.charges
    more = figures.after.descriptors - figures.before.descriptors
    grown = figures.after.memory - figures.before.memory
    found = [
        (figures.undecided_elsewhere, "calls were undecided without an outage"),
        (figures.late, f"calls ended more than {GRACE} s after their deadline"),
        (charges.twice, "calls were charged twice"),
        (charges.in_part, "calls were charged by some of their limits alone"),
        (0 if event.losses else charges.lost, "allowed calls were not charged"),
        (len(figures.starved), f"limits admitted no call again: {', '.join(figures.starved)}"),
        (more if more > figures.most_connections else 0, "more descriptors are open than before"),
        (max(0, figures.left), "descriptors remain open when the limiters are closed"),
        (grown // 1024 if grown > MORE_MEMORY else 0, "KiB more memory are used than before"),
    ]
    lines = [f"{count} {words}" for count, words in found if count]
    lines += [
        f"{worst.limiter} admitted {worst.admitted}, and its bound is {worst.bound}"
        for worst in figures.worst
        if worst.admitted > worst.bound
    ]
    lines += [
        f"{name}: {figures.extra[name]:.2f}, and the goal is {goal:g}"
        for name, goal in event.most
        if figures.extra.get(name, 0) > goal
    ]
    return lines


def _figures(event: Event, stage: Stage, watched: Watched) -> Figures:
    application = stage.application
    calls = [call for call in application.calls if call.began >= watched.began]
    there: list[float] = []
    elsewhere: list[Call] = []
    for call in calls:
        if call.result == "undecided":
            outages = [*watched.outages[stage.shard_of(call.subject)], *stage.faults]
            after = _after(call, outages, event.again, stage.cuts)
            if after is None:
                elsewhere.append(call)
            else:
                there.append(after)
    late = [
        (call, seconds)
        for call in calls
        if (seconds := _own_time(call, application.stalls)) > stage.timeout + GRACE
    ]
    return Figures(
        len(calls),
        sum(call.result == "denied" for call in calls),
        max(sum(outage.seconds for outage in of_shard) for of_shard in watched.outages),
        sum(fault.seconds for fault in stage.faults),
        len(there),
        len(elsewhere),
        max([0.0, *there]),
        len(late),
        max(call.ended - call.began for call in calls),
        _charges(stage, application.calls, bool(event.losses)),
        worst(application.calls, event.losses),
        _starved(calls, watched.calm),
        watched.before,
        watched.after,
        watched.left,
        (CALLERS + 1) * stage.servers,
        dict(stage.extra),
        [
            *sorted({f"{call.kind}: {call.error}" for call in elsewhere})[:5],
            *[
                f"{call.kind}, {call.limiter}: late, {own:.3f} s {call.error}"
                for call, own in late[:5]
            ],
        ],
    )


def _after(
    call: Call, outages: Iterable[Outage], again: float, cuts: Iterable[Outage]
) -> float | None:
    """Return how long after an outage an undecided call ended; None if it belongs to no outage."""
    ends = [
        outage.ended
        for some, seconds in ((outages, again), (cuts, CUT))
        for outage in some
        if call.ended >= outage.began and call.began <= outage.ended + seconds
    ]
    return max(0.0, call.ended - max(ends)) if ends else None


def _own_time(call: Call, stalls: Iterable[Stall]) -> float:
    """Return the seconds of a call in which the machine ran the application."""
    stalled = sum(
        max(0.0, min(call.ended, stall.ended) - max(call.began, stall.began)) for stall in stalls
    )
    return call.ended - call.began - stalled


def worst(calls: Iterable[Call], losses: int) -> list[Worst]:
    """Return for each limiter the window of one period that comes nearest to its bound.

    A call counts only if all of it lies in the window: it was decided at some time within. After each loss
    of state, as many may pass again.
    """
    admitted: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.result == "allowed":
            admitted[call.limiter].append(call)
    found = [Worst(HELD_NAME, most_held(admitted[HELD_NAME]), HELD.limit * (1 + losses))]
    for name, policy in {**HOT, LOCAL_NAME: LOCAL}.items():
        bound = bound_of(policy, losses)
        if name == LOCAL_NAME:
            bound *= 2  # the fallback admits as many as the store
        most = most_within(admitted[name], policy.period_us / 1e6)
        found.append(Worst(name, most, bound))
    return sorted(found, key=lambda each: -each.share)


def most_held(calls: Iterable[Call]) -> int:
    """Return the largest number of places that were held at one instant."""
    changes = [(call.ended, 1) for call in calls] + [(call.held_until, -1) for call in calls]
    most = now = 0
    for _, change in sorted(changes):  # at one instant, releases come first
        now += change
        most = max(most, now)
    return most


def bound_of(policy: Policy, losses: int) -> int:
    """Return the most that a policy admits in any window of its period."""
    return BOUNDS[policy.algorithm].most(policy, policy.period_us) * (1 + losses)


def most_within(calls: Sequence[Call], seconds: float) -> int:
    """Return the largest number of calls that lie as a whole in one window of that length."""
    by_begin = sorted(calls, key=lambda call: call.began)
    most = 0
    for number, first in enumerate(by_begin):
        end, count = first.began + seconds, 0
        for call in by_begin[number:]:
            if call.began >= end:
                break
            count += call.ended < end
        most = max(most, count)
    return most


def _starved(calls: Iterable[Call], since: float) -> list[str]:
    """Return the limiters that admitted no call from then on."""
    served = {call.limiter for call in calls if call.began >= since and call.result == "allowed"}
    return [name for name in (*HOT, LOCAL_NAME, HELD_NAME) if name not in served]


def _charges(stage: Stage, calls: Sequence[Call], is_lossy: bool) -> Charges:
    """Read what the store has charged for each subject, and compare it with the calls."""
    once = [call for call in calls if call.limiter == "once"]
    hot = {name: [call for call in calls if call.limiter == name] for name in HOT}
    rows, counted = asyncio.run(
        _read(stage, [call.subject for call in once], [f"{name}-subject" for name in hot])
    )
    twice = sum(max(row) > 1 for row in rows)
    in_part = sum(min(row) != max(row) for row in rows)
    lost = sum(
        call.result == "allowed" and max(row) < 1 for call, row in zip(once, rows, strict=True)
    )
    # A counter beside each hot limit: denied calls charge nothing, and undecided ones at most once.
    for charged, its_calls in zip(counted, hot.values(), strict=True):
        allowed = sum(call.result == "allowed" for call in its_calls)
        undecided = sum(call.result == "undecided" for call in its_calls)
        twice += max(0, charged - allowed - undecided)
        lost += max(0, allowed - charged)
    return Charges(twice, in_part if not is_lossy else 0, lost)


async def _read(
    stage: Stage, subjects: Sequence[str], hot: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    tag = stage.tag
    limiter = AsyncLimiter(ONCE, store=stage.checked_url(), name="once", timeout=5)
    counters = [
        AsyncLimiter((policy, COUNTER), store=limiter, name=name, timeout=5)
        for name, policy in HOT.items()
    ]
    rows: list[list[int]] = []
    for first in range(0, len(subjects), _AT_ONCE):
        some = subjects[first : first + _AT_ONCE]
        peeked = await asyncio.gather(*(limiter.peek(subject, tag=tag) for subject in some))
        rows += [
            [
                policy.capacity - each.remaining
                for policy, each in zip(ONCE, decision.each, strict=True)
            ]
            for decision in peeked
        ]
    counted = [
        COUNTER.limit - (await counter.peek(subject, tag=tag)).each[1].remaining
        for counter, subject in zip(counters, hot, strict=True)
    ]
    for counter in counters:
        await counter.close()
    await limiter.close()
    return rows, counted


def _course(calls: Sequence[Call], stage: Stage, watched: Watched) -> dict[str, Any]:
    """Return what the pictures show: calls in bins of time, from the event's beginning."""
    zero, first = watched.fault, int((watched.began - watched.fault) // BIN)
    bins = int((watched.ended - zero) // BIN) + 1 - first
    counts = {name: [0] * bins for name in ("decided", "fallback", "undecided")}
    slowest = [0.0] * bins
    for call in calls:
        at = int((call.ended - zero) // BIN) - first
        if 0 <= at < bins:
            name = "undecided" if call.result == "undecided" else "decided"
            counts["fallback" if call.degraded else name][at] += 1
            slowest[at] = max(slowest[at], call.ended - call.began)
    every = [outage for of_shard in watched.outages for outage in of_shard]
    return {
        "from": round(first * BIN, 1),
        "bin": BIN,
        "fault": round(watched.fault_ended - zero, 2),
        "outages": [
            [round(outage.began - zero, 3), round(outage.ended - zero, 3)]
            for outage in sorted([*every, *stage.faults, *stage.cuts])
        ],
        **counts,
        "slowest_ms": [round(1e3 * seconds, 1) for seconds in slowest],
    }

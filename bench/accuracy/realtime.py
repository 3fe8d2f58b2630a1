"""All contenders in real time, on one server, under the same loads.

One thread calls all contenders in turn, each at the times of its load. The counts never blame a contender
wrongly: a call was decided between its sending and its answer, and counts only in windows that certainly
contain the decision.
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.accuracy.contenders import Answer, Contender, clock_ahead
from bench.accuracy.counting import Admitted, most_in_any_window, under_admission
from bench.accuracy.effort import Effort
from bench.effort import Step

#: Yields a time and a client for the next call, and receives the call with its answer.
Load = Generator[tuple[int, int], "Call", None]

#: The load begins this part of a period before a window's end, since the calls of all contenders take time.
_BEFORE_SEAM = 10
#: Calls under overload for each unit that may pass.
OVERLOAD = 5
#: To find when contenders admit again: how many are called side by side, and how often each.
_SIDE_BY_SIDE, _EVERY_US = 6, 5_000


class Call(NamedTuple):
    """One call: the times at which it was sent and answered, and the answer."""

    sent_us: int
    answered_us: int
    answer: Answer

    @property
    def earliest_us(self) -> int:
        """The earliest time of the decision."""
        return self.answer.decided_us or self.sent_us

    @property
    def latest_us(self) -> int:
        """The latest time of the decision."""
        return self.answer.decided_us or self.answered_us


def _now_us() -> int:
    return time.time_ns() // 1_000


def _flood(client: int, most: int) -> Load:
    """Call until a denial, at most ``most`` times."""
    for _ in range(most):
        call = yield 0, client
        if not call.answer.allowed:
            return


def _greedy(start_us: int, until_us: int, every_us: int) -> Load:
    """After an admitted call, call again at once; after a denied one, after ``every_us``."""
    due_us = start_us
    while due_us < until_us:
        call = yield due_us, 0
        due_us = call.answered_us if call.answer.allowed else due_us + every_us


def own_seam(start_us: int, effort: Effort) -> Load:
    """Take one unit, the rest just before the window that it opened ends, and all of the next windows."""
    period_us = effort.period_us
    yield start_us, 0
    yield from _greedy(
        start_us + period_us - period_us // 20, start_us + 3 * period_us, period_us // 100
    )


def clock_seam(start_us: int, effort: Effort) -> Load:
    """Take all units just before a multiple of the period, and all after it."""
    limit, period_us = effort.limit, effort.period_us
    seam_us = (start_us // period_us + 1) * period_us
    if seam_us - start_us < period_us // 2:
        seam_us += period_us
    yield seam_us - period_us // _BEFORE_SEAM, 0
    yield from _flood(0, 2 * limit)
    yield from _greedy(seam_us, seam_us + 3 * period_us // 2, period_us // 100)


def idleness(start_us: int, effort: Effort) -> Load:
    """Take all units, pause for two periods, and then take all again."""
    limit, period_us = effort.limit, effort.period_us
    yield start_us, 0
    yield from _flood(0, 2 * limit)
    begin_us = start_us + 2 * period_us
    yield from _greedy(begin_us, begin_us + 3 * period_us // 2, period_us // 100)


def overload(start_us: int, effort: Effort) -> Load:
    """Call evenly, five times as often as the limit admits."""
    limit, period_us = effort.limit, effort.period_us
    every_us = period_us // (OVERLOAD * limit)
    for number in range(effort.real_periods * OVERLOAD * limit):
        yield start_us + number * every_us, 0


def skewed(start_us: int, effort: Effort) -> Load:
    """The same from two clients in turn; one client's clock is half a period ahead."""
    limit, period_us = effort.limit, effort.period_us
    every_us = period_us // (OVERLOAD * limit)
    for number in range(effort.real_periods * OVERLOAD * limit):
        yield start_us + number * every_us, number % 2


def retries(start_us: int, effort: Effort) -> Load:
    """Take all units within half a period, then call every few milliseconds."""
    limit, period_us = effort.limit, effort.period_us
    for number in range(limit):
        yield start_us + number * period_us // (2 * limit), 0
    due_us = start_us + period_us // 2
    while due_us < start_us + effort.retries_us:
        call = yield due_us, 0
        due_us = call.answered_us + (0 if call.answer.allowed else _EVERY_US)


LOADS: Mapping[str, Callable[[int, Effort], Load]] = {
    "window's own seam": own_seam,
    "seam on the clock": clock_seam,
    "after idleness": idleness,
    "overload": overload,
    "a clock ahead": skewed,
}
#: The loads of a quick run.
QUICKLY = ("window's own seam", "overload", "a clock ahead")


@dataclass
class Behaviour:
    """The behaviour of one contender under the loads."""

    most: dict[str, int] = field(default_factory=dict)
    """By load: the most that was certainly admitted in one period."""
    under: float | None = None
    errors_us: list[float] = field(default_factory=list)
    """retry_after less the true time, for each denial after which a call passed: the part of the error that
    is certain, or 0 if there may be none."""
    uncertain_us: int = 0
    """The largest uncertainty of a time at which a contender admitted again."""
    admitted_us: dict[str, list[int]] = field(default_factory=dict)
    """By load: when units were admitted, since the load began."""

    @property
    def early_us(self) -> float:
        """The most by which a retry_after was too early."""
        return max(0.0, -min(self.errors_us, default=0.0))

    @property
    def error_us(self) -> tuple[float, float, float] | None:
        """Median, smallest and largest error."""
        if not self.errors_us:
            return None
        return statistics.median(self.errors_us), min(self.errors_us), max(self.errors_us)


#: Makes the contenders on subjects of a name.
Make = Callable[[str], Sequence[Contender]]


def measure(make: Make, effort: Effort, names: Sequence[str], step: Step) -> dict[str, Behaviour]:
    """Measure all contenders under all loads; return their behaviour by title."""
    limit, period_us = effort.limit, effort.period_us
    by_title: dict[str, Behaviour] = {}
    for load in names:
        field_ = make(f"load-{load.replace(' ', '-')}")
        for contender, (start_us, calls) in zip(
            field_, _run(field_, LOADS[load], effort), strict=True
        ):
            behaviour = by_title.setdefault(title(contender), Behaviour())
            admitted = _admitted(calls)
            behaviour.most[load] = most_in_any_window(admitted, period_us)
            behaviour.admitted_us[load] = [hit.last_us - start_us for hit in admitted]
            if load == "overload":
                behaviour.under = under_admission(
                    admitted, start_us + period_us, effort.real_periods - 1, limit, period_us
                )
        step()
    field_ = make("retries")
    for first in range(0, len(field_), _SIDE_BY_SIDE):
        group = field_[first : first + _SIDE_BY_SIDE]
        for contender, (_, calls) in zip(group, _run(group, retries, effort), strict=True):
            _judge(calls, by_title.setdefault(title(contender), Behaviour()))
        step()
    return by_title


def steps(count: int, names: Sequence[str]) -> int:
    """Return the number of steps that ``measure`` reports."""
    return len(names) + -(-count // _SIDE_BY_SIDE)


def title(contender: Contender) -> str:
    """Return the contender's name in tables."""
    return f"{contender.library} {contender.name}"


def _run(
    field_: Sequence[Contender], load: Callable[[int, Effort], Load], effort: Effort
) -> list[tuple[int, list[Call]]]:
    """Call each contender at the times of its load; return each load's start, and every call."""
    period_us = effort.period_us
    clients = []
    for contender in field_:
        ahead = clock_ahead(contender.package, period_us / 2e6)
        clients.append((contender.client(), contender.client(), ahead))
    # The loads begin one after the other, so that their windows end at different times.
    begin_us = _now_us() + 50_000
    starts = [begin_us + place * period_us // len(field_) for place in range(len(field_))]
    loads = [load(start_us, effort) for start_us in starts]
    calls: list[list[Call]] = [[] for _ in field_]
    due = [(*next(flow), place) for place, flow in enumerate(loads)]
    heapq.heapify(due)
    while due:
        due_us, client, place = heapq.heappop(due)
        if (left_us := due_us - _now_us()) > 0:
            time.sleep(left_us / 1e6)
        plain, other, ahead = clients[place]
        if client:
            with ahead():
                sent_us = _now_us()
                answer = other()
                answered_us = _now_us()
        else:
            sent_us = _now_us()
            answer = plain()
            answered_us = _now_us()
        call = Call(sent_us, answered_us, answer)
        calls[place].append(call)
        try:
            heapq.heappush(due, (*loads[place].send(call), place))
        except StopIteration:
            continue
    return list(zip(starts, calls, strict=True))


def _admitted(calls: Sequence[Call]) -> list[Admitted]:
    return [Admitted(call.earliest_us, call.latest_us) for call in calls if call.answer.allowed]


def _judge(calls: Sequence[Call], behaviour: Behaviour) -> None:
    """Compare the retry_after of every denial with the time at which the next call passed."""
    row: list[Call] = []
    for call in calls:
        if not call.answer.allowed:
            row.append(call)
            continue
        if row:
            # The limit admitted again after the last denial, at the latest when this call passed.
            opened_us = row[-1].earliest_us + 1, call.latest_us
            behaviour.uncertain_us = max(behaviour.uncertain_us, opened_us[1] - opened_us[0])
            for denied in row:
                told_us = denied.answer.retry_us
                behaviour.errors_us.append(
                    max(0.0, denied.earliest_us + told_us - opened_us[1])
                    or min(0.0, denied.latest_us + told_us - opened_us[0])
                )
        row = []


def violations(contender: Contender, behaviour: Behaviour) -> list[str]:
    """Report, for our algorithms, every exceeded bound and every retry_after that was too early."""
    if not contender.ours:
        return []
    messages = [
        f"{title(contender)}, {load}, in real time: {most} admitted in one period, "
        f"the bound is {contender.bound}"
        for load, most in behaviour.most.items()
        if most > contender.bound
    ]
    if behaviour.early_us:
        messages.append(
            f"{title(contender)}, in real time: retry_after is {behaviour.early_us:.0f} us too early"
        )
    return messages

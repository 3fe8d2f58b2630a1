"""Everybody in real time, on one server, under the same loads.

One thread asks all contenders in turn, each when its load says so. What was admitted in a window is
counted so that nobody is accused wrongly: a call whose decision lies somewhere between its sending and
its answer is in a window only where it is for certain.
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

#: Asks at that time, with that client; is told what became of it.
Load = Generator[tuple[int, int], "Asked", None]

#: One look at a clock of which many contenders hang: so much of a period goes before a seam.
_BEFORE_SEAM = 10
#: Under overload so many units are asked for where one may pass.
OVERLOAD = 5
#: Contenders that are asked side by side, and how often each, when it is to be found when they open.
_SIDE_BY_SIDE, _EVERY_US = 6, 5_000


class Asked(NamedTuple):
    """One call: when it was sent and answered, and the answer."""

    sent_us: int
    answered_us: int
    answer: Answer

    @property
    def earliest_us(self) -> int:
        """When it was decided, at the earliest."""
        return self.answer.decided_us or self.sent_us

    @property
    def latest_us(self) -> int:
        """When it was decided, at the latest."""
        return self.answer.decided_us or self.answered_us


def _now_us() -> int:
    return time.time_ns() // 1_000


def _flood(client: int, most: int) -> Load:
    """Ask until denied, at most so often."""
    for _ in range(most):
        asked = yield 0, client
        if not asked.answer.allowed:
            return


def _greedy(start_us: int, until_us: int, every_us: int) -> Load:
    """Ask again at once where it passed, and after a while where it did not."""
    due_us = start_us
    while due_us < until_us:
        asked = yield due_us, 0
        due_us = asked.answered_us if asked.answer.allowed else due_us + every_us


def own_seam(start_us: int, effort: Effort) -> Load:
    """One unit, then all else just before a window from there ends, and whatever the next ones have."""
    period_us = effort.period_us
    yield start_us, 0
    yield from _greedy(
        start_us + period_us - period_us // 20, start_us + 3 * period_us, period_us // 100
    )


def clock_seam(start_us: int, effort: Effort) -> Load:
    """All there is just before a multiple of the period, and whatever comes after it."""
    limit, period_us = effort.limit, effort.period_us
    seam_us = (start_us // period_us + 1) * period_us
    if seam_us - start_us < period_us // 2:
        seam_us += period_us
    yield seam_us - period_us // _BEFORE_SEAM, 0
    yield from _flood(0, 2 * limit)
    yield from _greedy(seam_us, seam_us + 3 * period_us // 2, period_us // 100)


def idleness(start_us: int, effort: Effort) -> Load:
    """All there is, nothing for two periods, then all there is again and whatever comes after it."""
    limit, period_us = effort.limit, effort.period_us
    yield start_us, 0
    yield from _flood(0, 2 * limit)
    begin_us = start_us + 2 * period_us
    yield from _greedy(begin_us, begin_us + 3 * period_us // 2, period_us // 100)


def overload(start_us: int, effort: Effort) -> Load:
    """Five times what may pass, evenly."""
    limit, period_us = effort.limit, effort.period_us
    every_us = period_us // (OVERLOAD * limit)
    for number in range(effort.real_periods * OVERLOAD * limit):
        yield start_us + number * every_us, 0


def skewed(start_us: int, effort: Effort) -> Load:
    """The same from two clients in turn, the clock of one of which is half a period ahead."""
    limit, period_us = effort.limit, effort.period_us
    every_us = period_us // (OVERLOAD * limit)
    for number in range(effort.real_periods * OVERLOAD * limit):
        yield start_us + number * every_us, number % 2


def retries(start_us: int, effort: Effort) -> Load:
    """All there is within half a period, then every few milliseconds."""
    limit, period_us = effort.limit, effort.period_us
    for number in range(limit):
        yield start_us + number * period_us // (2 * limit), 0
    due_us = start_us + period_us // 2
    while due_us < start_us + effort.retries_us:
        asked = yield due_us, 0
        due_us = asked.answered_us + (0 if asked.answer.allowed else _EVERY_US)


LOADS: Mapping[str, Callable[[int, Effort], Load]] = {
    "window's own seam": own_seam,
    "seam on the clock": clock_seam,
    "after idleness": idleness,
    "overload": overload,
    "a clock ahead": skewed,
}
#: Those of which a quick run sees enough.
QUICKLY = ("window's own seam", "overload", "a clock ahead")


@dataclass
class Found:
    """What one contender did under the loads."""

    most: dict[str, int] = field(default_factory=dict)
    """By the load: the most that was for certain admitted in one period."""
    under: float | None = None
    errors_us: list[float] = field(default_factory=list)
    """Told less true time until it opens, of the denials whose opening was seen: as much of it as is
    certain, and 0 where it may have been true."""
    uncertain_us: int = 0
    """How exactly the openings are known."""
    admitted_us: dict[str, list[int]] = field(default_factory=dict)
    """By the load: when units were admitted, from the load's beginning on."""

    @property
    def early_us(self) -> float:
        """The most by which a caller was sent away too early."""
        return max(0.0, -min(self.errors_us, default=0.0))

    @property
    def error_us(self) -> tuple[float, float, float] | None:
        """Median, smallest and largest."""
        if not self.errors_us:
            return None
        return statistics.median(self.errors_us), min(self.errors_us), max(self.errors_us)


#: Makes the contenders on subjects of that name.
Make = Callable[[str], Sequence[Contender]]


def measure(make: Make, effort: Effort, names: Sequence[str], step: Step) -> dict[str, Found]:
    """All contenders under all loads, by their titles."""
    limit, period_us = effort.limit, effort.period_us
    found: dict[str, Found] = {}
    for load in names:
        field_ = make(f"load-{load.replace(' ', '-')}")
        for contender, (start_us, asked) in zip(
            field_, _run(field_, LOADS[load], effort), strict=True
        ):
            one = found.setdefault(title(contender), Found())
            admitted = _admitted(asked)
            one.most[load] = most_in_any_window(admitted, period_us)
            one.admitted_us[load] = [hit.last_us - start_us for hit in admitted]
            if load == "overload":
                one.under = under_admission(
                    admitted, start_us + period_us, effort.real_periods - 1, limit, period_us
                )
        step()
    field_ = make("retries")
    for first in range(0, len(field_), _SIDE_BY_SIDE):
        some = field_[first : first + _SIDE_BY_SIDE]
        for contender, (_, asked) in zip(some, _run(some, retries, effort), strict=True):
            _judge(asked, found.setdefault(title(contender), Found()))
        step()
    return found


def steps(count: int, names: Sequence[str]) -> int:
    """How often ``measure`` says that a step is done."""
    return len(names) + -(-count // _SIDE_BY_SIDE)


def title(contender: Contender) -> str:
    """What the contender is called in a table."""
    return f"{contender.library} {contender.name}"


def _run(
    field_: Sequence[Contender], load: Callable[[int, Effort], Load], effort: Effort
) -> list[tuple[int, list[Asked]]]:
    """Ask each contender when its load says so; when each load began, and every call."""
    period_us = effort.period_us
    clients = []
    for contender in field_:
        ahead = clock_ahead(contender.package, period_us / 2e6)
        clients.append((contender.client(), contender.client(), ahead))
    # They begin one after the other, so that their seams do not fall together.
    begin_us = _now_us() + 50_000
    starts = [begin_us + place * period_us // len(field_) for place in range(len(field_))]
    loads = [load(start_us, effort) for start_us in starts]
    asked: list[list[Asked]] = [[] for _ in field_]
    due = [(*next(one), place) for place, one in enumerate(loads)]
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
        one = Asked(sent_us, answered_us, answer)
        asked[place].append(one)
        try:
            heapq.heappush(due, (*loads[place].send(one), place))
        except StopIteration:
            continue
    return list(zip(starts, asked, strict=True))


def _admitted(asked: Sequence[Asked]) -> list[Admitted]:
    return [Admitted(one.earliest_us, one.latest_us) for one in asked if one.answer.allowed]


def _judge(asked: Sequence[Asked], found: Found) -> None:
    """Compare what every denial told with the time at which the next call passed."""
    row: list[Asked] = []
    for one in asked:
        if not one.answer.allowed:
            row.append(one)
            continue
        if row:
            # It opened after the last denial, and not after the call that passed.
            opened_us = row[-1].earliest_us + 1, one.latest_us
            found.uncertain_us = max(found.uncertain_us, opened_us[1] - opened_us[0])
            for denied in row:
                told_us = denied.answer.retry_us
                found.errors_us.append(
                    max(0.0, denied.earliest_us + told_us - opened_us[1])
                    or min(0.0, denied.latest_us + told_us - opened_us[0])
                )
        row = []


def violations(contender: Contender, found: Found) -> list[str]:
    """Of ours: every bound that was exceeded, and every caller who was sent away too early."""
    if not contender.ours:
        return []
    said = [
        f"{title(contender)}, {load}, in real time: {most} in one period, "
        f"where at most {contender.bound} may be"
        for load, most in found.most.items()
        if most > contender.bound
    ]
    if found.early_us:
        said.append(
            f"{title(contender)}, in real time: told to come back {found.early_us:.0f} us too early"
        )
    return said

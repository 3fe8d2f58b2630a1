"""Replay the requests of logs through the policies of a file, each at the time that its log reports.

The decisions are those of ``memory://``: its rules for several policies, and the steps of the algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import nlargest
from typing import Any

from limiter import units
from limiter.call import STRIDE, Block
from limiter.keys import Key
from limiter.memory.decide import ask
from limiter.policyfile.policy import Named
from limiter.policyfile.reading import PolicyFile
from limiter.simulate.checks import Applied, Finder, Found, plan_of_rates
from limiter.simulate.entry import Entry
from limiter.simulate.report import DeniedSubject, Memory, PolicyReport, Report, Second
from limiter.simulate.states import States, states_of
from limiter.web.by_response import Head
from limiter.web.identity import Network
from limiter.web.subjects import disguised, spelled

#: Called for each check with the time in microseconds, and whether the policy had no room.
Observer = Callable[[Applied, int, bool], object]

#: Subjects that were denied most often, in a report.
_WORST = 10
#: A subject that was denied up to this often was perhaps denied by mistake.
_SELDOM = 2
_TOO_MANY_REQUESTS = 429


class Replay:
    """Decides requests in the order of their time, and counts what each policy does.

    Attributes:
        requests, denied, refused: As in ``Report``.
        turned_away: Requests whose response had the status 429 already.
        has_fractions: Whether a time of the log was no whole second.
        has_hosts, has_statuses: Whether the log reports hosts, and the statuses of responses.

    """

    def __init__(
        self,
        file: PolicyFile,
        trusted: Sequence[Network] = (),
        needed: Sequence[str] = (),
        observe: Observer | None = None,
    ) -> None:
        self._finder = Finder(file, trusted, needed)
        self._tallies = [_Tally(named) for named in file.policies.values()]
        self._observe = observe
        self._settles = any(tally.rule.by_response for tally in self._tallies)
        self._begin_us: int | None = None
        self._second_us = self._end_us = 0
        self.requests = self.denied = self.refused = self.turned_away = 0
        self.has_fractions = self.has_hosts = self.has_statuses = False

    @property
    def fields_seen(self) -> set[str]:
        """The header fields that the policies need, as far as a request had them."""
        return self._finder.seen

    @property
    def has_proxy(self) -> bool:
        """Whether a trusted proxy has reported the address of a client."""
        return self._finder.has_proxy

    def run(self, entries: Iterable[Entry]) -> None:
        """Decide the requests of entries, which are in the order of their time."""
        find, is_plain = self._finder.find, not self._settles and self._observe is None
        for entry in entries:
            self._end_us = time_us = entry[0]
            if time_us >= self._second_us:
                self._turn(entry)
            self.requests += 1
            if entry[6] == _TOO_MANY_REQUESTS:
                self.turned_away += 1
            found = find(entry)
            if is_plain and found.is_single:
                self._decide_only(found.applied[0], found.template.blocks[0], time_us)
            elif not ((found.unidentified or found.too_large) and self._refuses(found)):
                self._decide(found, entry)

    def report(self, is_hashed: bool = False) -> Report:
        """Return what was counted until now; ``is_hashed``: subjects are shown as short hashes."""
        for tally in self._tallies:
            tally.count_second(self._second_us - units.SECOND_US)
            tally.measure(self._end_us)
        return Report(
            requests=self.requests,
            denied=self.denied,
            refused=self.refused,
            begin_us=self._begin_us,
            end_us=None if self._begin_us is None else self._end_us,
            policies=[tally.completed(is_hashed) for tally in self._tallies],
        )

    def _turn(self, entry: Entry) -> None:
        """End a second, before the first request of another one."""
        time_us = entry.time_us
        if self._begin_us is None:
            self._begin_us = time_us
        for tally in self._tallies:
            tally.count_second(self._second_us - units.SECOND_US)
            tally.turn(time_us, self._second_us)
        self._second_us = time_us - time_us % units.SECOND_US + units.SECOND_US
        self.has_fractions |= time_us % units.SECOND_US > 0
        self.has_hosts |= bool(entry.host)
        self.has_statuses |= bool(entry.status)

    def _refuses(self, found: Found) -> bool:
        """Count a request that some policies cannot check; return whether they refuse it.

        If no request before had a key for a policy, the log does not report the keys: then the others go on
        without this policy.
        """
        refuses = found.is_refused
        for place in found.unidentified:
            tally = self._tallies[place]
            tally.report.unidentified += 1
            refuses = refuses or (tally.has_requests and not tally.rule.shadow)
        for place in found.too_large:
            self._tallies[place].report.too_large += 1
        self.refused += refuses
        return refuses

    def _decide_only(self, applied: Applied, block: Block, time_us: int) -> None:
        """Decide the only block of a request: as ``ask``, which takes twice as long."""
        place, subject, cost, _, _ = applied
        tally = self._tallies[place]
        states = tally.states[block.key]
        step = block.policy.step(states.read(subject), time_us)
        lacks_room = step.room < block.cost
        if not lacks_room:
            step.charge(block.cost)
            states.write(subject, step)
        else:
            self.denied += not block.shadow
            if step.needs_repair:
                states.write(subject, step)
        tally.add(subject, cost, time_us, lacks_room)

    def _decide(self, found: Found, entry: Entry) -> None:
        """Charge all policies that apply to a request, or none."""
        time_us = entry[0]
        tallies, template = self._tallies, found.template
        places, steps = [], []
        for place, subject, _, blocks, _ in found.applied:
            for at in blocks:
                block = template.blocks[at]
                states = tallies[place].states[block.key]
                places.append((states, subject))
                steps.append(block.policy.step(states.read(subject), time_us))
        reply, writes = ask(template, True, steps)
        for at in writes:
            states, subject = places[at]
            states.write(subject, steps[at])
        is_denied = False
        for applied in found.applied:
            tally = tallies[applied.rule]
            lacks_room = any(reply[at * STRIDE + 2] for at in applied.blocks)
            tally.add(applied.subject, applied.cost, time_us, lacks_room)
            is_denied = is_denied or (lacks_room and not tally.rule.shadow)
            if self._observe is not None:
                self._observe(applied, time_us, lacks_room)
        self.denied += is_denied
        if self._settles and entry.status and not is_denied:
            self._settle(found, entry, reply)

    def _settle(self, found: Found, entry: Entry, reply: Sequence[int]) -> None:
        """Refund what a response shows to cost nothing."""
        for place, subject, _, blocks, _ in found.applied:
            tally = self._tallies[place]
            by_response: Any = tally.rule.by_response
            if by_response is None or by_response(Head(entry.status)) != 0:
                continue
            for at in blocks:
                granted, block = reply[at * STRIDE], found.template.blocks[at]
                states = tally.states[block.key]
                if granted:
                    step = block.policy.step(states.read(subject), entry.time_us)
                    if step.refund(granted):
                        states.write(subject, step)


class _Tally:
    """What one policy does: its report, and the counts of its subjects."""

    def __init__(self, named: Named) -> None:
        self.rule = named.rule
        self.plan = plan_of_rates(self.rule)
        self.states: list[States] = [] if self.plan is None else states_of(self.plan)
        self.report = PolicyReport(
            self.rule.name,
            self.rule.limiter.policies,
            named.description["key"],
            self.rule.unit,
            self.rule.shadow,
        )
        #: The number of requests, and of denials, of each subject.
        self._requests: dict[Key, int] = {}
        self._denials: dict[Key, int] = {}
        #: The requests of the present second, their cost, and the number that was denied.
        self._now = self._now_cost = self._now_denied = 0

    @property
    def has_requests(self) -> bool:
        """Whether the policy has applied to a request."""
        return bool(self._requests)

    def add(self, subject: Key, cost: int, time_us: int, is_denied: bool) -> None:
        """Count a check."""
        self._requests[subject] = self._requests.get(subject, 0) + 1
        self._now += 1
        self._now_cost += cost
        if is_denied:
            self._now_denied += 1
            self._denials[subject] = self._denials.get(subject, 0) + 1
            if self.report.first_denial_us is None:
                self.report.first_denial_us = time_us

    def count_second(self, second_us: int) -> None:
        """End the second that began at ``second_us``."""
        report = self.report
        if self._now:
            if report.busiest is None or self._now > report.busiest.requests:
                report.busiest = Second(second_us, self._now)
            report.timeline.add(second_us, self._now - self._now_denied, self._now_denied)
            report.requests += self._now
            report.cost += self._now_cost
            report.denied += self._now_denied
            self._now = self._now_cost = self._now_denied = 0

    def turn(self, now_us: int, before_us: int) -> None:
        """Drop expired state before a request; ``before_us`` is the end of the last second that had any."""
        if any(states.is_due(now_us) for states in self.states):
            self.measure(before_us)
            for states in self.states:
                if states.is_due(now_us):
                    states.turn(now_us)

    def measure(self, now_us: int) -> None:
        """Look how much memory the state takes now."""
        if self.plan is None:
            return
        usages = [states.usage(self.plan, now_us) for states in self.states]
        size = sum(usage.bytes for usage in usages)
        if size > self.report.memory.bytes:
            self.report.memory = Memory(size, sum(usage.keys for usage in usages), now_us)

    def completed(self, is_hashed: bool) -> PolicyReport:
        """Return the report with what the counts of the subjects show."""
        report, show = self.report, disguised if is_hashed else spelled
        report.subjects = len(self._requests)
        report.denied_subjects = len(self._denials)
        report.seldom_denied = sum(count <= _SELDOM for count in self._denials.values())
        worst = nlargest(_WORST, self._denials.items(), key=lambda each: each[1])
        report.worst = [
            DeniedSubject(show(subject), self._requests[subject], denied)
            for subject, denied in worst
        ]
        return report

"""Replay the requests of logs through the policies of a file, each at the time that its log reports.

The decisions are those of ``memory://``: its rules for several policies, and the steps of the algorithms.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from heapq import nlargest
from typing import Any, NamedTuple

from limiter import units
from limiter.call import STRIDE
from limiter.keys import Key
from limiter.memory.decide import ask
from limiter.policies import Policy
from limiter.policyfile.policy import Named
from limiter.policyfile.reading import PolicyFile
from limiter.simulate.checks import Checks, Finder, plan_of_rates
from limiter.simulate.entry import Entry
from limiter.simulate.report import DeniedSubject, Memory, PolicyReport, Report, Second
from limiter.simulate.states import States, states_of
from limiter.web.by_response import Head
from limiter.web.identity import Network
from limiter.web.subjects import disguised, spelled


class Applied(NamedTuple):
    """A rule that applied to a request."""

    rule: int
    """The place of the rule."""
    subject: Key
    cost: int
    limits: tuple[Policy, ...]
    """The limits of the subject, as in ``checks.Charge``."""


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
        observe: Observer | None = None,
    ) -> None:
        self._tallies = [_Tally(named) for named in file.policies.values()]
        self._finder = Finder(file, trusted, [tally.states for tally in self._tallies])
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
        """Decide the requests of entries, which are in the order of their time.

        The garbage collector is off meanwhile: nothing here makes cycles, and a look at the state of all
        subjects takes long.
        """
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            self._run(entries)
        finally:
            if was_enabled:
                gc.enable()

    def _run(self, entries: Iterable[Entry]) -> None:
        find, decide_only = self._finder.find, self._decide_only
        is_plain = not self._settles and self._observe is None
        for entry in entries:
            time_us = entry[0]
            if time_us >= self._second_us:
                self._turn(entry)
            self._end_us = time_us
            self.requests += 1
            if entry[6] == _TOO_MANY_REQUESTS:
                self.turned_away += 1
            checks, subjects = find(entry)
            if is_plain and checks.is_single:
                decide_only(checks, subjects[0], time_us)
            elif not ((checks.unidentified or checks.too_large) and self._refuses(checks)):
                self._decide(checks, subjects, entry)

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

    def _refuses(self, checks: Checks) -> bool:
        """Count a request that some policies cannot check; return whether they refuse it.

        If no request before had a key for a policy, the log does not report the keys: then the others go on
        without this policy.
        """
        refuses = checks.is_refused
        for place in checks.unidentified:
            tally = self._tallies[place]
            tally.report.unidentified += 1
            refuses = refuses or (tally.has_requests and not tally.rule.shadow)
        for place in checks.too_large:
            self._tallies[place].report.too_large += 1
        self.refused += refuses
        return refuses

    def _decide_only(self, checks: Checks, subject: Key, time_us: int) -> None:
        """Decide the only block of a request: as ``ask``, which takes twice as long."""
        (charge,), ((_, states, policy),), (block,) = (
            checks.charges,
            checks.places,
            checks.template.blocks,
        )
        step = policy.step(states.read(subject), time_us)
        lacks_room = step.room < block.cost
        if not lacks_room:
            step.charge(block.cost)
            states.write(subject, step)
        else:
            self.denied += not block.shadow
            if step.needs_repair:
                states.write(subject, step)
        self._tallies[charge.rule].add(subject, charge.cost, time_us, lacks_room)

    def _decide(self, checks: Checks, subjects: Sequence[Key], entry: Entry) -> None:
        """Charge all policies that apply to a request, or none."""
        time_us = entry[0]
        steps = [
            policy.step(states.read(subjects[at]), time_us) for at, states, policy in checks.places
        ]
        reply, writes = ask(checks.template, True, steps)
        for block in writes:
            at, states, _ = checks.places[block]
            states.write(subjects[at], steps[block])
        waits = reply[2::STRIDE]
        may_lack = any(waits)
        is_denied = False
        for (rule, cost, limits, blocks), subject in zip(checks.charges, subjects, strict=True):
            lacks_room = may_lack and any(waits[at] for at in blocks)
            tally = self._tallies[rule]
            tally.add(subject, cost, time_us, lacks_room)
            is_denied = is_denied or (lacks_room and not tally.rule.shadow)
            if self._observe is not None:
                self._observe(Applied(rule, subject, cost, limits), time_us, lacks_room)
        self.denied += is_denied
        if self._settles and entry.status and not is_denied:
            self._settle(checks, subjects, entry, reply)

    def _settle(
        self, checks: Checks, subjects: Sequence[Key], entry: Entry, reply: Sequence[int]
    ) -> None:
        """Refund what a response shows to cost nothing."""
        for (at, states, policy), granted in zip(checks.places, reply[::STRIDE], strict=True):
            by_response: Any = self._tallies[checks.charges[at].rule].rule.by_response
            if granted and by_response is not None and by_response(Head(entry.status)) == 0:
                step = policy.step(states.read(subjects[at]), entry.time_us)
                if step.refund(granted):
                    states.write(subjects[at], step)


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

"""Keep the requests of each policy while logs are replayed, for suggestions and plots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain

from limiter.policyfile.reading import PolicyFile
from limiter.simulate.checks import plan_of_rates
from limiter.simulate.curves import LimitCurves, WorstSubject, limit_curves, worst_subjects
from limiter.simulate.demand import Demand
from limiter.simulate.replay import Applied
from limiter.simulate.suggest import Suggestion, suggest


class Observed:
    """The requests of each policy of a file; its ``add`` is a ``replay.Observer``.

    Subjects with other limits than the policy's own, by a plan, an override or a class, say nothing about
    these limits: they have no part in suggestions and curves.
    """

    def __init__(self, file: PolicyFile) -> None:
        self._stack = ExitStack()
        plans = [plan_of_rates(named.rule) for named in file.policies.values()]
        self._names = list(file.policies)
        self._refund = [named.rule.by_response is not None for named in file.policies.values()]
        self._limits = [() if plan is None else plan.policies for plan in plans]
        self._own = [self._stack.enter_context(Demand()) for _ in plans]
        self._others = [self._stack.enter_context(Demand()) for _ in plans]

    def add(self, applied: Applied, time_us: int, lacks_room: bool) -> None:
        """Keep a check."""
        place = applied.rule
        demands = self._own if applied.limits == self._limits[place] else self._others
        demands[place].add(applied.subject, time_us, applied.cost, lacks_room)

    def suggestions(self, place: int, share: Fraction) -> Iterator[Suggestion]:
        """Yield a suggestion for each limit of a policy of the file."""
        for limit in self._limits[place]:
            suggestion = suggest(
                self._own[place], share, limit.period_us, self._names[place], limit
            )
            if self._refund[place] and suggestion.subjects:
                suggestion.notes.append("Refunds by the response are left out: they need less.")
            yield suggestion

    def curves(self, place: int) -> Iterator[LimitCurves]:
        """Yield the curves of each limit of a policy of the file; none if no subject counts by them."""
        if self._own[place].subjects:
            for limit in self._limits[place]:
                yield limit_curves(limit, self._own[place])

    def worst(self, place: int) -> list[WorstSubject]:
        """The subjects that a policy of the file denied most often."""
        return worst_subjects(chain(self._own[place], self._others[place]))

    def close(self) -> None:
        """Delete the temporary files."""
        self._stack.close()

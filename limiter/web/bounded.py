"""Charges the checks of one request, with a bound on the new subjects of its client's address."""

from __future__ import annotations

from collections.abc import Iterable

from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Flow
from limiter.web.charges import Charge, asking_flow, deciding_flow
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.request import Request
from limiter.web.rules import Check, Rule
from limiter.web.verdict import Verdict


def bounded_flow(
    request: Request,
    charges: list[Charge],
    shadowed: list[tuple[Rule, LimiterError]],
    unavailable: StoreUnavailable | None,
) -> Flow[Verdict]:
    """Decide as ``deciding_flow``; no subject beyond the bound is written.

    A rule in shadow mode whose bound is reached is added to ``shadowed``, and not charged.

    Raises:
        TooManyNewSubjects: A rule that is not in shadow mode has no room for another subject.

    """
    begun: list[Check] = []
    try:
        kept = []
        try:
            for charge in charges:
                try:
                    yield from _beginning_flow(charge, begun, unavailable)
                    kept.append(charge)
                except TooManyNewSubjects as error:
                    if not charge.rule.shadow:
                        raise
                    shadowed.append((charge.rule, error))
        except StoreUnavailable as error:
            kept, unavailable = charges, error
        verdict = yield from deciding_flow(request, kept, unavailable)
    except LimiterError:
        _take_back(begun)
        raise
    decisions = {id(result.rule): result.decision for result in verdict.results}
    _take_back(check for check in begun if not _was_begun(decisions.get(id(check.rule))))
    return verdict


def _beginning_flow(
    charge: Charge, begun: list[Check], unavailable: StoreUnavailable | None
) -> Flow[None]:
    """Count a new subject of an address; peek at the store only if the address began too many.

    Raises:
        TooManyNewSubjects: The store does not know the subject.

    """
    check, rule = charge.check, charge.rule
    limit, address = rule.new_subjects, check.address
    if limit is None or address is None:
        return
    begins = limit.begins(address, check.key)
    if begins:
        begun.append(check)
    if begins is not False:
        return
    if unavailable is not None:
        raise unavailable
    alone = [charge._replace(part=charge.part._replace(shadow=False))]
    (decision,) = yield from asking_flow(alone, "peek")
    if not _was_known(decision):
        raise TooManyNewSubjects(rule.name, limit, limit.retry_after(address))


def _was_known(decision: Decision) -> bool:
    """Whether the subject had used units of a policy before this decision."""
    return any(part.remaining + part.granted != part.policy.capacity for part in decision.each)


def _was_begun(decision: Decision | None) -> bool:
    """Whether this decision wrote a subject that was new to the store."""
    return not (decision is None or decision.degraded or _was_known(decision))


def _take_back(begun: Iterable[Check]) -> None:
    """Stop counting these as new subjects: the store had them already, or did not decide."""
    for check in begun:
        if check.rule.new_subjects is not None and check.address is not None:
            check.rule.new_subjects.take_back(check.address, check.key)

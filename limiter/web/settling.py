"""Settles what the rules charged a request, when its response shows the true cost.

The cost was charged before the application ran. So simultaneous requests never pass together where one
alone would fill the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from limiter.flows import Flow
from limiter.web import limiter_calls
from limiter.web.limiter_calls import core_of
from limiter.web.verdict import Result, Verdict


class Settlement(NamedTuple):
    """A rule's decision, and the true cost of the request."""

    result: Result
    cost: int


def due(verdict: Verdict, response: Any) -> list[Settlement]:
    """Return what is to settle after a response: ``Rule.by_response`` says so, once for each result.

    Raises: What a function of the application raises; nothing is settled then.
    """
    if not (verdict.settles and verdict.allowed):
        return []
    found = []
    for result in verdict.results:
        by_response = result.rule.by_response
        if by_response is not None and id(result.part) not in verdict.settled:
            cost = by_response(response)
            if cost is not None:
                found.append(Settlement(result, cost))
    if found:
        verdict.settled |= {id(each.result.part) for each in found}
    return found


def settling_flow(settlements: Sequence[Settlement]) -> Flow[bool]:
    """Refund what was charged too much, charge what was too little; return whether that arrived."""
    results = [each.result for each in settlements]
    return limiter_calls.settle_flow(
        [result.rule.limiter for result in results],
        [result.part for result in results],
        [result.decision for result in results],
        [each.cost for each in settlements],
    )


def settle(verdict: Verdict, response: Any) -> list[Settlement]:
    """Settle, for threads; return what was settled. If the store does not answer, the charge stays.

    Raises: As ``due``.
    """
    settlements = due(verdict, response)
    if not settlements:
        return []
    core = core_of(settlements[0].result.rule.limiter)
    return settlements if core.drive(settling_flow(settlements)) else []

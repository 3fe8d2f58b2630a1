"""Charges the checks of one request, all or none: in one call to the store, else by ``on_error``."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from limiter import several
from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Await, Flow
from limiter.leases import HeldLease
from limiter.plan import Part
from limiter.web import limiter_calls
from limiter.web.limiter_calls import core_of
from limiter.web.request import Request
from limiter.web.rules import Check, Rule
from limiter.web.verdict import Result, Verdict


class Charge(NamedTuple):
    """A check, and its part of the call to the store."""

    check: Check
    part: Part

    @classmethod
    def of(cls, check: Check) -> Charge:
        """Make the charge of a check.

        Raises:
            InvalidCost: The cost is more than the limits ever admit at once.

        """
        return cls(check, check.part())

    @property
    def rule(self) -> Rule:
        """The rule of the check."""
        return self.check.rule

    def hit(self) -> Any:
        """Call the limiter's own ``hit``; return its decision, in an event loop an awaitable of it."""
        rule, key, cost, limits, *_ = self.check
        return rule.limiter.hit(key, cost, limits=limits)

    def verdict(self, decision: Decision, request: Request) -> Verdict:
        """Return the verdict of a decision of ``hit``."""
        return Verdict.of_hit(self.result(decision), self.part.plan, request)

    def result(self, decision: Decision) -> Result:
        """Return the result of a decision."""
        return Result(self.check.rule, decision, self.check.charged(self.part))


def for_hit(charges: Sequence[Charge]) -> Charge | None:
    """Return the only charge, if its limiter's own ``hit`` can decide.

    It is faster, and spends prepaid units; in an event loop it also joins equal hits.
    """
    if len(charges) != 1:
        return None
    charge = charges[0]
    check, part = charge
    core = core_of(check.rule.limiter)
    if part.shadow or part.plan.leases or core.timeout != core.store.timeout:
        return None
    return charge


def deciding_flow(
    request: Request, charges: list[Charge], unavailable: StoreUnavailable | None
) -> Flow[Verdict]:
    """Decide in one call to the store, else by each rule's ``on_error``; keep the leases.

    ``unavailable`` is an earlier error of the store: then this makes no call to it.
    """
    if not charges:
        return Verdict()
    if unavailable is None and (only := for_hit(charges)):
        try:
            decision = only.hit()
            if not isinstance(decision, Decision):
                decision = yield Await(decision)
        except StoreUnavailable as error:
            unavailable = error
        else:
            return only.verdict(decision, request)
    # Not by ``counts_leases``: a function of Flask may return other limits for each request.
    leased = any(charge.part.plan.leases for charge in charges)
    lease, began = (secrets.token_hex(16), monotonic()) if leased else ("", 0.0)
    mode = "acquire" if leased else "hit"
    try:
        if unavailable is not None:
            raise unavailable
        decisions = yield from asking_flow(charges, mode, lease)
    except StoreUnavailable as error:
        unavailable = error
        _forget(charges, lease, error)
        cores = [core_of(charge.rule.limiter) for charge in charges]
        parts = [charge.part for charge in charges]
        decisions = several.decide_without_store(cores, parts, mode, lease)
    except LimiterError:
        raise
    except BaseException:  # an interrupted call may have taken leases
        _forget(charges, lease, StoreUnavailable("the request was interrupted"))
        raise
    results = tuple(
        charge.result(decision) for charge, decision in zip(charges, decisions, strict=True)
    )
    verdict = Verdict.of_results(results, request, unavailable)
    if leased and verdict.allowed:
        yield from _keeping_flow(verdict, lease, began)
    return verdict


def asking_flow(charges: list[Charge], mode: str, lease: str = "") -> Flow[list[Decision]]:
    """One joint call, within the shortest of the rules' timeouts."""
    limiters = [charge.rule.limiter for charge in charges]
    parts = [charge.part for charge in charges]
    return limiter_calls.decide_flow(limiters, parts, mode, lease)


def _keeping_flow(verdict: Verdict, lease: str, began: float) -> Flow[None]:
    """Have the leases renewed; a rule in shadow mode may have got none.

    Raises:
        StoreUnavailable: Nothing can renew the leases; they are released.

    """
    leased = [each for each in verdict.results if each.part.plan.leases and each.decision.allowed]
    try:
        for rule, decision, part in leased:
            held = HeldLease.of_part(core_of(rule.limiter), part, lease)
            held.keep(decision, began)
            verdict.leases.append((rule.limiter, held))
    except LimiterError as error:
        for _, held in verdict.leases:
            yield from held.release_flow()
        _forget(leased, lease, StoreUnavailable(str(error)))
        raise


def _forget(charges: Iterable[Charge | Result], lease: str, why: StoreUnavailable) -> None:
    """Release later the leases that a call may have taken before it failed."""
    for charge in charges:
        if charge.part.plan.leases:
            HeldLease.of_part(core_of(charge.rule.limiter), charge.part, lease).forget(why)

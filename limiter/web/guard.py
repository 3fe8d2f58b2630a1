"""Checks one request against all rules that apply to it, in one call to the store.

It knows no framework: an adapter makes the request, and writes the verdict as a response.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.errors import InvalidCost, InvalidSetting, LimiterError, StoreUnavailable
from limiter.flows import Flow
from limiter.log_throttle import log_seldom
from limiter.web.bounded import bounded_flow
from limiter.web.charges import Charge, deciding_flow, for_hit
from limiter.web.identity import Network, TrustedNetworks, Unidentified
from limiter.web.limiter_calls import core_of
from limiter.web.match import SkipReason
from limiter.web.request import Request
from limiter.web.rules import Check, Rule
from limiter.web.verdict import Observer as Observer
from limiter.web.verdict import Result as Result
from limiter.web.verdict import Verdict as Verdict  # for users who write an observer

log = logging.getLogger("limiter.web")

_Limiter = TypeVar("_Limiter", Limiter, AsyncLimiter)

#: Rules in shadow mode that could not be evaluated, and why.
_Shadowed = list[tuple[Rule, LimiterError]]


class _Guard(Generic[_Limiter]):
    """Rules that are checked in one call; a subclass makes the round trip.

    ``address_from`` is the header field in which trusted proxies write the client's address: one of
    ``identity.ADDRESS_FROM``.

    Raises:
        InvalidSetting: The rules' limiters do not share one store's connections.

    """

    def __init__(
        self,
        rules: Iterable[Rule],
        trusted: Sequence[Network] = (),
        observe: Observer | None = None,
        address_from: str = "x-forwarded-for",
    ) -> None:
        self.rules = tuple(rules)
        self.trusted = TrustedNetworks.of(trusted)  # several guards share what it has found
        self.address_from = address_from
        self.counts_leases = any(rule.counts_leases for rule in self.rules)
        self._bounds_subjects = any(rule.new_subjects is not None for rule in self.rules)
        self.is_observed = observe is not None
        self._observe = observe
        self.settles = any(rule.by_response is not None for rule in self.rules)
        self._routed = [rule for rule in self.rules if not rule.match.is_everything]
        for rule in self.rules:
            first = self.rules[0].limiter
            if core_of(rule.limiter).store is not core_of(first).store:
                raise InvalidSetting(
                    f"store of rule {rule.name} is not the store of rule {first.name}: expected one store "
                    f"for all rules of a guard; make the limiter with store=<the other limiter>"
                )

    def consider(self, request: Request, rule: Rule) -> Check | SkipReason:
        """Return one rule's check of a request, or the reason why the rule does not apply.

        Raises:
            Unidentified: The caller cannot be identified, and the rule refuses such requests.

        """
        return self._considered(self._with_address_from(request), rule)

    def _considered(self, request: Request, rule: Rule) -> Check | SkipReason:
        if rule.is_default and self._is_routed(request, rule):
            return SkipReason.ROUTED
        return rule.consider(request, self.trusted)

    def _with_address_from(self, request: Request) -> Request:
        if request.address_from == self.address_from:
            return request
        return request.changed(address_from=self.address_from)

    def _is_routed(self, request: Request, default: Rule) -> bool:
        """Whether another rule, with a match of its own, decides about the request."""
        for rule in self._routed:
            if rule is default or rule.shadow:
                continue
            try:
                outcome = rule.consider(request, self.trusted)
            except Unidentified:
                return True  # the rule refuses the request
            if isinstance(outcome, Check) or outcome.is_meant:
                return True
        return False

    def _charges(self, request: Request, shadowed: _Shadowed) -> list[Charge]:
        """Return the checks of the rules that apply to a request, with their parts of the call.

        Raises:
            Unidentified: The caller cannot be identified, and one of the rules refuses such requests.
            InvalidCost: A cost is more than a limit ever admits at once.

        """
        charges = []
        for rule in self.rules:
            try:
                if rule.is_default:
                    check = self._considered(request, rule)
                else:
                    check = rule.consider(request, self.trusted)
                if isinstance(check, Check):
                    charges.append(Charge.of(check))
            except (Unidentified, InvalidCost) as error:
                if not rule.shadow:
                    raise
                shadowed.append((rule, error))
        return charges

    def _entering_flow(
        self, request: Request, unavailable: StoreUnavailable | None = None
    ) -> Flow[Verdict]:
        """Check a request against every rule; all are charged, or none.

        ``unavailable`` is an earlier error of the store: then this makes no call to it.
        """
        request = self._with_address_from(request)
        shadowed: _Shadowed = []
        try:
            charges = self._charges(request, shadowed)
        except LimiterError as error:
            verdict = Verdict.of_error(error, request)
        else:
            verdict = yield from self._charging_flow(request, charges, shadowed, unavailable)
        return self._observed(request, verdict, shadowed)

    def _charging_flow(
        self,
        request: Request,
        charges: list[Charge],
        shadowed: _Shadowed,
        unavailable: StoreUnavailable | None,
    ) -> Flow[Verdict]:
        """Charge all checks of a request, or none."""
        try:
            if self._bounds_subjects:
                return (yield from bounded_flow(request, charges, shadowed, unavailable))
            return (yield from deciding_flow(request, charges, unavailable))
        except LimiterError as error:
            in_shadow = bool(charges) and all(charge.rule.shadow for charge in charges)
            return Verdict.of_error(error, request, in_shadow)

    def _observed(self, request: Request, verdict: Verdict, shadowed: _Shadowed) -> Verdict:
        """Complete a verdict, and show it to the observer."""
        verdict.shadowed = shadowed
        if self.settles:
            verdict.settles = True
        if self._observe is not None:
            try:
                self._observe(request, verdict)
            except Exception:  # else the verdict, and the leases in it, would be lost
                log_seldom(log, logging.ERROR, "an observer failed", exc_info=True)
        return verdict

    def _considered_flow(
        self, check: Check, request: Request, unavailable: StoreUnavailable | None
    ) -> Flow[Verdict]:
        """Decide one check, whatever the request is."""
        shadowed: _Shadowed = []
        try:
            charges = []
            try:
                charges.append(Charge.of(check))
            except InvalidCost as error:
                if not check.rule.shadow:
                    raise
                shadowed.append((check.rule, error))
            verdict = yield from deciding_flow(request, charges, unavailable)
        except LimiterError as error:
            verdict = Verdict.of_error(error, request, check.rule.shadow)
        verdict.shadowed = shadowed
        return verdict


class Guard(_Guard[Limiter]):
    """Rules for threads."""

    def enter(self, request: Request, unavailable: StoreUnavailable | None = None) -> Verdict:
        """Check a request against every rule that applies to it; ``leave`` releases its leases.

        ``unavailable`` is an earlier error of the store: then ``on_error`` decides at once.
        """
        if not self.rules:
            return Verdict()
        limiter: Limiter = self.rules[0].limiter
        return core_of(limiter).drive(self._entering_flow(request, unavailable))

    def leave(self, verdict: Verdict) -> None:
        """Release the leases of a request whose response is closed."""
        for limiter, held in verdict.leases:
            core_of(limiter).drive(held.release_flow())


class AsyncGuard(_Guard[AsyncLimiter]):
    """Rules for coroutines."""

    async def enter(self, request: Request, unavailable: StoreUnavailable | None = None) -> Verdict:
        """As ``Guard.enter``.

        If one rule applies, the limiter's own ``hit`` decides, without a flow, which would take longer.
        """
        if not self.rules:
            return Verdict()
        request = self._with_address_from(request)
        shadowed: _Shadowed = []
        try:
            charges = self._charges(request, shadowed)
        except LimiterError as error:
            return self._observed(request, Verdict.of_error(error, request), shadowed)
        if unavailable is None and not self._bounds_subjects and (only := for_hit(charges)):
            try:
                verdict = only.verdict(await only.hit(), request)
                return self._observed(request, verdict, shadowed)
            except StoreUnavailable as error:
                unavailable = error
            except LimiterError as error:
                return self._observed(request, Verdict.of_error(error, request), shadowed)
        limiter: AsyncLimiter = self.rules[0].limiter
        flow = self._charging_flow(request, charges, shadowed, unavailable)
        return self._observed(request, await core_of(limiter).drive(flow), shadowed)

    async def decide(
        self, check: Check, request: Request, unavailable: StoreUnavailable | None = None
    ) -> Verdict:
        """Decide a check of one of the rules, whatever the request is: of a subject that a caller names.

        ``unavailable`` is as in ``enter``.
        """
        limiter: AsyncLimiter = check.rule.limiter
        return await core_of(limiter).drive(self._considered_flow(check, request, unavailable))

    async def leave(self, verdict: Verdict) -> None:
        """As ``Guard.leave``."""
        for limiter, held in verdict.leases:
            await core_of(limiter).surely(held.release_flow())

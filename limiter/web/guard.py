"""Checks one request against all rules that apply to it, in one call to the store.

It knows no framework: an adapter makes the request, and writes the verdict as a response.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from limiter import several
from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import InvalidCost, InvalidSetting, LimiterError, StoreUnavailable
from limiter.flows import Await, Flow
from limiter.leases import HeldLease
from limiter.log_throttle import log_seldom
from limiter.plan import Part
from limiter.web import limiter_calls
from limiter.web.identity import Network, TrustedNetworks, Unidentified
from limiter.web.limiter_calls import core_of
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.request import Request
from limiter.web.rules import Check, Rule, SkipReason
from limiter.web.verdict import Observer as Observer
from limiter.web.verdict import Result as Result
from limiter.web.verdict import Verdict as Verdict  # for users who write an observer
from limiter.web.verdict import header_fields

log = logging.getLogger("limiter.web")

_Limiter = TypeVar("_Limiter", Limiter, AsyncLimiter)

#: Rules in shadow mode that could not be evaluated, and why.
_Shadowed = list[tuple[Rule, LimiterError]]


class _Charge(NamedTuple):
    """A check, and its part of the call to the store."""

    check: Check
    part: Part

    @property
    def rule(self) -> Rule:
        return self.check.rule


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

    def _charges(self, request: Request, shadowed: _Shadowed) -> list[_Charge]:
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
                    charges.append(_Charge(check, check.part()))
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
        charges: list[_Charge],
        shadowed: _Shadowed,
        unavailable: StoreUnavailable | None,
    ) -> Flow[Verdict]:
        """Charge all checks of a request, or none."""
        try:
            if self._bounds_subjects:
                return (yield from self._bounding_flow(request, charges, shadowed, unavailable))
            return (yield from self._deciding_flow(request, charges, unavailable))
        except LimiterError as error:
            in_shadow = bool(charges) and all(charge.rule.shadow for charge in charges)
            return Verdict.of_error(error, request, in_shadow)

    def _observed(self, request: Request, verdict: Verdict, shadowed: _Shadowed) -> Verdict:
        """Complete a verdict, and show it to the observer."""
        verdict.shadowed = shadowed
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
                charges.append(_Charge(check, check.part()))
            except InvalidCost as error:
                if not check.rule.shadow:
                    raise
                shadowed.append((check.rule, error))
            verdict = yield from self._deciding_flow(request, charges, unavailable)
        except LimiterError as error:
            verdict = Verdict.of_error(error, request, check.rule.shadow)
        verdict.shadowed = shadowed
        return verdict

    def _bounding_flow(
        self,
        request: Request,
        charges: list[_Charge],
        shadowed: _Shadowed,
        unavailable: StoreUnavailable | None,
    ) -> Flow[Verdict]:
        """Decide, with a bound on the new subjects of one address; none beyond it is written.

        Raises:
            TooManyNewSubjects: A rule that is not in shadow mode has no room for another subject.

        """
        begun: list[Check] = []
        try:
            kept = []
            try:
                for charge in charges:
                    try:
                        yield from self._beginning_flow(charge, begun, unavailable)
                        kept.append(charge)
                    except TooManyNewSubjects as error:
                        if not charge.rule.shadow:
                            raise
                        shadowed.append((charge.rule, error))
            except StoreUnavailable as error:
                kept, unavailable = charges, error
            verdict = yield from self._deciding_flow(request, kept, unavailable)
        except LimiterError:
            _take_back(begun)
            raise
        decisions = {id(result.rule): result.decision for result in verdict.results}
        _take_back(check for check in begun if not _was_begun(decisions.get(id(check.rule))))
        return verdict

    def _beginning_flow(
        self, charge: _Charge, begun: list[Check], unavailable: StoreUnavailable | None
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
        (decision,) = yield from _Guard._asking_flow(self, alone, "peek", "")
        if not _was_known(decision):
            raise TooManyNewSubjects(rule.name, limit, limit.retry_after(address))

    def _deciding_flow(
        self, request: Request, charges: list[_Charge], unavailable: StoreUnavailable | None
    ) -> Flow[Verdict]:
        """Decide in one call to the store, else by each rule's ``on_error``; keep the leases."""
        if not charges:
            return Verdict()
        # Not by ``counts_leases``: a function of Flask may return other limits for each request.
        leased = any(charge.part.plan.leases for charge in charges)
        lease, began = (secrets.token_hex(16), monotonic()) if leased else ("", 0.0)
        mode = "acquire" if leased else "hit"
        try:
            if unavailable is not None:
                raise unavailable
            decisions = yield from self._asking_flow(charges, mode, lease)
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
            Result(charge.rule, decision, charge.part)
            for charge, decision in zip(charges, decisions, strict=True)
        )
        verdict = Verdict.of_results(results, request, unavailable)
        if leased and verdict.allowed:
            yield from self._keeping_flow(verdict, lease, began)
        return verdict

    def _asking_flow(self, charges: list[_Charge], mode: str, lease: str) -> Flow[list[Decision]]:
        """One joint call, within the shortest of the rules' timeouts."""
        limiters = [charge.rule.limiter for charge in charges]
        parts = [charge.part for charge in charges]
        return limiter_calls.decide_flow(limiters, parts, mode, lease)

    def _keeping_flow(self, verdict: Verdict, lease: str, began: float) -> Flow[None]:
        """Have the leases renewed; a rule in shadow mode may have got none.

        Raises:
            StoreUnavailable: Nothing can renew the leases; they are released.

        """
        leased = [
            each for each in verdict.results if each.part.plan.leases and each.decision.allowed
        ]
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

    def _refunding_flow(self, verdict: Verdict, unused: Iterable[Result]) -> Flow[None]:
        """Refund what some rules have charged, and update the verdict's state."""
        for result in unused:
            limiter = result.rule.limiter
            decision = yield from limiter_calls.refund_flow(limiter, result.part, result.decision)
            if decision is not None:
                refunded = result._replace(decision=decision)
                verdict.results = tuple(
                    refunded if each is result else each for each in verdict.results
                )
        verdict.fields = header_fields(verdict.results)


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

    def _deciding_flow(
        self, request: Request, charges: list[_Charge], unavailable: StoreUnavailable | None
    ) -> Flow[Verdict]:
        """Use the limiter's own ``hit`` if that is enough."""
        if unavailable is None and _are_for_hit(charges):
            check, part = charges[0]
            rule, key, cost, limits, *_ = check
            try:
                decision = rule.limiter.hit(key, cost, limits=limits)
            except StoreUnavailable as error:
                unavailable = error
            else:
                return Verdict.of_hit(Result(rule, decision, part), request)
        return (yield from super()._deciding_flow(request, charges, unavailable))

    def leave(self, verdict: Verdict) -> None:
        """Release the leases of a request whose response is closed."""
        for limiter, held in verdict.leases:
            core_of(limiter).drive(held.release_flow())

    def give_back(self, verdict: Verdict, unused: Iterable[Result]) -> None:
        """Refund what these rules charged an allowed request, and update the verdict."""
        limiter: Limiter = self.rules[0].limiter
        core_of(limiter).drive(self._refunding_flow(verdict, unused))


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
        if unavailable is None and not self._bounds_subjects and _are_for_hit(charges):
            check, part = charges[0]
            rule, key, cost, limits, *_ = check
            try:
                decision = await rule.limiter.hit(key, cost, limits=limits)
                verdict = Verdict.of_hit(Result(rule, decision, part), request)
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

    def _deciding_flow(
        self, request: Request, charges: list[_Charge], unavailable: StoreUnavailable | None
    ) -> Flow[Verdict]:
        """As ``Guard._deciding_flow``."""
        if unavailable is None and _are_for_hit(charges):
            check, part = charges[0]
            rule, key, cost, limits, *_ = check
            try:
                decision = yield Await(rule.limiter.hit(key, cost, limits=limits))
            except StoreUnavailable as error:
                unavailable = error
            else:
                return Verdict.of_hit(Result(rule, decision, part), request)
        return (yield from super()._deciding_flow(request, charges, unavailable))

    async def leave(self, verdict: Verdict) -> None:
        """As ``Guard.leave``."""
        for limiter, held in verdict.leases:
            await core_of(limiter).surely(held.release_flow())

    async def give_back(self, verdict: Verdict, unused: Iterable[Result]) -> None:
        """As ``Guard.give_back``."""
        limiter: AsyncLimiter = self.rules[0].limiter
        await core_of(limiter).surely(self._refunding_flow(verdict, unused))


def _are_for_hit(charges: Sequence[_Charge]) -> bool:
    """Whether one rule applies, and its limiter's own ``hit`` can decide.

    It is faster, and spends prepaid units; in an event loop it also joins equal hits.
    """
    if len(charges) != 1:
        return False
    check, part = charges[0]
    core = core_of(check.rule.limiter)
    return not (part.shadow or part.plan.leases) and core.timeout == core.store.timeout


def _forget(charges: Iterable[_Charge | Result], lease: str, why: StoreUnavailable) -> None:
    """Release later the leases that a call may have taken before it failed."""
    for charge in charges:
        if charge.part.plan.leases:
            HeldLease.of_part(core_of(charge.rule.limiter), charge.part, lease).forget(why)


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

"""One request against every rule that is about it: how the rules are asked, together."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Generic, NamedTuple, TypeVar

from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import InvalidCost, InvalidSetting, LimiterError, StoreUnavailable
from limiter.flows import Flow
from limiter.log_throttle import log_seldom
from limiter.plan import Part
from limiter.web import limiter_calls
from limiter.web.identity import Network, Unidentified
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.request import Request
from limiter.web.rules import Check, Rule, SkipReason
from limiter.web.verdict import Observer as Observer
from limiter.web.verdict import Result as Result
from limiter.web.verdict import Verdict as Verdict  # for who writes an observer
from limiter.web.verdict import header_fields

log = logging.getLogger("limiter.web")

_Limiter = TypeVar("_Limiter", Limiter, AsyncLimiter)

#: Rules in shadow mode that could not be evaluated, and why.
_Shadowed = list[tuple[Rule, LimiterError]]


class _Charge(NamedTuple):
    """A check, and what it asks of the store."""

    check: Check
    part: Part

    @property
    def rule(self) -> Rule:
        return self.check.rule


class _Guard(Generic[_Limiter]):
    """Rules, asked together; a subclass says how the round trip is made.

    ``address_from`` is the header in which trusted proxies say who calls: one of
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
        self.trusted = tuple(trusted)
        self.address_from = address_from
        self.counts_leases = any(rule.counts_leases for rule in self.rules)
        self._bounds_subjects = any(rule.new_subjects is not None for rule in self.rules)
        self._observe = observe
        self._routed = [rule for rule in self.rules if not rule.match.is_everything]
        for rule in self.rules:
            first = self.rules[0].limiter
            if not limiter_calls.shares_store(rule.limiter, first):
                raise InvalidSetting(
                    f"store of rule {rule.name} is another than that of rule {first.name}: rules that "
                    f"are asked together share one; make the limiter with store=<the other limiter>"
                )

    def checks(self, request: Request) -> list[Check]:
        """The checks of the rules that are about a request.

        Raises:
            Unidentified: The caller cannot be identified, and one of the rules refuses such.

        """
        return self._checks(self._believed(request), [])

    def consider(self, request: Request, rule: Rule) -> Check | SkipReason:
        """What one of the rules asks about a request, or why it asks nothing.

        Raises:
            Unidentified: The caller cannot be identified, and the rule refuses such.

        """
        return self._consider(self._believed(request), rule)

    def _consider(self, request: Request, rule: Rule) -> Check | SkipReason:
        if rule.is_default and self._is_routed(request, rule):
            return SkipReason.ROUTED
        return rule.consider(request, self.trusted)

    def _believed(self, request: Request) -> Request:
        if request.address_from == self.address_from:
            return request
        return request.changed(address_from=self.address_from)

    def _is_routed(self, request: Request, default: Rule) -> bool:
        """Whether another rule, with a match of its own, decides about the request."""
        return any(rule is not default and self._decides(request, rule) for rule in self._routed)

    def _decides(self, request: Request, rule: Rule) -> bool:
        if rule.shadow:
            return False
        try:
            found = rule.consider(request, self.trusted)
        except Unidentified:
            return True  # it refuses
        return isinstance(found, Check) or found.is_meant

    def _checks(self, request: Request, shadowed: _Shadowed) -> list[Check]:
        checks = []
        for rule in self.rules:
            try:
                check = self._consider(request, rule)
            except Unidentified as error:
                if not rule.shadow:
                    raise
                shadowed.append((rule, error))
                continue
            if isinstance(check, Check):
                checks.append(check)
        return checks

    def _charges(self, request: Request, shadowed: _Shadowed) -> list[_Charge]:
        """What is asked of the store about a request.

        Raises:
            Unidentified: The caller cannot be identified.
            InvalidCost: A cost could never pass.

        """
        charges = []
        for check in self._checks(request, shadowed):
            try:
                charges.append(_Charge(check, check.part()))
            except InvalidCost as error:
                if not check.rule.shadow:
                    raise
                shadowed.append((check.rule, error))
        return charges

    def _entering_flow(
        self, request: Request, unavailable: StoreUnavailable | None = None
    ) -> Flow[Verdict]:
        """Check a request against every rule; all are charged, or none.

        ``unavailable`` is why the store is known not to answer: it is not asked then.
        """
        request = self._believed(request)
        shadowed: _Shadowed = []
        charges: list[_Charge] = []
        try:
            charges = self._charges(request, shadowed)
            if self._bounds_subjects:
                verdict = yield from self._bounding_flow(request, charges, shadowed, unavailable)
            else:
                verdict = yield from self._deciding_flow(request, charges, unavailable)
        except LimiterError as error:
            in_shadow = bool(charges) and all(charge.rule.shadow for charge in charges)
            verdict = Verdict.of_error(error, request, in_shadow)
        verdict.shadowed = shadowed
        if self._observe is not None:
            try:
                self._observe(request, verdict)
            except Exception:  # it would take the verdict, and its leases, with it
                log_seldom(log, logging.ERROR, "an observer failed", exc_info=True)
        return verdict

    def _bounding_flow(
        self,
        request: Request,
        charges: list[_Charge],
        shadowed: _Shadowed,
        unavailable: StoreUnavailable | None,
    ) -> Flow[Verdict]:
        """Decide where a client may begin only so many subjects; one too many is not written.

        Raises:
            TooManyNewSubjects: A rule that is not in shadow mode has no room for another subject.

        """
        begun: list[Check] = []
        try:
            kept = []
            try:
                for charge in charges:
                    error = yield from self._beginning_flow(charge, begun, unavailable)
                    if error is None:
                        kept.append(charge)
                    elif charge.rule.shadow:
                        shadowed.append((charge.rule, error))
                    else:
                        raise error
            except StoreUnavailable as away:
                kept, unavailable = charges, away
            verdict = yield from self._deciding_flow(request, kept, unavailable)
        except LimiterError:
            _take_back(begun)
            raise
        decisions = {id(result.rule): result.decision for result in verdict.results}
        _take_back(check for check in begun if not _was_begun(decisions.get(id(check.rule))))
        return verdict

    def _beginning_flow(
        self, charge: _Charge, begun: list[Check], unavailable: StoreUnavailable | None
    ) -> Flow[TooManyNewSubjects | None]:
        """Why a subject may not be begun; the store is asked only if its client has begun too many."""
        check, rule = charge.check, charge.rule
        limit, address = rule.new_subjects, check.address
        if limit is None or address is None:
            return None
        begins = limit.begins(address, check.key)
        if begins:
            begun.append(check)
        if begins is not False:
            return None
        if unavailable is not None:
            raise unavailable
        limiter = rule.limiter
        alone = [charge.part._replace(shadow=False)]
        (decision,) = yield from limiter_calls.decide_flow(
            limiter, alone, "peek", "", limiter.timeout
        )
        if _was_known(decision):
            return None
        return TooManyNewSubjects(rule.name, limit, limit.retry_after(address))

    def _deciding_flow(
        self, request: Request, charges: list[_Charge], unavailable: StoreUnavailable | None
    ) -> Flow[Verdict]:
        """Decide in one call to the store, else by each rule's ``on_error``; keep the leases."""
        if not charges:
            return Verdict()
        leased = self.counts_leases and any(charge.part.plan.leases for charge in charges)
        lease, began = (secrets.token_hex(16), monotonic()) if leased else ("", 0.0)
        mode = "acquire" if leased else "hit"
        try:
            if unavailable is not None:
                raise unavailable
            decisions = yield from self._asking_flow(charges, mode, lease)
        except StoreUnavailable as error:
            unavailable = error
            _forget(charges, lease, error)
            owners = [charge.rule.limiter for charge in charges]
            parts = [charge.part for charge in charges]
            decisions = limiter_calls.fallbacks(owners, parts, mode, lease)
        except LimiterError:
            raise
        except BaseException:  # interrupted, perhaps with leases in hand
            _forget(charges, lease, StoreUnavailable("the request was interrupted"))
            raise
        results = [
            Result(charge.rule, decision, charge.part)
            for charge, decision in zip(charges, decisions, strict=True)
        ]
        verdict = Verdict.of_results(results, request, unavailable)
        if leased and verdict.allowed:
            yield from self._keeping_flow(verdict, lease, began)
        return verdict

    def _asking_flow(self, charges: list[_Charge], mode: str, lease: str) -> Flow[list[Decision]]:
        """One joint call, within the shortest of the rules' timeouts."""
        timeout = min(charge.rule.limiter.timeout for charge in charges)
        parts = [charge.part for charge in charges]
        return limiter_calls.decide_flow(charges[0].rule.limiter, parts, mode, lease, timeout)

    def _keeping_flow(self, verdict: Verdict, lease: str, began: float) -> Flow[None]:
        """Have the leases renewed; in shadow mode perhaps not all were given.

        Raises:
            StoreUnavailable: Nothing can renew them; they are released.

        """
        given = [one for one in verdict.results if one.part.plan.leases and one.decision.allowed]
        try:
            for rule, decision, part in given:
                held = limiter_calls.keep(rule.limiter, part, lease, decision, began)
                verdict.leases.append((rule.limiter, held))
        except LimiterError as error:
            for _, held in verdict.leases:
                yield from limiter_calls.release_flow(held)
            _forget(given, lease, StoreUnavailable(str(error)))
            raise

    def _refunding_flow(self, verdict: Verdict, unused: Iterable[Result]) -> Flow[None]:
        """Refund what some rules have charged; the verdict then has the state after it."""
        for result in unused:
            limiter = result.rule.limiter
            decision = yield from limiter_calls.refund_flow(limiter, result.part, result.decision)
            if decision is not None:
                now = result._replace(decision=decision)
                verdict.results = tuple(now if one is result else one for one in verdict.results)
        verdict.fields = header_fields(verdict.results)


class Guard(_Guard[Limiter]):
    """Rules for threads."""

    def enter(self, request: Request, unavailable: StoreUnavailable | None = None) -> Verdict:
        """Check a request against every rule that is about it; ``leave`` releases its leases.

        ``unavailable`` is why the store did not answer just now: then ``on_error`` decides at once.
        """
        if not self.rules:
            return Verdict()
        limiter: Limiter = self.rules[0].limiter
        return limiter_calls.drive(limiter, self._entering_flow(request, unavailable))

    def _asking_flow(self, charges: list[_Charge], mode: str, lease: str) -> Flow[list[Decision]]:
        """One rule alone asks by its limiter's own ``hit``, which is the shortest way."""
        check, part = charges[0]
        limiter = check.rule.limiter
        is_plain = len(charges) == 1 and mode == "hit" and not part.shadow
        if is_plain and limiter_calls.keeps_store_timeout(limiter):
            return [limiter.hit(check.key, check.cost, limits=check.limits)]
        return (yield from super()._asking_flow(charges, mode, lease))

    def leave(self, verdict: Verdict) -> None:
        """Release what was held for a request, whose response is closed."""
        for limiter, held in verdict.leases:
            limiter_calls.drive(limiter, limiter_calls.release_flow(held))

    def give_back(self, verdict: Verdict, unused: Iterable[Result]) -> None:
        """Refund what these of an allowed request's rules have charged; the verdict says so."""
        limiter: Limiter = self.rules[0].limiter
        limiter_calls.drive(limiter, self._refunding_flow(verdict, unused))


class AsyncGuard(_Guard[AsyncLimiter]):
    """Rules for coroutines."""

    async def enter(self, request: Request) -> Verdict:
        """As ``Guard.enter``."""
        if not self.rules:
            return Verdict()
        limiter: AsyncLimiter = self.rules[0].limiter
        return await limiter_calls.drive(limiter, self._entering_flow(request))

    async def leave(self, verdict: Verdict) -> None:
        """As ``Guard.leave``."""
        for limiter, held in verdict.leases:
            await limiter_calls.surely(limiter, limiter_calls.release_flow(held))

    async def give_back(self, verdict: Verdict, unused: Iterable[Result]) -> None:
        """As ``Guard.give_back``."""
        limiter: AsyncLimiter = self.rules[0].limiter
        await limiter_calls.surely(limiter, self._refunding_flow(verdict, unused))


def _forget(charges: Iterable[_Charge | Result], lease: str, why: StoreUnavailable) -> None:
    """Release, later, the leases that a call may have taken without an answer."""
    for charge in charges:
        if charge.part.plan.leases:
            limiter_calls.forget(charge.rule.limiter, charge.part, lease, why)


def _was_known(decision: Decision) -> bool:
    """Whether the subject had used something of a policy before this decision."""
    return any(one.remaining + one.granted != one.policy.capacity for one in decision.each)


def _was_begun(decision: Decision | None) -> bool:
    """Whether this decision wrote a subject that the store did not know."""
    return not (decision is None or decision.degraded or _was_known(decision))


def _take_back(begun: Iterable[Check]) -> None:
    """These began no subject: the store knew it, or did not decide."""
    for check in begun:
        if check.rule.new_subjects is not None and check.address is not None:
            check.rule.new_subjects.take_back(check.address, check.key)

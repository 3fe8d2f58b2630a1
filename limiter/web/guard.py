"""One request against every rule that is about it: one decision, and what to answer."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import ceil
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import InvalidCost, InvalidSetting, LimiterError, StoreUnavailable
from limiter.flows import Flow
from limiter.held import Held
from limiter.log_throttle import log_seldom
from limiter.plan import Part
from limiter.web import headers, limiter_calls, problems
from limiter.web.identity import Network, Unidentified
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.request import Request
from limiter.web.rules import Check, Rule, SkipReason

log = logging.getLogger("limiter.web")

_Limiter = TypeVar("_Limiter", Limiter, AsyncLimiter)


class Result(NamedTuple):
    """What one rule said of a request."""

    rule: Rule
    decision: Decision
    part: Part
    """What was asked of the store."""


#: Is told of every rule's decision, and of every error: for counters and logs.
Observer = Callable[[Request, "Verdict"], object]


class Verdict:
    """Whether a request may go on, and what to say about it.

    Attributes:
        status: 200 where it may go on; else 429 (a limit denies, or its client has begun too many
            subjects), 503 (nobody can decide, and the rule says no), 413 (its
            cost could never pass) or 400 (nobody can tell who calls).
        results: What each rule said that was about the request.
        fields: Header fields for the response, also for one that is let through.
        body: A refusal as ``application/problem+json``; empty where there is none.
        error: Why nobody decided, or could be asked.
        shadowed: Rules in the shadows that could not even ask, and why: they would have refused.

    """

    def __init__(
        self,
        status: int = 200,
        results: Sequence[Result] = (),
        fields: Sequence[tuple[str, str]] = (),
        body: str = "",
        error: LimiterError | None = None,
    ) -> None:
        self.status = status
        self.results = tuple(results)
        self.fields = list(fields)
        self.body = body
        self.error = error
        self.shadowed: list[tuple[Rule, LimiterError]] = []
        self.leases: list[tuple[Any, Held]] = []

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.status == 200

    @property
    def delay(self) -> float:
        """Seconds to wait before going on, where a leaky bucket queues its calls; not in the shadows."""
        deciding = (result.decision for result in self.results if not result.rule.shadow)
        return max((decision.delay for decision in deciding), default=0.0)

    def __bool__(self) -> bool:
        return self.allowed


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
        """What the rules that are about a request ask.

        Raises:
            Unidentified: The caller cannot be told, and one of them refuses such.

        """
        return self._asked(self._believed(request), [])

    def consider(self, request: Request, rule: Rule) -> Check | SkipReason:
        """What one of the rules asks about a request, or why it asks nothing.

        Raises:
            Unidentified: The caller cannot be told, and the rule refuses such.

        """
        if rule.is_default and self._is_routed(request, rule):
            return SkipReason.ROUTED
        return rule.consider(self._believed(request), self.trusted)

    def _believed(self, request: Request) -> Request:
        if request.address_from == self.address_from:
            return request
        return replace(request, address_from=self.address_from)

    def _is_routed(self, request: Request, default: Rule) -> bool:
        """Whether another rule, with a match of its own, decides about the request."""
        return any(rule is not default and self._decides(request, rule) for rule in self._routed)

    def _decides(self, request: Request, rule: Rule) -> bool:
        if rule.shadow:
            return False
        try:
            found = rule.consider(self._believed(request), self.trusted)
        except Unidentified:
            return True  # it refuses
        return isinstance(found, Check) or found.is_meant

    def _asked(self, request: Request, shadowed: list[tuple[Rule, LimiterError]]) -> list[Check]:
        found = []
        for rule in self.rules:
            try:
                asked = self.consider(request, rule)
            except Unidentified as error:
                if not rule.shadow:
                    raise
                shadowed.append((rule, error))
                continue
            if isinstance(asked, Check):
                found.append(asked)
        return found

    def _entering(self, request: Request) -> Flow[Verdict]:
        """Ask every rule about a request; all are charged, or none."""
        shadowed: list[tuple[Rule, LimiterError]] = []
        request = self._believed(request)
        found = self._prepared(request, shadowed)
        if not isinstance(found, Verdict):
            found = yield from self._bounding(request, *found, shadowed)
        return self._told(request, found, shadowed)

    def _told(
        self, request: Request, verdict: Verdict, shadowed: list[tuple[Rule, LimiterError]]
    ) -> Verdict:
        """The verdict, once whoever observes has been told of it."""
        verdict.shadowed = shadowed
        if self._observe is not None:
            try:
                self._observe(request, verdict)
            except Exception:  # it would take the verdict, and its leases, with it
                log_seldom(log, logging.ERROR, "an observer failed", exc_info=True)
        return verdict

    def _prepared(
        self, request: Request, shadowed: list[tuple[Rule, LimiterError]]
    ) -> Verdict | tuple[list[Check], list[Part]]:
        """The questions to the store, or the verdict where there are none."""
        try:
            asked, parts = self._parts(self._asked(request, shadowed), shadowed)
        except Unidentified as error:
            return Verdict(400, body=problems.unidentified(error, request.path), error=error)
        except InvalidCost as error:
            return Verdict(413, body=problems.too_large(request.path), error=error)
        except LimiterError as error:
            return self._refused(request, (), error)
        return (asked, parts) if asked else Verdict()

    def _bounding(
        self,
        request: Request,
        asked: list[Check],
        parts: list[Part],
        shadowed: list[tuple[Rule, LimiterError]],
    ) -> Flow[Verdict]:
        """As ``_judging``, where a client may begin only so many subjects: one too many is not written."""
        if all(one.address is None for one in asked):
            return (yield from self._judging(request, asked, parts))
        begun: list[Check] = []
        kept: list[tuple[Check, Part]] = []
        why: StoreUnavailable | None = None
        try:
            for one, part in zip(asked, parts, strict=True):
                error = yield from self._beginning(one, part, begun)
                if error is None:
                    kept.append((one, part))
                elif one.rule.shadow:
                    shadowed.append((one.rule, error))
                else:
                    _take_back(begun)
                    return self._too_many(request, error)
        except StoreUnavailable as unavailable:
            kept, why = list(zip(asked, parts, strict=True)), unavailable
        except LimiterError as refused:
            _take_back(begun)
            return self._refused(request, asked, refused)
        if not kept:
            return Verdict()
        asked, parts = [one for one, _ in kept], [part for _, part in kept]
        verdict = yield from self._judging(request, asked, parts, why)
        decisions = {id(result.rule): result.decision for result in verdict.results}
        for one in begun:
            decision = decisions.get(id(one.rule))
            if decision is None or decision.degraded or _was_known(decision):
                _take_back([one])
        return verdict

    def _beginning(
        self, one: Check, part: Part, begun: list[Check]
    ) -> Flow[TooManyNewSubjects | None]:
        """Why the subject may not be begun; the store is asked only where its client has begun too many."""
        limit, address = one.rule.new_subjects, one.address
        if limit is None or address is None:
            return None
        begins = limit.begins(address, one.key)
        if begins:
            begun.append(one)
        if begins is not False:
            return None
        limiter = one.rule.limiter
        alone = [part._replace(shadow=False)]
        (decision,) = yield from limiter_calls.deciding(limiter, alone, "peek", "", limiter.timeout)
        if _was_known(decision):
            return None
        return TooManyNewSubjects(one.rule.name, limit, limit.retry_after(address))

    def _too_many(self, request: Request, error: TooManyNewSubjects) -> Verdict:
        wait = [("Retry-After", str(max(1, ceil(error.retry_after))))]
        body = problems.too_many_new_subjects(error.policy, str(error), request.path)
        return Verdict(429, fields=wait, body=body, error=error)

    def _judging(
        self,
        request: Request,
        asked: list[Check],
        parts: list[Part],
        why: StoreUnavailable | None = None,
    ) -> Flow[Verdict]:
        """The verdict of one call to the store; ``why`` it is known not to answer, if it is."""
        limiter = asked[0].rule.limiter
        leased = [at for at, part in enumerate(parts) if part.plan.leases]
        lease, began = (secrets.token_hex(16), monotonic()) if leased else ("", 0.0)
        mode = "acquire" if leased else "hit"
        timeout = min(one.rule.limiter.timeout for one in asked)
        try:
            if why is not None:
                raise why
            decisions = yield from limiter_calls.deciding(limiter, parts, mode, lease, timeout)
        except StoreUnavailable as error:
            self._forget(asked, parts, lease, error)
            owners = [one.rule.limiter for one in asked]
            decisions = limiter_calls.fallbacks(owners, parts, mode, lease)
            verdict = self._answer(request, _results(asked, decisions, parts), error)
        except LimiterError as error:
            return self._refused(request, asked, error)
        except BaseException:  # interrupted, perhaps with leases in hand
            self._forget(asked, parts, lease, StoreUnavailable("the request was interrupted"))
            raise
        else:
            verdict = self._answer(request, _results(asked, decisions, parts))
        if verdict.allowed:
            kept = [
                at for at in leased if verdict.results[at].decision.allowed
            ]  # not all in the shadows
            try:
                for at in kept:
                    owner, decision = asked[at].rule.limiter, verdict.results[at].decision
                    verdict.leases.append(
                        (owner, limiter_calls.keep(owner, parts[at], lease, decision, began))
                    )
            except LimiterError as error:  # nobody can renew them
                for owner, held in verdict.leases:
                    yield from limiter_calls.releasing(owner, held)
                self._forget(asked, parts, lease, StoreUnavailable(str(error)))
                return self._refused(request, asked, error)
        return verdict

    def _parts(
        self, asked: list[Check], shadowed: list[tuple[Rule, LimiterError]]
    ) -> tuple[list[Check], list[Part]]:
        """Those whose question makes sense, and the questions.

        Raises:
            InvalidCost: A cost could never pass.

        """
        found, parts = [], []
        for one in asked:
            plan = limiter_calls.plan(one.rule.limiter, one.limits)
            try:
                plan.checked(one.cost)
            except InvalidCost as error:
                if not one.rule.shadow:
                    raise
                shadowed.append((one.rule, error))
                continue
            found.append(one)
            parts.append(Part(plan, one.key, one.cost, one.rule.shadow))
        return found, parts

    def _forget(
        self, asked: list[Check], parts: list[Part], lease: str, why: StoreUnavailable
    ) -> None:
        """Give back, later, the leases that a call may have taken without our seeing it."""
        for one, part in zip(asked, parts, strict=True):
            if part.plan.leases:
                limiter_calls.forget(one.rule.limiter, part, lease, why)

    def _answer(
        self, request: Request, results: list[Result], error: LimiterError | None = None
    ) -> Verdict:
        """Say what the rules that decide have decided."""
        fields = header_fields(results)
        denied = [one for one in results if not (one.decision.allowed or one.rule.shadow)]
        if not denied:
            return Verdict(200, results, fields, error=error)
        by_limits = [result for result in denied if result.decision.each]
        if not by_limits:  # denied by a fallback, not by a limit
            return self._reduced(request, results, error)
        body = problems.quota_exceeded_by(
            [(result.decision, result.rule.name) for result in by_limits], request.path
        )
        return Verdict(429, results, fields, body, error)

    def _returning(self, verdict: Verdict, unused: Iterable[Result]) -> Flow[None]:
        """Give back what some rules have charged, and say how things stand then."""
        for result in unused:
            said = yield from limiter_calls.returning(
                result.rule.limiter, result.part, result.decision
            )
            if said is not None:
                now = result._replace(decision=said)
                verdict.results = tuple(now if one is result else one for one in verdict.results)
        verdict.fields = header_fields(verdict.results)

    def _reduced(
        self, request: Request, results: Sequence[Result], error: LimiterError | None
    ) -> Verdict:
        return Verdict(503, results, body=problems.reduced_capacity(request.path), error=error)

    def _refused(self, request: Request, asked: Sequence[Check], error: LimiterError) -> Verdict:
        """The store answered, but not with a decision: nobody passes unchecked, and somebody must look."""
        name = type(error).__name__
        log_seldom(log, logging.ERROR, "%s: %s", name, error, kind=name)
        if asked and all(one.rule.shadow for one in asked):
            return Verdict(error=error)
        return self._reduced(request, (), error)


class Guard(_Guard[Limiter]):
    """Rules for threads."""

    def enter(self, request: Request) -> Verdict:
        """Ask every rule that is about the request; ``leave`` gives its leases back."""
        if not self.rules:
            return Verdict()
        shadowed: list[tuple[Rule, LimiterError]] = []
        request = self._believed(request)
        found = self._prepared(request, shadowed)
        if not isinstance(found, Verdict):
            asked, parts = found
            if len(asked) == 1 and _is_plain(asked[0], parts[0]):
                found = self._judge(request, asked[0], parts[0])
            else:
                flow = self._bounding(request, asked, parts, shadowed)
                try:
                    found = limiter_calls.drive(asked[0].rule.limiter, flow)
                finally:
                    flow.close()  # where it was interrupted, it gives back what it may have taken
        return self._told(request, found, shadowed)

    def enter_without_store(self, request: Request, why: StoreUnavailable) -> Verdict:
        """As ``enter``, with what ``on_error`` says at once: the store did not answer just now."""
        if not self.rules:
            return Verdict()
        flow = self._entering(request)
        try:
            next(flow)
            while True:
                flow.throw(why)
        except StopIteration as done:
            verdict: Verdict = done.value
            return verdict

    def _judge(self, request: Request, one: Check, part: Part) -> Verdict:
        """The verdict where one rule asks, by its limiter's own call: the shortest way there is."""
        why: StoreUnavailable | None = None
        try:
            decision = one.rule.limiter.hit(one.key, one.cost, limits=one.limits)
        except StoreUnavailable as error:
            decision, why = Decision.without_store(part.plan.policies, allowed=False), error
        except LimiterError as error:
            return self._refused(request, [one], error)
        if decision.degraded and why is None:
            why = StoreUnavailable("the store did not decide")
        return self._answer(request, [Result(one.rule, decision, part)], why)

    def leave(self, verdict: Verdict) -> None:
        """The response is closed: give back what was held for it."""
        for limiter, held in verdict.leases:
            limiter_calls.drive(limiter, limiter_calls.releasing(limiter, held))

    def give_back(self, verdict: Verdict, unused: Iterable[Result]) -> None:
        """Give back what these of an allowed request's rules have charged; the verdict says so."""
        limiter: Limiter = self.rules[0].limiter
        limiter_calls.drive(limiter, self._returning(verdict, unused))


class AsyncGuard(_Guard[AsyncLimiter]):
    """Rules for coroutines."""

    async def enter(self, request: Request) -> Verdict:
        """As ``Guard.enter``."""
        if not self.rules:
            return Verdict()
        limiter: AsyncLimiter = self.rules[0].limiter
        flow = self._entering(request)
        try:
            return await limiter_calls.drive(limiter, flow)
        finally:
            flow.close()

    async def leave(self, verdict: Verdict) -> None:
        """As ``Guard.leave``."""
        for limiter, held in verdict.leases:
            await limiter_calls.surely(limiter, limiter_calls.releasing(limiter, held))

    async def give_back(self, verdict: Verdict, unused: Iterable[Result]) -> None:
        """As ``Guard.give_back``."""
        limiter: AsyncLimiter = self.rules[0].limiter
        await limiter_calls.surely(limiter, self._returning(verdict, unused))


def _is_plain(one: Check, part: Part) -> bool:
    """Whether a limiter's own ``hit`` decides as all rules together would."""
    is_alone = not (part.shadow or part.plan.leases) and one.address is None
    return is_alone and bool(limiter_calls.keeps_store_timeout(one.rule.limiter))


def _was_known(decision: Decision) -> bool:
    """Whether the subject had used something of a policy before this decision."""
    return any(one.remaining + one.granted != one.policy.capacity for one in decision.each)


def _take_back(begun: Iterable[Check]) -> None:
    """These began no subject: the store knew it, or did not decide."""
    for one in begun:
        if one.rule.new_subjects is not None and one.address is not None:
            one.rule.new_subjects.take_back(one.address, one.key)


def _results(asked: list[Check], decisions: list[Decision], parts: list[Part]) -> list[Result]:
    return [
        Result(one.rule, decision, part)
        for one, decision, part in zip(asked, decisions, parts, strict=True)
    ]


def header_fields(results: Iterable[Result]) -> list[tuple[str, str]]:
    """The header fields of several rules' results, but for those in the shadows."""
    return headers.of_all(
        [
            headers.NamedDecision(result.decision, result.rule.name, result.rule.form)
            for result in results
            if not result.rule.shadow
        ]
    )

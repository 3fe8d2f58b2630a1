"""One request against every rule that is about it: one decision, and what to answer."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import InvalidCost, InvalidSetting, LimiterError, StoreUnavailable
from limiter.flows import Flow
from limiter.held import Held
from limiter.plan import Part
from limiter.web import headers, problems
from limiter.web.identity import Network, Unidentified
from limiter.web.request import Request
from limiter.web.rules import Asked, Rule

log = logging.getLogger("limiter.web")

_Limiter = TypeVar("_Limiter", Limiter, AsyncLimiter)


class Result(NamedTuple):
    """What one rule said of a request."""

    rule: Rule
    decision: Decision


#: Is told of every rule's decision, and of every error: for counters and logs.
Observer = Callable[[Request, "Verdict"], object]


class Verdict:
    """Whether a request may go on, and what to say about it.

    Attributes:
        status: 200 where it may go on; else 429, 503 (nobody can decide, and the rule says no), 413 (its
            cost could never pass) or 400 (nobody can tell who calls).
        results: What each rule said that was about the request.
        fields: Header fields for the response, also for one that is let through.
        body: A refusal as ``application/problem+json``; empty where there is none.
        error: Why nobody decided, or could be asked.

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
        self.leases: list[tuple[Any, Held]] = []

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.status == 200

    @property
    def delay(self) -> float:
        """Seconds to wait before going on, where a leaky bucket queues its calls."""
        return max((result.decision.delay for result in self.results), default=0.0)

    def __bool__(self) -> bool:
        return self.allowed


class _Guard(Generic[_Limiter]):
    """Rules, asked together; a subclass says how the round trip is made.

    Raises:
        InvalidSetting: The rules' limiters do not share one store's connections.

    """

    def __init__(
        self,
        rules: Iterable[Rule],
        trusted: Sequence[Network] = (),
        observe: Observer | None = None,
    ) -> None:
        self.rules = tuple(rules)
        self.trusted = tuple(trusted)
        self._observe = observe
        for rule in self.rules:
            first = self.rules[0].limiter
            if not rule.limiter.shares_store(first):
                raise InvalidSetting(
                    f"store of rule {rule.name} is another than that of rule {first.name}: rules that "
                    f"are asked together share one; make the limiter with store=<the other limiter>"
                )

    def asked(self, request: Request) -> list[Asked]:
        """What the rules that are about a request ask.

        Raises:
            Unidentified: The caller cannot be told, and one of them refuses such.

        """
        found = (rule.ask(request, self.trusted) for rule in self.rules)
        return [asked for asked in found if asked is not None]

    def _entering(self, request: Request) -> Flow[Verdict]:
        """Ask every rule about a request; all are charged, or none."""
        verdict = yield from self._judging(request)
        if self._observe is not None:
            try:
                self._observe(request, verdict)
            except Exception:  # it would take the verdict, and its leases, with it
                log.exception("an observer failed")
        return verdict

    def _judging(self, request: Request) -> Flow[Verdict]:
        try:
            asked = self.asked(request)
        except Unidentified as error:
            return Verdict(400, body=problems.unidentified(request.path), error=error)
        if not asked:
            return Verdict()
        try:
            parts = [
                Part(one.rule.limiter.plan(one.limits), one.key, one.cost, one.rule.shadow)
                for one in asked
            ]
            for part in parts:
                part.plan.checked(part.cost)
        except InvalidCost as error:
            return Verdict(413, body=problems.too_large(request.path), error=error)
        except LimiterError as error:
            return self._refused(request, error)
        limiter = asked[0].rule.limiter
        leased = [at for at, part in enumerate(parts) if part.plan.leases]
        lease, began = (secrets.token_hex(16), monotonic()) if leased else ("", 0.0)
        try:
            decisions = yield from limiter.deciding(parts, "acquire" if leased else "hit", lease)
            verdict = self._answer(
                request,
                [Result(one.rule, said) for one, said in zip(asked, decisions, strict=True)],
            )
        except StoreUnavailable as error:
            self._forget(asked, parts, lease, error)
            verdict = self._without_store(request, asked, parts, lease, error)
        except LimiterError as error:
            return self._refused(request, error)
        except BaseException:  # interrupted, perhaps with leases in hand
            self._forget(asked, parts, lease, StoreUnavailable("the request was interrupted"))
            raise
        if verdict.allowed:
            for at in leased:
                owner = asked[at].rule.limiter
                decision = verdict.results[at].decision
                if decision.allowed:  # one in the shadows may not have been
                    verdict.leases.append((owner, owner.keep(parts[at], lease, decision, began)))
        return verdict

    def _forget(
        self, asked: list[Asked], parts: list[Part], lease: str, why: StoreUnavailable
    ) -> None:
        """Give back, later, the leases that a call may have taken without our seeing it."""
        for one, part in zip(asked, parts, strict=True):
            if part.plan.leases:
                one.rule.limiter.forget(part, lease, why)

    def _answer(
        self, request: Request, results: list[Result], error: LimiterError | None = None
    ) -> Verdict:
        """Say what the rules that decide have decided."""
        deciding = [result for result in results if not result.rule.shadow]
        fields = headers.of_all(
            [
                headers.Spoken(result.decision, result.rule.name, result.rule.form)
                for result in deciding
            ]
        )
        denied = [result for result in deciding if not result.decision.allowed]
        if not denied:
            return Verdict(200, results, fields, error=error)
        by_limits = [result for result in denied if result.decision.each]
        if not by_limits:  # denied by a fallback, not by a limit
            return self._reduced(request, results, error)
        body = problems.quota_exceeded_by(
            [(result.decision, result.rule.name) for result in by_limits], request.path
        )
        return Verdict(429, results, fields, body, error)

    def _without_store(
        self,
        request: Request,
        asked: list[Asked],
        parts: list[Part],
        lease: str,
        error: StoreUnavailable,
    ) -> Verdict:
        """Let each rule's ``on_error`` decide for it."""
        results = []
        for one, part in zip(asked, parts, strict=True):
            try:
                decision = one.rule.limiter.fallback(error, part, lease)
            except StoreUnavailable:
                decision = Decision.without_store(part.plan.policies, allowed=one.rule.shadow)
            results.append(Result(one.rule, decision))
        return self._answer(request, results, error)

    def _reduced(
        self, request: Request, results: Sequence[Result], error: LimiterError | None
    ) -> Verdict:
        return Verdict(503, results, body=problems.reduced_capacity(request.path), error=error)

    def _refused(self, request: Request, error: LimiterError) -> Verdict:
        """The store answered, but not with a decision: nobody passes unchecked, and somebody must look."""
        log.error("%s: %s", type(error).__name__, error)
        return self._reduced(request, (), error)


class Guard(_Guard[Limiter]):
    """Rules for threads."""

    def enter(self, request: Request) -> Verdict:
        """Ask every rule that is about the request; ``leave`` gives its leases back."""
        if not self.rules:
            return Verdict()
        limiter: Limiter = self.rules[0].limiter
        flow = self._entering(request)
        try:
            return limiter.drive(flow)
        finally:
            flow.close()  # where it was interrupted, it gives back what it may have taken

    def leave(self, verdict: Verdict) -> None:
        """The response is closed: give back what was held for it."""
        for limiter, held in verdict.leases:
            limiter.drive(limiter.releasing(held))


class AsyncGuard(_Guard[AsyncLimiter]):
    """Rules for coroutines."""

    async def enter(self, request: Request) -> Verdict:
        """As ``Guard.enter``."""
        if not self.rules:
            return Verdict()
        limiter: AsyncLimiter = self.rules[0].limiter
        flow = self._entering(request)
        try:
            return await limiter.drive(flow)
        finally:
            flow.close()

    async def leave(self, verdict: Verdict) -> None:
        """As ``Guard.leave``."""
        for limiter, held in verdict.leases:
            await limiter.drive(limiter.releasing(held))

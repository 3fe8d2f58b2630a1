"""``/v1/check/<policy>`` decides about subjects of a body, and ``/v1/refund/<policy>`` refunds."""

from __future__ import annotations

import asyncio
from itertools import groupby
from time import monotonic
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limiter import InvalidCost, InvalidPolicy, LimiterError, StoreUnavailable
from limiter.server import bodies, logs
from limiter.server.bodies import Subject
from limiter.server.one_policy import AnyPolicies
from limiter.server.recorder import Recorder
from limiter.server.responses import abort, json_response, problem, written
from limiter.web import decisions
from limiter.web.guard import AsyncGuard
from limiter.web.headers import Field
from limiter.web.request import Request as OwnRequest
from limiter.web.request import from_asgi
from limiter.web.rules import Check
from limiter.web.verdict import Result, Verdict

MOST_CHECKS = 100
#: Seconds after which a batch stops calling a store that did not answer the last check of a subject.
BATCH_TIMEOUT = 0.5

_MEMBERS = (*bodies.OF_SUBJECT, "cost", "peek")
TOO_LARGE = "The cost is more than this policy ever admits at once."
#: The store failed in the middle of a call that changes something.
UNSURE = "The store did not answer, but may have done it."

#: A status, a JSON object, and header fields.
CheckResult = tuple[int, str, list[Field]]


def routes(policies: AnyPolicies, recorder: Recorder) -> list[Route]:
    """Make the routes, for these policies."""

    async def check(request: Request) -> Response:
        """Decide about a subject, or about each subject of a batch, in order and independently."""
        guard = guard_of(policies, request)
        if guard.counts_leases:
            abort(422, "This policy counts leases: use /v1/hold.")
        body = await bodies.read(request, [*_MEMBERS, "checks"])
        checks = _Checks(guard, recorder, from_asgi(request.scope))
        if "checks" not in body:
            return written(*await checks.decide(body))
        items = bodies.members(body, ["checks"])["checks"]
        if not isinstance(items, list) or not 1 <= len(items) <= MOST_CHECKS:
            abort(422, f"checks is no list of 1 to {MOST_CHECKS}.")
        return written(200, f'{{"results": [{", ".join(await checks.decide_each(items))}]}}')

    async def refund(request: Request) -> Response:
        """Refund a cost for work that was not done, up to what was used."""
        guard = guard_of(policies, request)
        body = await bodies.read(request, [*bodies.OF_SUBJECT, "cost"])
        subject, cost = bodies.subject(body, guard), bodies.cost(body)
        check = charged_check_of(guard, subject, cost)
        if check is not None:
            await _refund(check, cost)
            peer = from_asgi(request.scope).peer
            logs.changed("a charge was refunded", check.rule.name, check.key, peer, cost)
        return json_response({"refunded": check is not None})

    return [
        Route("/v1/check/{policy}", check, methods=["POST"]),
        Route("/v1/refund/{policy}", refund, methods=["POST"]),
    ]


async def _refund(check: Check, cost: int) -> None:
    try:
        await check.rule.limiter.refund(check.key, cost, limits=check.limits)
    except InvalidPolicy:
        abort(422, "This policy counts leases: release one by DELETE /v1/hold.")
    except InvalidCost:
        abort(422, TOO_LARGE)
    except LimiterError:
        abort(503, UNSURE)


def guard_of(policies: AnyPolicies, request: Request) -> AsyncGuard:
    """Return the guard of the policy in the path; abort if there is no policy of that name."""
    guard = policies.guard_for(request.path_params["policy"])
    if guard is None:
        abort(404, "There is no such policy.")
    return guard


def check_of(guard: AsyncGuard, subject: Subject, cost: int) -> Check | None:
    """Return a policy's check of a subject that a body names; None for an exempt subject."""
    (rule,) = guard.rules
    check = rule.consider_subject(subject.key, cost, subject.plan, subject.class_)
    return check if isinstance(check, Check) else None


def charged_check_of(guard: AsyncGuard, subject: Subject, cost: int) -> Check | None:
    """As ``check_of``, for what was charged already: its class does not matter any more."""
    (rule,) = guard.rules
    check = rule.consider_refund(subject.key, cost, subject.plan)
    return check if isinstance(check, Check) else None


class _Item(NamedTuple):
    """A subject to decide about: one of a batch, or the only one."""

    subject: Subject
    cost: int
    peek: bool

    @property
    def call(self) -> tuple[object, ...]:
        """What decides about a subject's call; equal calls may be made at the same time."""
        return self.subject.plan, self.subject.class_, self.cost, self.peek


class _Checks:
    """The checks of one request; a batch waits for a store that does not answer only for a bounded time."""

    def __init__(self, guard: AsyncGuard, recorder: Recorder, request: OwnRequest) -> None:
        self._guard = guard
        self._recorder = recorder
        self._request = request
        """The service's own: its path names the problem, and its fields the trace."""

    async def decide(self, body: dict[str, Any]) -> CheckResult:
        """Return the result for the only subject; abort if the body is invalid."""
        return self._result(await self._verdict(self._item(body)), '{"allowed": true}')

    async def decide_each(self, items: list[Any]) -> list[str]:
        """Return the results for the items of a batch; a problem for each item that is invalid.

        Items about different subjects are decided at the same time, and equal ones about one subject. Other
        items about one subject wait for each other: an event loop sends the calls of one turn together, but
        those of different costs not always in their order.
        """
        deadline = monotonic() + BATCH_TIMEOUT
        results = [""] * len(items)
        by_subject: dict[bytes, list[tuple[int, _Item]]] = {}
        for place, body in enumerate(items):
            try:
                item = self._item(bodies.members(body, _MEMBERS))
            except HTTPException as error:
                results[place] = problem(error.status_code, error.detail, self._request.path)
            else:
                by_subject.setdefault(item.subject.state, []).append((place, item))

        async def decide(
            place: int, item: _Item, unavailable: StoreUnavailable | None = None
        ) -> LimiterError | None:
            verdict = await self._verdict(item, unavailable)
            _, results[place], _ = self._result(verdict, '{"status": 200, "allowed": true}')
            return verdict.error

        async def decide_in_order(about_one: list[tuple[int, _Item]]) -> None:
            unavailable = None
            for _, equal in groupby(about_one, key=lambda each: each[1].call):
                error = unavailable if monotonic() > deadline else None
                *_, last = await asyncio.gather(*[decide(*each, error) for each in equal])
                unavailable = last if isinstance(last, StoreUnavailable) else None

        await asyncio.gather(
            *[
                decide(*about_one[0]) if len(about_one) == 1 else decide_in_order(about_one)
                for about_one in by_subject.values()
            ]
        )
        return results

    def _item(self, body: dict[str, Any]) -> _Item:
        subject = bodies.subject(body, self._guard)
        return _Item(subject, bodies.cost(body), bodies.flag(body, "peek"))

    async def _verdict(self, item: _Item, unavailable: StoreUnavailable | None = None) -> Verdict:
        check = check_of(self._guard, item.subject, item.cost)
        if item.peek:
            return await self._peek(check, unavailable)
        return await self._recorder.record(self._request, self._hit(check, unavailable))

    def _result(self, verdict: Verdict, allowed: str) -> CheckResult:
        if verdict.status == 413:
            return 422, problem(422, TOO_LARGE, self._request.path), []
        return result_of(verdict, allowed)

    async def _hit(self, check: Check | None, error: StoreUnavailable | None) -> Verdict:
        """Return the verdict of a check; None, that of an exempt subject, passes."""
        if check is None:
            return Verdict()
        return await self._guard.decide(check, self._request, error)

    async def _peek(self, check: Check | None, error: LimiterError | None) -> Verdict:
        """Return the verdict that a check would get now; nothing is taken, and no metric changes."""
        if check is None:
            return Verdict()
        rule = check.rule
        if error is None:
            try:
                part = check.part()
                decision = await rule.limiter.peek(check.key, check.cost, limits=check.limits)
                return Verdict.of_results((Result(rule, decision, part),), self._request)
            except LimiterError as failure:
                error = failure
        return Verdict(error=error) if rule.shadow else Verdict.of_error(error, self._request)


def result_of(verdict: Verdict, allowed: str) -> CheckResult:
    """Return a verdict about one subject; ``allowed`` is the object for an allowed one."""
    body = allowed if verdict.allowed else verdict.body
    decision = decisions.as_json(verdict.results[0].decision) if verdict.results else "null"
    return (
        verdict.status,
        f'{body.rstrip().removesuffix("}")}, "decision": {decision}}}',
        verdict.fields,
    )

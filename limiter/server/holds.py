"""``/v1/hold/<policy>``: takes, renews and releases leases for services in any language."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limiter import InvalidCost, InvalidPolicy, StoreRefused, StoreUnavailable
from limiter.server import bodies
from limiter.server.checks import (
    TOO_LARGE,
    UNSURE,
    charged_check_of,
    check_of,
    guard_of,
    result_of,
)
from limiter.server.one_policy import AnyPolicies
from limiter.server.recorder import Recorder
from limiter.server.responses import CLIENT_LEFT, abort, json_response, written
from limiter.web.guard import AsyncGuard
from limiter.web.lease_calls import AsyncLeaseCalls
from limiter.web.request import Request as OwnRequest
from limiter.web.request import from_asgi
from limiter.web.verdict import Result, Verdict


def routes(policies: AnyPolicies, recorder: Recorder) -> list[Route]:
    """Make the routes, for these policies."""

    async def hold(request: Request) -> Response:
        """Take or renew a lease by POST, and release one by DELETE."""
        return await (release if request.method == "DELETE" else take)(request)

    async def take(request: Request) -> Response:
        """Take a lease, or renew one; a caller that chooses the id may repeat the call."""
        guard = guard_of(policies, request)
        body = await bodies.read(request, [*bodies.OF_SUBJECT, "cost", "lease", "renew"])
        lease, cost, renew = bodies.lease(body), bodies.cost(body), bodies.flag(body, "renew")
        if renew and lease is None:
            abort(422, "lease is missing: expected the id of the lease to renew.")
        leases = _leases(guard, body, cost, is_held=renew)
        name = lease or secrets.token_hex(16)
        seconds = None if leases is None else leases.seconds
        held = {"allowed": True, "lease": name, "cost": cost, "seconds": seconds}
        if leases is None:  # nothing is counted, and nothing expires
            return json_response({**held, "decision": None})
        if renew:
            # In shadow mode a lease that was denied is renewed like any other.
            if not await _sure(leases, leases.renew(name)) and not leases.rule.shadow:
                abort(410, "The lease has ended: it is no longer held.")
            return json_response({**held, "decision": None})
        own_request = from_asgi(request.scope)
        taking = _take(leases, name, own_request, forget=lease is None)
        verdict = await recorder.record(own_request, taking)
        if lease is None and verdict.allowed and CLIENT_LEFT in request.scope.get("state", ()):
            await _sure(leases, leases.release(name))
            abort(400, "The connection was closed before the lease was taken: it is released.")
        return written(*result_of(verdict, json.dumps(held)))

    async def release(request: Request) -> Response:
        """Release a lease; a repeated call does nothing."""
        guard = guard_of(policies, request)
        body = await bodies.read(request, [*bodies.OF_SUBJECT, "cost", "lease"])
        lease, cost = bodies.lease(body), bodies.cost(body)
        if lease is None:
            abort(422, "lease is missing: expected the id of the lease to release.")
        leases = _leases(guard, body, cost, is_held=True)
        count = 0 if leases is None else await _sure(leases, leases.release(lease))
        return json_response({"released": count})

    return [Route("/v1/hold/{policy}", hold, methods=["POST", "DELETE"])]


def _leases(
    guard: AsyncGuard, body: dict[str, Any], cost: int, is_held: bool
) -> AsyncLeaseCalls | None:
    """Return the leases of the body's subject; None if it is exempt, or shadow mode lets the cost pass."""
    considered = charged_check_of if is_held else check_of
    check = considered(guard, bodies.subject(body, guard), cost)
    if check is None:
        return None
    try:
        return AsyncLeaseCalls(check)
    except InvalidPolicy:
        abort(422, "This policy counts no leases: use /v1/check.")
    except InvalidCost:
        if check.rule.shadow:
            return None
        abort(422, TOO_LARGE)


async def _take(
    leases: AsyncLeaseCalls, name: str, own_request: OwnRequest, forget: bool
) -> Verdict:
    rule, error = leases.rule, None
    try:
        decision = await leases.take(name)
    except StoreUnavailable as unavailable:
        error = unavailable
        decision = leases.fallback(name)
        if forget and not decision.allowed:  # the caller will never know its id
            leases.forget(name, error)
    except StoreRefused as refused:
        return Verdict.of_error(refused, own_request, rule.shadow)
    return Verdict.of_results((Result(rule, decision, leases.part),), own_request, error)


async def _sure(leases: AsyncLeaseCalls, change: Awaitable[int]) -> int:
    """Return a change's result; abort with 503 if the store fails, or return 0 in shadow mode."""
    try:
        return await change
    except (StoreUnavailable, StoreRefused):
        if leases.rule.shadow:
            return 0
        abort(503, UNSURE)

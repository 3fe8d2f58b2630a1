"""``/v1/reserve`` and ``/v1/settle``: costs of several policies, taken in advance and settled once."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limiter import Decision, LimiterError, StoreRefused, StoreUnavailable
from limiter.server import bodies
from limiter.server.checks import UNSURE
from limiter.server.one_policy import AnyPolicies
from limiter.server.recorder import Recorder
from limiter.server.reservation_items import Item, to_cancel, to_reserve, to_settle
from limiter.server.responses import abort, json_response, written
from limiter.web import decisions, headers
from limiter.web.headers import NamedDecision
from limiter.web.request import Request as OwnRequest
from limiter.web.request import from_asgi
from limiter.web.reservation_calls import (
    AsyncReservationCalls,
    Recorded,
    State,
    is_charge_of,
)
from limiter.web.verdict import Result, Verdict

#: Seconds for which a reservation can be settled: by default, and at most.
SECONDS, MOST_SECONDS = 3_600, 86_400


def routes(policies: AnyPolicies, recorder: Recorder) -> list[Route]:
    """Make the routes, for these policies."""

    async def reserve(request: Request) -> Response:
        """Reserve by POST, and cancel a reservation by DELETE."""
        return await (cancel if request.method == "DELETE" else take)(request)

    async def take(request: Request) -> Response:
        """Charge all items, or none; a repeated call charges nothing."""
        body = await bodies.read(request, ["id", "seconds", "items"])
        name, seconds = bodies.reservation(body), bodies.seconds(body, SECONDS, MOST_SECONDS)
        reservation = _Reservation(name, to_reserve(policies, body))
        own_request = from_asgi(request.scope)
        verdict = await recorder.record(own_request, reservation.take(own_request, seconds))
        return reservation.response(verdict, seconds)

    async def settle(request: Request) -> Response:
        """Refund the unused part of each cost, or charge the excess; a repeated call does nothing."""
        body = await bodies.read(request, ["id", "items"])
        reservation = _Reservation(bodies.reservation(body), to_settle(policies, body))
        settled = await reservation.settle()
        if not any(settled):
            abort(404, "There is no such reservation: it was never recorded, or has expired.")
        return json_response({"settled": settled})

    async def cancel(request: Request) -> Response:
        """Refund a reservation; if it arrives later, it charges nothing."""
        body = await bodies.read(request, ["id", "items"])
        reservation = _Reservation(bodies.reservation(body), to_cancel(policies, body))
        return json_response({"settled": await reservation.settle()})

    return [
        Route("/v1/reserve", reserve, methods=["POST", "DELETE"]),
        Route("/v1/settle", settle, methods=["POST"]),
    ]


class _Reservation:
    """The reservation that one call names."""

    def __init__(self, name: str, items: Sequence[Item]) -> None:
        self._name = name
        self._items = items
        self._is_exempt = all(item.is_exempt for item in items)
        limiters = [item.rule.limiter for item in items]
        self._calls = AsyncReservationCalls(name, limiters, [item.part for item in items])
        self._decisions: list[Decision | None] = [None] * len(items)
        self._is_repeated = False

    async def take(self, request: OwnRequest, seconds: int) -> Verdict:
        """Reserve, or decide by ``on_error``; abort if the id stands for another reservation."""
        verdict = Verdict() if self._is_exempt else await self._decide(request, seconds)
        verdict.shadowed = [(item.rule, item.error) for item in self._items if item.error]
        return verdict

    async def _decide(self, request: OwnRequest, seconds: int) -> Verdict:
        error = None
        try:
            recorded = await self._calls.reserve(seconds)
        except StoreUnavailable as unavailable:
            error, decided = unavailable, self._calls.fallback()
        except StoreRefused as refused:
            in_shadow = all(item.rule.shadow for item in self._items if item.is_decided)
            return Verdict.of_error(refused, request, in_shadow)
        else:
            self._compare(recorded)
            decided = [each.decision for each in recorded]
        results = []
        for place, (item, decision) in enumerate(zip(self._items, decided, strict=True)):
            if item.is_decided:
                self._decisions[place] = decision
                results.append(Result(item.rule, decision, item.part))
        # No RateLimit fields: items may be of one policy, and the fields could not tell them apart.
        denied = [NamedDecision(each.decision, "", "none") for each in results if each.denies]
        return Verdict.of_results(tuple(results), request, error, headers.of_all(denied))

    def _compare(self, recorded: Sequence[Recorded]) -> None:
        """Note whether the id is recorded already; abort if it is settled, or has other costs."""
        for place, (item, each) in enumerate(zip(self._items, recorded, strict=True)):
            if each.state is State.SETTLED:
                abort(409, "The reservation is settled already.")
            if each.state is State.OPEN:
                self._is_repeated = True
                if not is_charge_of(each, item.part):
                    abort(409, f"items[{place}].cost is not the cost reserved under this id.")

    def response(self, verdict: Verdict, seconds: int) -> Response:
        """Return the response of a reservation, with the decision about each item."""
        reserved = {"id": self._name, "seconds": seconds, "repeated": self._is_repeated}
        body = json.dumps({"allowed": True, **reserved}) if verdict.allowed else verdict.body
        results = ", ".join(
            f'{{"policy": {json.dumps(item.rule.name)}, "decision": {_as_json(decision)}}}'
            for item, decision in zip(self._items, self._decisions, strict=True)
        )
        whole = f'{body.rstrip().removesuffix("}")}, "results": [{results}]}}'
        return written(verdict.status, whole, verdict.fields)

    async def settle(self) -> list[bool]:
        """Settle at the items' costs; return whether each is settled, or needs no settlement."""
        if self._is_exempt:
            return [True] * len(self._items)
        try:
            states = await self._calls.settle()
        except LimiterError:
            abort(503, UNSURE)
        return [
            item.is_exempt or state is not State.NONE
            for item, state in zip(self._items, states, strict=True)
        ]


def _as_json(decision: Decision | None) -> str:
    return "null" if decision is None else decisions.as_json(decision)

"""The operators' application, on the second address: metrics, policies, shadow mode, and subjects."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limiter import LimiterError
from limiter.server import logs, metrics
from limiter.server.callers import Callers, Token
from limiter.server.one_policy import AnyPolicies, OnePolicy
from limiter.server.responses import abort, application, json_response
from limiter.settings import ADMIN_TOKEN
from limiter.web.request import Request as OwnRequest
from limiter.web.subjects import named


def create_operators_app(
    policies: AnyPolicies,
    counters: metrics.Metrics,
    token: str | None,
    callers: Callers,
) -> Starlette:
    """Make the application; without a token it has only the metrics."""

    async def read_metrics(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Return the metrics of this instance."""
        return Response(await counters.rendered(), headers={"Content-Type": metrics.MEDIA_TYPE})

    async def read_policies(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Return the policies in force, and the faults of a refused policy file."""
        in_force = _described(policies)  # first, since it notices a changed file
        refused = [fault.to_dict() for fault in policies.refused.faults] if policies.refused else []
        return json_response({"file": policies.path, "policies": in_force, "refused": refused})

    async def read_shadow(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Return the subjects that each policy in shadow mode would have denied most."""
        return json_response({"policies": await counters.shadow_denials.report()})

    async def read_key(request: Request) -> Response:
        """Return the state of a subject in each policy; nothing is taken."""
        subject = request.path_params["subject"]
        states = await _each(policies, request, "peek")
        return json_response({"subject": subject, "policies": states})

    async def reset(request: Request) -> Response:
        """Forget a subject in each policy, and return its state before."""
        subject = request.path_params["subject"]
        before = await _each(policies, request, "reset")
        peer = request.client.host if request.client else None
        for name in before:
            logs.changed("an operator reset a subject", name, named(subject), peer)
        return json_response({"subject": subject, "policies": before})

    routes = [Route("/metrics", read_metrics)]
    if token is None:
        return application(routes)
    routes += [
        Route("/v1/policies", read_policies),
        Route("/v1/shadow", read_shadow),
        Route("/v1/keys/{subject:subject}", read_key),
        Route("/v1/reset/{subject:subject}", reset, methods=["POST"]),
    ]
    admin_token = Token(ADMIN_TOKEN, token, callers)

    def check_token(request: OwnRequest) -> None:
        """Require the token for all routes but the metrics."""
        if request.path != "/metrics":
            admin_token.require(request)

    return application(routes, check_token)


class _Subject(StringConvertor):
    """The rest of a path, also if it begins with a slash or contains a newline."""

    regex = "(?s:.+)"


register_url_convertor("subject", _Subject())


def _described(policies: AnyPolicies) -> list[dict[str, Any]]:
    if isinstance(policies, OnePolicy):
        (rule,) = policies.guard.rules
        limits = [policy.to_dict() for policy in rule.limiter.policies]
        return [{"name": rule.name, "limits": limits, "key": "address"}]
    return [named.description for named in policies.current.file.policies.values()]


async def _each(policies: AnyPolicies, request: Request, call: str) -> dict[str, Any]:
    """Peek at or reset a subject, in every policy or in the one that the query names."""
    key = named(request.path_params["subject"])
    wanted = request.query_params.get("policy")
    decisions = {}
    for rule in policies.guard.rules:
        if wanted not in (None, rule.name):
            continue
        # The subject's own limits, also if the policy's percent excludes it.
        limits = rule.limits_of(key)
        try:
            decision = await getattr(rule.limiter, call)(key, limits=limits)
        except ValueError as error:
            abort(422, f"{error}.")
        except LimiterError as error:
            abort(503, f"The store does not answer: {error}.")
        decisions[rule.name] = decision.to_dict()
    if wanted is not None and not decisions:
        abort(404, "There is no such policy.")
    return decisions

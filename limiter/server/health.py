"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it takes new requests.

While the store does not answer, the fallback decides, and the process is ready. All instances share the
store: if they were not ready then, a load balancer would remove all of them.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from limiter import LimiterError, StoreUnavailable
from limiter.server import readiness
from limiter.server.drain import is_draining
from limiter.server.one_policy import AnyPolicies


def routes(policies: AnyPolicies) -> list[Route]:
    """Make the routes, for these policies."""

    async def healthz(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Report that the process is alive, whatever the store does."""
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Report whether the process takes new requests, and whether the store or a fallback decides."""
        if is_draining():
            return PlainTextResponse("the service is about to stop: send no new requests\n", 503)
        try:
            degraded = await _is_degraded(policies)
        except LimiterError as error:
            return PlainTextResponse(readiness.not_ready(error), 503)
        return PlainTextResponse(readiness.ready(policies, degraded))

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


async def _is_degraded(policies: AnyPolicies) -> bool:
    """Whether a fallback decides; raise LimiterError if nothing does."""
    limiter = policies.guard.rules[0].limiter
    try:
        for probe in readiness.PROBES:
            if (await limiter.peek(probe)).degraded:
                return True
    except StoreUnavailable:
        return True
    return False

"""``/healthz`` and ``/readyz``: whether the process is alive, and whether it takes new requests.

While the store does not answer, the fallback decides, and the process is ready. All instances share the
store: if they were not ready then, a load balancer would remove all of them.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from limiter import LimiterError, StoreUnavailable
from limiter.server.drain import is_draining
from limiter.server.one_policy import AnyPolicies

# Enough subjects to reach every node of a cluster of a usual size.
_PROBES = [f"readyz-{number}" for number in range(16)]


def routes(policies: AnyPolicies) -> list[Route]:
    """Make the routes, for these policies."""

    async def healthz(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Report that the process is alive, whatever the store does."""
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Report whether the process takes new requests, and whether the store or a fallback decides."""
        if is_draining():
            return PlainTextResponse("the service is about to stop: send no new requests\n", 503)
        rules = policies.guard.rules
        try:
            degraded = await _is_degraded(policies)
        except LimiterError as error:
            text = f"the store does not decide, and no fallback does: {error}\n"
            return PlainTextResponse(text, 503)
        notes = []
        if degraded:
            fallbacks = ", ".join(sorted({rule.limiter.on_error for rule in rules}))
            notes.append(f"the store does not decide; until it does, on_error decides: {fallbacks}")
        if policies.refused:
            notes.append("the policy file is refused, and its last valid version is in force")
        return PlainTextResponse("; ".join(["ready", *notes]) + "\n")

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


async def _is_degraded(policies: AnyPolicies) -> bool:
    """Whether a fallback decides; raise LimiterError if nothing does."""
    limiter = policies.guard.rules[0].limiter
    try:
        for probe in _PROBES:
            if (await limiter.peek(probe)).degraded:
                return True
    except StoreUnavailable:
        return True
    return False

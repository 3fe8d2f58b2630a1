"""``/v1/openapi.json``: the OpenAPI document, which a test compares with the code."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from limiter import __version__


def routes() -> list[Route]:
    """Make the route."""
    document = json.loads(Path(__file__).with_name("openapi.json").read_text())
    document["info"]["version"] = __version__
    described = json.dumps(document)

    async def openapi(request: Request) -> Response:  # noqa: ARG001 (the signature of an endpoint)
        """Return the document."""
        return Response(described, media_type="application/json")

    return [Route("/v1/openapi.json", openapi)]

"""``GET /v1/openapi.json``: the OpenAPI document; a test compares it with the code."""

from __future__ import annotations

import json
from pathlib import Path

from flask import Blueprint, Response

from limiter import __version__


def blueprint() -> Blueprint:
    """Make the route."""
    routes = Blueprint("openapi", __name__)
    document = json.loads(Path(__file__).with_name("openapi.json").read_text())
    document["info"]["version"] = __version__
    text = json.dumps(document)

    @routes.get("/v1/openapi.json")
    def openapi() -> Response:
        """Return the document."""
        return Response(text, mimetype="application/json")

    return routes

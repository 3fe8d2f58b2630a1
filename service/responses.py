"""Responses of the Flask application: JSON, and every refusal as problem+json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from limiter.web import problems, wiring
from limiter.web.headers import Field
from limiter.web.verdict import Verdict


def prepare(app: Flask) -> None:
    """Make every refusal of an application problem+json."""
    app.register_error_handler(HTTPException, _refused)


def of_json(body: Any, status: int = 200, fields: Iterable[Field] = ()) -> Response:
    """Make a response with a JSON body: problem+json if the status is 400 or more."""
    media_type = "application/json" if status < 400 else problems.MEDIA_TYPE
    response = Response(json.dumps(body) + "\n", status, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers.extend(list(fields))
    return response


def refusal(verdict: Verdict) -> Response:
    """Make the response to a request that a verdict does not allow."""
    fields, body = wiring.refusal(verdict)
    return Response(body, verdict.status, fields)


def _refused(error: HTTPException) -> Any:
    if error.response is not None or error.code is None or error.code < 400:
        return error
    fields = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    problem = json.loads(problems.problem(error.code, error.description or "", request.path))
    return of_json(problem, error.code, fields)

"""Reads JSON bodies of requests, and writes responses: JSON, and every refusal as problem+json."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from limiter import InvalidKey
from limiter.web import limiter_calls, problems, wiring
from limiter.web.guard import Guard
from limiter.web.headers import Field
from limiter.web.subjects import Key
from limiter.web.verdict import Verdict

#: A longer body is refused: by its Content-Length, else when so much of it has been read.
MOST_BYTES = 65_536

_LONGEST_TEXT = 1_024
_MOST_PARTS = 8
_LARGEST = 2**53 - 1
_LEASE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_KEY = (
    f"accepted are a text of 1 to {_LONGEST_TEXT} characters, a whole number, and a list of 1 to "
    f"{_MOST_PARTS} of these"
)


def prepare(app: Flask) -> None:
    """Bound the bodies of an application, and make every refusal problem+json."""
    # Werkzeug silently cuts off a body in chunks: one byte more shows that it was longer.
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES + 1
    app.register_error_handler(HTTPException, _refused)


def read(accepted: Collection[str]) -> dict[str, Any]:
    """Return the request's body; abort unless it is a JSON object with no other members than these."""
    if request.mimetype != "application/json":
        abort(415, "The body is not application/json: expected this Content-Type.")
    try:
        raw = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # servers raise errors of their own for invalid chunks
        abort(400, "The body cannot be read: its chunks are wrong, or it ended too early.")
    if len(raw) > MOST_BYTES:
        abort(413, f"The body is longer than {MOST_BYTES:,} bytes.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        abort(400, "The body is not JSON.")
    return members(body, accepted)


def members(value: Any, accepted: Collection[str]) -> dict[str, Any]:
    """Return an object of a body; abort if it is no object, or has other members."""
    if not isinstance(value, dict):
        abort(422, f"The body is no object: accepted is one with {', '.join(accepted)}.")
    others = sorted(set(value) - set(accepted))
    if others:
        abort(422, f"{others[0][:64]!r} is an unknown member: accepted are {', '.join(accepted)}.")
    return value


def subject(body: dict[str, Any], guard: Guard) -> Key:
    """Return the subject that a body names."""
    if "key" not in body:
        abort(422, f"key is missing: {_KEY}.")
    value = body["key"]
    parts = [_whole(part) for part in (value if isinstance(value, list) else [value])]
    if not 1 <= len(parts) <= _MOST_PARTS or not all(map(_is_part, parts)):
        abort(422, f"key is no subject: {_KEY}.")
    key: Key = tuple(parts) if isinstance(value, list) else parts[0]
    try:
        limiter_calls.plan(guard.rules[0].limiter).state(key, None)
    except InvalidKey as error:
        abort(422, f"{error}.")
    return key


def _whole(value: Any) -> Any:
    """Return 1 for 1.0: some languages write whole numbers in JSON like that."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_part(value: Any) -> bool:
    if isinstance(value, str):
        return 1 <= len(value) <= _LONGEST_TEXT
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def cost(body: dict[str, Any]) -> int:
    """Return the cost that a body names, by default 1."""
    value = _whole(body.get("cost", 1))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        abort(422, f"cost is no whole number from 1 to {_LARGEST}.")
    return value


def flag(body: dict[str, Any], name: str) -> bool:
    """Return a member that is true or false, by default false."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        abort(422, f"{name} is neither true nor false.")
    return value


def lease(body: dict[str, Any]) -> str | None:
    """Return the id of the lease that a body names; None without one."""
    value = body.get("lease")
    if value is None:
        return None
    if not isinstance(value, str) or not _LEASE.fullmatch(value):
        abort(422, "lease is no id: accepted are 1 to 64 of A-Z a-z 0-9 _ . -.")
    return value


def json_response(body: Any, status: int = 200, fields: Iterable[Field] = ()) -> Response:
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


def problem(status: int, detail: str) -> dict[str, Any]:
    """Make the body of a problem."""
    body: dict[str, Any] = json.loads(problems.problem(status, detail, request.path))
    return body


def _refused(error: HTTPException) -> Any:
    if error.response is not None or error.code is None or error.code < 400:
        return error
    fields = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return json_response(problem(error.code, error.description or ""), error.code, fields)

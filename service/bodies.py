"""JSON in and out: what a body may be, and every refusal as problem+json."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from limiter import InvalidKey
from limiter.web import limiter_calls, problems
from limiter.web.guard import Guard
from limiter.web.headers import Field
from limiter.web.subjects import Key

#: A longer body is refused: before it is read where its length is said, else when this much is.
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
    """Bound bodies, and say every refusal as problem+json."""
    # Werkzeug cuts a body in chunks off at this, and says nothing: the byte beyond tells it was longer.
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES + 1
    app.register_error_handler(HTTPException, _refused)


def read(accepted: Collection[str]) -> dict[str, Any]:
    """The request's body; aborts where it is no JSON object of these members."""
    if request.mimetype != "application/json":
        abort(415, "The body is to be application/json.")
    try:
        raw = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # each server has its own errors for chunks that are none
        abort(400, "The body cannot be read: its chunks are wrong, or it ended too early.")
    if len(raw) > MOST_BYTES:
        abort(413, f"The body is longer than {MOST_BYTES:,} bytes.")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        abort(400, "The body is no JSON.")
    return members(found, accepted)


def members(found: Any, accepted: Collection[str]) -> dict[str, Any]:
    """An object of a body; aborts where it is none, or has other members."""
    if not isinstance(found, dict):
        abort(422, f"Accepted is an object with {', '.join(accepted)}.")
    others = sorted(set(found) - set(accepted))
    if others:
        abort(422, f"{others[0][:64]!r} is no member here: accepted are {', '.join(accepted)}.")
    return found


def subject(found: dict[str, Any], guard: Guard) -> Key:
    """Whom a call is about."""
    if "key" not in found:
        abort(422, f"key is missing: {_KEY}.")
    value = found["key"]
    parts = [_plain(part) for part in (value if isinstance(value, list) else [value])]
    if not 1 <= len(parts) <= _MOST_PARTS or not all(map(_is_part, parts)):
        abort(422, f"key names nobody: {_KEY}.")
    key: Key = tuple(parts) if isinstance(value, list) else parts[0]
    try:
        limiter_calls.plan(guard.rules[0].limiter).state(key, None)
    except InvalidKey as error:
        abort(422, f"{error}.")
    return key


def _plain(value: Any) -> Any:
    """In JSON 1.0 is a whole number, and some languages write it like that."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_part(value: Any) -> bool:
    if isinstance(value, str):
        return 1 <= len(value) <= _LONGEST_TEXT
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def cost(found: dict[str, Any]) -> int:
    """What a call costs; 1 where it does not say."""
    value = _plain(found.get("cost", 1))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        abort(422, f"cost is no whole number from 1 to {_LARGEST}.")
    return value


def flag(found: dict[str, Any], name: str) -> bool:
    """A member that is true or false; false where it is left out."""
    value = found.get(name, False)
    if not isinstance(value, bool):
        abort(422, f"{name} is neither true nor false.")
    return value


def lease(found: dict[str, Any]) -> str | None:
    """The id of a lease, where one is named."""
    value = found.get("lease")
    if value is None:
        return None
    if not isinstance(value, str) or not _LEASE.fullmatch(value):
        abort(422, "lease is no id: accepted are 1 to 64 of A-Z a-z 0-9 _ . -.")
    return value


def json_response(what: Any, status: int = 200, fields: Iterable[Field] = ()) -> Response:
    """An answer in JSON; one from 400 on is a problem."""
    media_type = "application/json" if status < 400 else problems.MEDIA_TYPE
    answer = Response(json.dumps(what) + "\n", status, content_type=media_type)
    answer.headers["Cache-Control"] = "no-store"
    answer.headers.extend(list(fields))
    return answer


def problem(status: int, detail: str) -> dict[str, Any]:
    """A problem, as an object."""
    found: dict[str, Any] = json.loads(problems.problem(status, detail, request.path))
    return found


def _refused(error: HTTPException) -> Any:
    if error.response is not None or error.code is None or error.code < 400:
        return error
    fields = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return json_response(problem(error.code, error.description or ""), error.code, fields)

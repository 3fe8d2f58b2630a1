"""Reads JSON bodies of requests, and the members that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

from limiter import InvalidKey
from limiter.server.responses import abort
from limiter.web import limiter_calls
from limiter.web.guard import AsyncGuard
from limiter.web.request import from_asgi
from limiter.web.subjects import Key

#: A longer body is refused: by its Content-Length, else when so much of it has been read.
MOST_BYTES = 65_536

_LONGEST_TEXT = 1_024
_LONGEST_NAME = 64
_MOST_PARTS = 8
_LARGEST = 2**53 - 1
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_KEY = (
    f"expected a text of 1 to {_LONGEST_TEXT} characters, a whole number, and a list of 1 to "
    f"{_MOST_PARTS} of these"
)


#: The members of a body that name a subject, and what holds for it.
OF_SUBJECT = ("key", "plan", "class")


class Subject(NamedTuple):
    """The subject that a body names."""

    key: Key
    state: bytes
    """Its key in the store, by which ``["u", 1]`` and ``["u", "1"]`` are one subject."""
    plan: str | None = None
    """The plan that the caller names; a policy without such a plan ignores it."""
    class_: str | None = None
    """The class of priority, as ``plan``."""


async def read(request: Request, accepted: Collection[str]) -> dict[str, Any]:
    """Return the request's body; abort unless it is a JSON object with no other members than these."""
    media_type = request.headers.get("Content-Type", "").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        abort(415, "The body is not application/json: expected this Content-Type.")
    raw = await _received(request)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        abort(400, "The body is not JSON.")
    return members(body, accepted)


async def _received(request: Request) -> bytes:
    """Return the body; abort, and receive no more of it, once it is known to be too long."""
    received = bytearray()
    size = from_asgi(request.scope).size or 0
    if size <= MOST_BYTES:
        async for piece in request.stream():
            received += piece
            if (size := len(received)) > MOST_BYTES:
                break
    if size > MOST_BYTES:
        # Without this field the server would receive the rest, and drop it.
        abort(413, f"The body is longer than {MOST_BYTES:,} bytes.", {"Connection": "close"})
    return bytes(received)


def members(value: Any, accepted: Collection[str], name: str = "The body") -> dict[str, Any]:
    """Return an object of a body; abort if it is no object, or has other members."""
    if not isinstance(value, dict):
        abort(422, f"{name} is no object: expected one with {', '.join(accepted)}.")
    others = value.keys() - accepted
    if others:
        unknown = f"{name} has an unknown member, {min(others)[:64]!r}"
        abort(422, f"{unknown}: expected {', '.join(accepted)}.")
    return value


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Read an object inside the body: refusals name its members as ``<name>.<member>``."""
    try:
        yield
    except HTTPException as error:
        abort(error.status_code, f"{name}.{error.detail}")


def subject(body: dict[str, Any], guard: AsyncGuard) -> Subject:
    """Return the subject that a body names."""
    if "key" not in body:
        abort(422, f"key is missing: {_KEY}.")
    value = body["key"]
    parts = list(map(_whole, value if isinstance(value, list) else [value]))
    if not 1 <= len(parts) <= _MOST_PARTS or not all(map(_is_part, parts)):
        abort(422, f"key is no subject: {_KEY}.")
    key: Key = tuple(parts) if isinstance(value, list) else parts[0]
    try:
        state, _ = limiter_calls.plan(guard.rules[0].limiter).state(key, None)
    except InvalidKey as error:
        abort(422, f"{error}.")
    return Subject(key, state, _name(body, "plan"), _name(body, "class"))


def _name(body: dict[str, Any], member: str) -> str | None:
    """Return the plan or class that a body names; None without one."""
    value = body.get(member)
    if value is not None and not (isinstance(value, str) and len(value) <= _LONGEST_NAME):
        abort(422, f"{member} is no name: expected a text of up to {_LONGEST_NAME} characters.")
    return value


def _whole(value: Any) -> Any:
    """Return 1 for 1.0: some languages write whole numbers in JSON like that."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_part(value: Any) -> bool:
    if isinstance(value, str):
        return 1 <= len(value) <= _LONGEST_TEXT
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def cost(body: dict[str, Any], least: int = 1) -> int:
    """Return the cost that a body names, by default 1; a cost that may be 0 has no default."""
    if least == 0 and "cost" not in body:
        abort(422, "cost is missing: expected the true cost, a whole number from 0.")
    return _number(body, "cost", 1, least, _LARGEST)


def seconds(body: dict[str, Any], default: int, most: int) -> int:
    """Return a duration of at least one second that a body names."""
    return _number(body, "seconds", default, 1, most)


def _number(body: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = _whole(body.get(name, default))
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        abort(422, f"{name} is no whole number from {least} to {most}.")
    return value


def flag(body: dict[str, Any], name: str) -> bool:
    """Return a member that is true or false, by default false."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        abort(422, f"{name} is neither true nor false.")
    return value


def lease(body: dict[str, Any]) -> str | None:
    """Return the id of the lease that a body names; None without one."""
    return None if body.get("lease") is None else _id(body, "lease")


def reservation(body: dict[str, Any]) -> str:
    """Return the id of the reservation that a body names."""
    if body.get("id") is None:
        abort(422, "id is missing: expected an id that no other reservation has.")
    return _id(body, "id")


def _id(body: dict[str, Any], name: str) -> str:
    value = body[name]
    if not isinstance(value, str) or not _ID.fullmatch(value):
        abort(422, f"{name} is no id: expected 1 to 64 of A-Z a-z 0-9 _ . -.")
    return value

"""For whom a limit is: what of a request says who is meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from limiter.errors import InvalidSetting
from limiter.keys import Key
from limiter.web.identity import Network, Unidentified, caller
from limiter.web.request import Request

ACCEPTED = (
    "accepted are address (or address/N: IPv6 by N bits, 32 to 128), header:NAME, cookie:NAME, api-key "
    "(or api-key:HEADER), path:NAME, host, global, and a list of these"
)

_ADDRESS = re.compile(r"address/(3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-8])")

#: Where a client puts its key, when nobody says where else.
_API_KEY = "x-api-key"


class Subject(NamedTuple):
    """Who is meant."""

    key: Key
    """What the limiter is asked about: hashed, but for addresses and names of ours."""
    said: str
    """What the request said, for exemptions and overrides; never for keys and logs."""


#: Finds the subject of a request, or raises Unidentified.
Identity = Callable[[Request, Sequence[Network]], Subject]


def identity(spec: str | Sequence[str]) -> Identity:
    """The identity that a text, or a list of them, describes.

    Raises:
        InvalidSetting: It describes none.

    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    if not specs or not all(isinstance(one, str) for one in specs):
        raise InvalidSetting(f"key is {spec!r}: {ACCEPTED}")
    found = [_one(one) for one in specs]
    if len(found) == 1:
        return found[0]

    def several(request: Request, trusted: Sequence[Network]) -> Subject:
        subjects = [one(request, trusted) for one in found]
        parts = tuple(str(subject.key) for subject in subjects)
        return Subject(parts, ",".join(subject.said for subject in subjects))

    return several


def hashed(kind: str, value: str) -> str:
    """What a client chose, as a subject that nobody can read back, aim, or make long."""
    digest = blake2b(value.encode("utf-8", "surrogateescape"), digest_size=16)
    return f"{kind}:{digest.hexdigest()}"


def by_address(request: Request, trusted: Sequence[Network]) -> Subject:
    """The client's address, by the proxies that are trusted."""
    subject = caller(request.peer, request.forwarded_for, trusted)
    return Subject(subject, subject)


def _by_prefix(prefix: int) -> Identity:
    def find(request: Request, trusted: Sequence[Network]) -> Subject:
        subject = caller(request.peer, request.forwarded_for, trusted, prefix)
        return Subject(subject, subject)

    return find


def _one(spec: str) -> Identity:
    kind, separator, name = spec.partition(":")
    if spec == "address":
        return by_address
    if found := _ADDRESS.fullmatch(spec):
        return _by_prefix(int(found[1]))
    if spec == "global":
        return lambda request, trusted: Subject("global", "global")  # noqa: ARG005 (it is the same for all)
    if spec == "host":
        return _valued("host", "host", lambda request: request.host)
    if kind == "header" and name:
        return _valued(
            "header", f"header {name}", lambda request: request.headers.get(name.lower())
        )
    if kind == "cookie" and name:
        return _valued("cookie", f"cookie {name}", lambda request: request.cookie(name))
    if kind == "path" and name:
        return _valued("path", f"part {name} of the path", lambda request: request.parts.get(name))
    if kind == "api-key" and (name or not separator):
        return _valued("api-key", "API key", lambda request: _api_key(request, name.lower()))
    raise InvalidSetting(f"key is {spec!r}: {ACCEPTED}")


def _valued(kind: str, what: str, read: Callable[[Request], str | None]) -> Identity:
    def find(request: Request, trusted: Sequence[Network]) -> Subject:  # noqa: ARG001 (an address needs them)
        value = (read(request) or "").strip()
        if not value:
            raise Unidentified(f"the request has no {what}")
        return Subject(hashed(kind, value), value)

    return find


def _api_key(request: Request, header: str) -> str | None:
    """The key in the header of that name, or in X-API-Key, or a bearer token."""
    if header:
        return request.headers.get(header)
    found = request.headers.get(_API_KEY)
    if found:
        return found
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else None

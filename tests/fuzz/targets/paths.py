"""Paths: a limit applies to each path that some software serves by its route, and patterns are globs.

The input begins with its mode: a target as a proxy reports it, as servers pass it to an application, or a
pattern and a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote, unquote_to_bytes

import httptools

from limiter import InvalidSetting, Limiter
from limiter.web.identity import Ambiguous
from limiter.web.match import Match, SkipReason, pattern
from limiter.web.paths import path_of
from limiter.web.request import Request, from_asgi, from_wsgi
from limiter.web.rules import Rule
from tests.fuzz.source import Source, words
from tests.web import routers

WORDS = words(
    r"/orders /orders/ /orders/5 /files/a /free/a http://h/orders // /./ /../ .. # ? ; ;a=b \ * ** /**/ "
    "{a} {b} %2F %2f %2E%2e %5C %23 %3B %3F %0A %00 %25 %252F %FF %C3%A9 %EF%BF%BD %ED%A0%80 %E2%80%A8 "
    "%6Frders \x85"
)

_ORDERS = Match(paths=(pattern("/orders"), pattern("/orders/{id}")))
_FILES = Match(paths=(pattern("/files/**"),))
_FREE = Rule(
    Limiter("1/s", store="memory://"), exempt_paths=(pattern("/free"), pattern("/free/**"))
)
#: The longest text for which all ways to match a pattern are tried.
_LONGEST_GLOB = 64


def check(data: bytes) -> None:
    """Check one input."""
    source = Source(data)
    source.pick((_check_reported, _check_in_process, _check_pattern))(
        source.rest().decode("latin-1")
    )


def _check_reported(target: str) -> None:
    """Check a target that a proxy reports: what it passes on, an upstream may read in any way."""
    path = path_of(target, "GET")
    if path is None:
        return  # a 400
    assert "\x00" not in target
    request = Request("GET", "h", path, {}, "203.0.113.9", target=target)
    # Servers end a path at one of these.
    sent = [re.split(end, _origin_form(target), maxsplit=1)[0] for end in ("[?]", "[?#]")]
    _check_served(request, {served for text in sent for served in routers.served(text)})
    with suppress(Ambiguous):
        if any(map(routers.serves_files, sent)):
            assert _FILES.parts(request) is not None, f"{path!r} is served, and not limited"


def _check_in_process(target: str) -> None:
    """Check the paths that servers of WSGI and ASGI make of a target, for a framework behind them."""
    for request, text in _requests(target):
        _check_served(request, {*routers.starlette(text), *routers.werkzeug(text)})


def _requests(target: str) -> Iterator[tuple[Request, str]]:
    """Yield the request of each server, and the text by which a framework routes."""
    try:
        raw_path = httptools.parse_url(target.encode("latin-1")).path or b""
        path = unquote(raw_path.decode("ascii"))
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        pass  # a 400
    else:  # as uvicorn
        scope = {"type": "http", "path": path, "raw_path": raw_path, "headers": []}
        yield from_asgi({**scope, "client": ("203.0.113.9", 5)}), path
    if not re.search(r"[\s\x00-\x20\x7f]", target):  # as gunicorn
        sent = unquote_to_bytes(
            _origin_form(target).partition("?")[0].partition("#")[0].encode("latin-1")
        )
        environ = {
            "PATH_INFO": sent.decode("latin-1"),
            "RAW_URI": target,
            "REMOTE_ADDR": "203.0.113.9",
        }
        yield from_wsgi(environ), sent.decode("utf-8", "replace")


def _check_served(request: Request, found: set[str | None]) -> None:
    """Check that the limit applies if a router serves the path, with the same part or with none."""
    try:
        parts = _ORDERS.parts(request)
        is_free = _FREE.consider(request, ()) is SkipReason.EXEMPT_PATH
    except Ambiguous:
        return  # a 400
    assert not (found and is_free), f"{request.path!r} is served, and exempt"
    assert not found or parts is not None, f"{request.path!r} is served, and not limited"
    others = found - {None, (parts or {}).get("id")}
    assert not others or (parts or {}).get("id") is None, f"{request.path!r} has the id {others}"


def _origin_form(target: str) -> str:
    return re.sub("^https?://[^/?#]*", "", target, flags=re.IGNORECASE)


def _check_pattern(text: str) -> None:
    """Check a pattern, and a path after a blank, against all ways to match a glob."""
    glob, _, path = text.partition(" ")
    try:
        expression = pattern(glob)
    except InvalidSetting:
        return
    if len(text) <= _LONGEST_GLOB:
        assert (expression.fullmatch(path) is not None) == _matches(glob, path)
    expression.fullmatch(path * 10)


def _matches(glob: str, path: str) -> bool:
    """Whether a glob can match a path in any way, by the ends that its beginnings can have."""
    ends = {0}
    for piece in re.split(r"(\*\*|\*|\{[^{}]*\})", glob):
        if piece == "**":
            ends = {end for at in ends for end in range(at, len(path) + 1)}
        elif piece.startswith("*"):
            ends = {end for at in ends for end in _ends(path, at)}
        elif piece.startswith("{"):
            ends = {end for at in ends for end in _ends(path, at) if end > at}
        else:
            ends = {at + len(piece) for at in ends if path.startswith(piece, at)}
    return len(path) in ends


def _ends(path: str, at: int) -> range:
    """Where a text without a slash that begins here may end."""
    slash = path.find("/", at)
    return range(at, (len(path) if slash < 0 else slash) + 1)

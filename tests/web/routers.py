"""Real routers, and readings of a path as servers document them, for ``/orders`` and ``/orders/{id}``.

Each function yields, for a path that is not decoded, the id with which that software serves it; None if it
serves the route without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import unquote_to_bytes

from starlette.routing import compile_path
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect, Rule

STARLETTE = [compile_path(path)[0] for path in ("/orders", "/orders/", "/orders/{id}")]
WERKZEUG = Map([Rule("/orders"), Rule("/orders/<id>"), Rule("/orders/<int:id>")])
WERKZEUG_LAX = Map(
    [Rule("/orders"), Rule("/orders/<id>")], strict_slashes=False, merge_slashes=False
)
STARLETTE_FILES = compile_path("/files/{rest:path}")[0]
WERKZEUG_FILES = [
    Map([Rule("/files/<path:rest>")], merge_slashes=merges, strict_slashes=merges)
    for merges in (True, False)
]
_DOTS = {".": ".", "%2e": ".", "..": "..", ".%2e": "..", "%2e.": "..", "%2e%2e": ".."}


def served(path: str) -> Iterator[str | None]:
    """Yield the ids of all of them; ``path`` may have characters up to 255, and no query."""
    yield from raw(path)
    for errors in ("replace", "ignore"):  # how frameworks handle bytes that are not UTF-8
        text = text_of(path, errors)
        yield from starlette(text)
        yield from werkzeug(text)
    for reader in (django, nginx, tomcat, whatwg):
        yield from reader(path)


def serves_files(path: str) -> bool:
    """Whether one of them serves a path by a route ``/files/`` with any text behind it."""
    readings = [path, _nginx(path), _tomcat(path), _whatwg(path)]
    texts = [text_of(path, errors) for errors in ("replace", "ignore", "surrogateescape")]
    return (
        any(reading.startswith("/files/") for reading in (*readings, *texts))
        or any(map(STARLETTE_FILES.match, texts))
        or any(_serves(routes, text) for routes in WERKZEUG_FILES for text in texts[:2])
    )


def _serves(routes: Map, path: str) -> bool:
    with suppress(RequestRedirect, HTTPException):
        return bool(routes.bind("h").match(path))
    return False


def text_of(path: str, errors: str = "replace") -> str:
    """Decode a path."""
    return unquote_to_bytes(path.encode("latin-1")).decode(errors=errors)


def starlette(path: str) -> Iterator[str | None]:
    """Route a decoded path as Starlette does."""
    for route in STARLETTE:
        if found := route.match(path):
            yield found.groupdict().get("id")


def werkzeug(path: str) -> Iterator[str | None]:
    """Route a decoded path as Werkzeug does, in two settings."""
    for routes in (WERKZEUG, WERKZEUG_LAX):
        with suppress(RequestRedirect, HTTPException):
            found = routes.bind("h").match(path)[1].get("id")
            # A number is one id in several spellings, such as 5 and 05, that a limiter cannot know.
            yield found if isinstance(found, str) else None


def django(path: str) -> Iterator[str | None]:
    """Match as Django: bytes that are not UTF-8 stay escaped."""
    text = text_of(path, "surrogateescape")
    yield from raw_text(re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:X}", text))


def raw(path: str, ignore_case: bool = False) -> Iterator[str | None]:
    """Route as upstreams that match a path before they decode it: aiohttp, Express, Koa."""
    flags = re.IGNORECASE if ignore_case else 0
    if found := re.fullmatch("/orders(?:/([^/]+))?/?", path, flags):
        yield found[1] and text_of(found[1], "replace")


def nginx(path: str) -> Iterator[str | None]:
    """Match a location as nginx: it decodes the path, resolves dots, and merges slashes."""
    yield from raw_text(_nginx(path))


def _nginx(path: str) -> str:
    return _resolved(text_of(path), merges=True)


def tomcat(path: str) -> Iterator[str | None]:
    """Match as a servlet container: parameters of segments are removed before the path is decoded."""
    yield from raw_text(_tomcat(path))


def _tomcat(path: str) -> str:
    return _resolved(text_of(re.sub(";[^/]*", "", path)), merges=True)


def whatwg(path: str) -> Iterator[str | None]:
    """Match as Node's ``URL``: a backslash is a slash, and escaped dots are dots; then as ``raw``."""
    yield from raw(_whatwg(path))


def _whatwg(path: str) -> str:
    path = path.replace("\\", "/")
    segments = [_DOTS.get(segment.lower(), segment) for segment in path.split("/")]
    return _resolved("/".join(segments), merges=False)


def raw_text(path: str) -> Iterator[str | None]:
    """Match a decoded path."""
    if found := re.fullmatch("/orders(?:/([^/]+))?/?", path):
        yield found[1]


def _resolved(path: str, merges: bool) -> str:
    """Resolve dotted segments one after the other (RFC 3986, section 5.2.4)."""
    result: list[str] = []
    segments = path.split("/")[1:] if path.startswith("/") else ["", *path.split("/")]
    for place, segment in enumerate(segments):
        is_last = place == len(segments) - 1
        if segment == "..":
            del result[-1:]
        elif segment != "." and (segment or not merges or is_last):
            result.append(segment)
        if is_last and segment in (".", ".."):
            result.append("")
    return "/" + "/".join(result)

"""The readings of a request's path: servers and applications differ in how they read some paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote_to_bytes

from limiter.web.identity import Ambiguous

#: Stands in a reading for a slash that was sent as %2F and separates no segments. No bytes decode to this
#: surrogate.
NO_SLASH = "\udc2f"
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)

#: Characters for which a path has several readings.
_ODD = re.compile(r"//|/\.|[\\;#\ufffd]|\n\Z")
_DOTTED = re.compile(r"//|/\.")
_SLASHES = re.compile("//+")
_PARAMETERS = re.compile(r";[^/]*")
#: A target in absolute form, up to its path (RFC 9112, section 3.2.2).
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
#: A target in a form that has a path, without blanks and control characters.
_TARGET = re.compile(r"(?=[^\x00-\x20\x7f]*\Z)(?:/|https?://[^/?#]*(?:[/?#]|\Z)).*", re.I)

#: The most readings of a path before its dotted segments are resolved. Real clients hardly send a path of
#: two. Each reading costs time, which an attacker could use.
_MOST_READINGS = 8
#: The longest path that may have several readings: longer ones would block an event loop so long that other
#: requests get no answer of the store in time.
_LONGEST_ODD = 2_048


def decoded(target: str, errors: str = "replace") -> str:
    """Decode a path: its escapes, and its characters up to 255, are bytes of UTF-8.

    Bytes that are not UTF-8 become U+FFFD, or are left out if ``errors`` is ``ignore``.
    """
    if "%" not in target and target.isascii():
        return target
    return unquote_to_bytes(target.encode("latin-1", "replace")).decode("utf-8", errors)


def path_of(target: str, method: str) -> str | None:
    """Return the decoded path of a request's target (RFC 9112, section 3.2); None if it is no target.

    The path ends at a question mark; ``readings`` handles servers that end it at a #.
    """
    return path_of_target(target) if is_target(target, method) else None


def is_target(target: str, method: str) -> bool:
    """Whether a text is the target of a request (RFC 9112, section 3.2) that has a path."""
    if target == "*":
        return method == "OPTIONS"
    return _TARGET.fullmatch(target) is not None


def path_of_target(target: str) -> str:
    """Return the decoded path of a valid target."""
    return target if target == "*" else decoded(raw_path(target))


def raw_path(target: str) -> str:
    """Return the path of a target, not decoded."""
    return _rooted(target.partition("?")[0])


def _rooted(path: str) -> str:
    """Return a path that begins with a slash, as servers read one that does not."""
    if path.startswith("/"):
        return path
    rest = _ORIGIN.sub("", path, count=1)
    return rest if rest.startswith("/") else f"/{rest}"


def readings(path: str, target: str | None = None) -> tuple[str, ...]:
    """Return a path as it is, and then as other servers or applications may read it.

    ``target`` is what the client sent, if that is known; it is used if it decodes to the path. Readings
    differ in:

    * whether a # ends the path, and whether %2F separates segments;
    * how a path is read that does not begin with a slash;
    * whether bytes that are not UTF-8 are replaced or left out, and whether a newline at the end counts;
    * whether a backslash is a slash, and whether a semicolon begins parameters, also if it is escaped;
    * how dotted and empty segments are resolved.

    Raises:
        Ambiguous: The path has more readings than those of real clients, or several and is too long.

    """
    is_plain = path.startswith("/") and not _ODD.search(path)
    if is_plain and (target is None or "%2" not in target or not _encodes_slash(target)):
        return (path,)
    if len(path) > _LONGEST_ODD:
        raise Ambiguous("the request's path has several readings, and is too long")
    texts = (path, *_as_sent(path, target))
    result = dict.fromkeys(map(_rooted, texts))  # in this order, each once
    slashes_and_parameters = _with_slashes, _without_parameters, _with_slashes  # in both orders
    for step in (_without_replaced, *slashes_and_parameters, _without_newline):
        result |= dict.fromkeys(map(step, tuple(result)))
    if len(result) > _MOST_READINGS:
        raise Ambiguous("the request's path has too many readings")
    for reading in filter(_DOTTED.search, tuple(result)):
        segments = reading.split("/")[1:]
        for kept in (segments, [segment for segment in segments[:-1] if segment] + segments[-1:]):
            result["/" + "/".join(_undotted(kept))] = None
        # Some software drops empty segments and resolves no dots: Werkzeug those at the beginning.
        result["/" + reading.lstrip("/")] = None
        result[_SLASHES.sub("/", reading)] = None
    return tuple(result)


def _encodes_slash(target: str) -> bool:
    return _ENCODED_SLASH.search(target.partition("?")[0]) is not None


def _as_sent(path: str, target: str | None) -> Iterator[str]:
    """Yield the path cut at a #, and, by a known target, with encoded slashes that separate nothing."""
    sent = [] if target is None else _meaning(path, target)
    if not sent:
        yield path.partition("#")[0]
    for cut in _as_parsed(_with_cuts(sent)):
        for errors in ("replace", "ignore") if "\ufffd" in path else ("replace",):
            yield decoded(cut, errors)
            yield NO_SLASH.join(decoded(part, errors) for part in _ENCODED_SLASH.split(cut))


def _meaning(path: str, target: str) -> list[str]:
    """Return the parts of a target that decode to the path; none if a server has changed the path."""
    wholes = target.partition("?")[0], raw_path(target)
    return [cut for cut in _with_cuts(wholes) if decoded(cut) == path]


def _with_cuts(texts: Iterable[str]) -> Iterable[str]:
    """Return each text, and each cut at a #; each once, since to decode one takes time."""
    return dict.fromkeys(cut for text in texts for cut in (text, text.partition("#")[0]))


def _as_parsed(texts: Iterable[str]) -> Iterable[str]:
    """Return each text, and as software reads it that does so before it decodes escapes; each once."""
    slashed = dict.fromkeys(each for text in texts for each in (text, _with_slashes(text)))
    return dict.fromkeys(each for text in slashed for each in (text, _without_parameters(text)))


def _without_replaced(path: str) -> str:
    """Read a path as software that leaves out bytes that are not UTF-8."""
    return path.replace("\ufffd", "")


def _with_slashes(path: str) -> str:
    """Read a path as Node's ``URL`` and browsers, for which a backslash is a slash."""
    return path.replace("\\", "/")


def _without_parameters(path: str) -> str:
    """Read a path as servlet containers, which remove what begins with a semicolon from each segment."""
    return _PARAMETERS.sub("", path)


def _without_newline(path: str) -> str:
    """Read a path as a regular expression that ends in ``$``."""
    return path.removesuffix("\n")


def _undotted(segments: Sequence[str]) -> list[str]:
    """Resolve dotted segments as RFC 3986 says (section 5.2.4)."""
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return kept

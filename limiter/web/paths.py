"""The ways in which a path can be read, where servers and applications differ in how they read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes

from limiter.web.identity import Ambiguous

#: Stands in a reading for a slash that was sent as %2F and separates nothing. No bytes are decoded to
#: this surrogate.
NO_SLASH = "\udc2f"
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)

#: What a path has that is read in more ways than one.
_ODD = re.compile(r"//|/\.|[\\;#\ufffd]|\n\Z")
_DOTTED = re.compile(r"//|/\.")
_PARAMETERS = re.compile(r";[^/]*")
#: A target in absolute form, up to its path (RFC 9112, section 3.2.2).
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
#: A target in the forms that have a path, as it may arrive: without blanks and control characters.
_TARGET = re.compile(
    r"(?:(?:https?://[^/?#]*)?(?=/)|https?://[^/?#]*(?=[?#]|\Z))[^\x00-\x20\x7f]*", re.I
)

#: Readings of a path, before its dotted segments are looked at. Attackers send more, honest clients hardly
#: two; each costs as much time as the path is long.
_MOST_READINGS = 8


def decoded(target: str) -> str:
    """A path whose escapes stand for bytes of UTF-8, as do characters up to 255 that are no escapes.

    Bytes that are not UTF-8 become U+FFFD.
    """
    if "%" not in target and target.isascii():
        return target
    return unquote_to_bytes(target.encode("latin-1", "replace")).decode("utf-8", "replace")


def path_of(target: str, method: str) -> str | None:
    """The path of a request's target (RFC 9112, section 3.2), decoded; None where it is no target.

    A path is all up to a question mark; ``readings`` knows that some servers end it at a #.
    """
    if target == "*":
        return target if method == "OPTIONS" else None
    if not _TARGET.fullmatch(target):
        return None
    return decoded(raw_path(target))


def raw_path(target: str) -> str:
    """The path of a target, not decoded."""
    return _rooted(target.partition("?")[0])


def _rooted(path: str) -> str:
    """A path as servers read it that does not begin with a slash."""
    if path.startswith("/"):
        return path
    rest = _ORIGIN.sub("", path, count=1)
    return rest if rest.startswith("/") else f"/{rest}"


def readings(path: str, target: str | None = None) -> tuple[str, ...]:
    """A path, first as it stands, and as others may read it.

    ``target`` is what the client sent, where that is known; it counts where the path is what it means. The
    readings differ in whether a # ends the path, whether %2F separates parts, how a path is read that does
    not begin with a slash, whether bytes that are not UTF-8 are replaced or left out, whether a backslash
    is a slash and a semicolon begins parameters, whether a newline at the end counts, and how dotted and
    empty segments are resolved.

    Raises:
        Ambiguous: There are more than any honest client's path has.

    """
    is_plain = path.startswith("/") and not _ODD.search(path)
    if is_plain and (target is None or "%2" not in target or not _encodes_slash(target)):
        return (path,)
    texts = (path, *_as_sent(path, target))
    found = dict.fromkeys(map(_rooted, texts))  # in this order, each once
    for step in (_without_replaced, _without_parameters, _without_newline):
        found |= dict.fromkeys(map(step, tuple(found)))
    if len(found) > _MOST_READINGS:
        raise Ambiguous("the request's path has too many readings")
    for one in filter(_DOTTED.search, tuple(found)):
        segments = one.split("/")[1:]
        for some in (segments, [segment for segment in segments[:-1] if segment] + segments[-1:]):
            found["/" + "/".join(_undotted(some))] = None
    return tuple(found)


def _encodes_slash(target: str) -> bool:
    return _ENCODED_SLASH.search(target.partition("?")[0]) is not None


def _as_sent(path: str, target: str | None) -> Iterator[str]:
    """The path cut at a #, and with encoded slashes that separate nothing, as far as that is known."""
    sent = [] if target is None else _meaning(path, target)
    if not sent:
        yield path.partition("#")[0]
    for one in sent:
        for cut in (one, one.partition("#")[0]):
            yield decoded(cut)
            yield NO_SLASH.join(map(decoded, _ENCODED_SLASH.split(cut)))


def _meaning(path: str, target: str) -> list[str]:
    """The parts of a target that mean a path; none where something has changed the path since."""
    found = []
    for whole in (target.partition("?")[0], raw_path(target)):
        found += [cut for cut in (whole, whole.partition("#")[0]) if decoded(cut) == path]
    return found


def _without_replaced(path: str) -> str:
    """As those read it that leave out bytes that are not UTF-8."""
    return path.replace("\ufffd", "")


def _without_parameters(path: str) -> str:
    return _PARAMETERS.sub("", path.replace("\\", "/"))


def _without_newline(path: str) -> str:
    """As a regular expression matches it that ends in ``$``."""
    return path.removesuffix("\n")


def _undotted(segments: Sequence[str]) -> list[str]:
    """Segments of a path as RFC 3986 (section 5.2.4) leaves them."""
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return kept

"""Which requests are meant: methods, hosts, patterns of paths, and the ways in which a path can be read.

A path has several readings where servers and applications differ in how they read it. A limit is about a
request when it is about one of its readings; an exemption holds when it holds for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from limiter.errors import InvalidSetting
from limiter.web.identity import Ambiguous

if TYPE_CHECKING:
    from limiter.web.request import Request


@dataclass(frozen=True)
class Match:
    """Which requests a rule is about: methods, hosts and paths, each any where none is named.

    A path pattern is matched whole: ``*`` stands for anything but a slash, ``**`` for anything, and
    ``{name}`` for one part of the path, by which an identity can ask; each takes as little as fits, from
    the left. A path that has several readings is meant when one of them is: applications differ in which
    they serve. A host that begins with ``*.`` stands for all below it. With ``ignore_case`` the paths match
    in capitals and small letters alike; named parts stay as they were sent.
    """

    methods: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    paths: tuple[re.Pattern[str], ...] = ()
    ignore_case: bool = False

    def __post_init__(self) -> None:
        if self.ignore_case:
            object.__setattr__(self, "paths", tuple(map(_in_any_case, self.paths)))

    def parts(self, request: Request) -> Mapping[str, str | None] | None:
        """The named parts of the path; None where the rule is not about this request.

        A part is None where the path's readings do not agree about it.

        Raises:
            Ambiguous: The host or the path has more readings than any honest client's.

        """
        if self.missed(request) is not None:
            return None
        if not self.paths:
            return request.parts
        found = [parts for path in _served(request) if (parts := self._named(path)) is not None]
        if not found:
            return None
        if len(found) == 1:
            return {**request.parts, **found[0]}
        named = {name for parts in found for name in parts}
        agreed = {name: _agreed([parts.get(name) for parts in found]) for name in named}
        return {**request.parts, **agreed}

    def missed(self, request: Request) -> str | None:
        """What of the request is another than here: method or host; None where both are right.

        Raises:
            Ambiguous: The rule is about hosts, and the request names several.

        """
        if self.methods and not is_among(request.method, self.methods):
            return "method"
        if self.hosts and not self._has_host(request.host):
            return "host"
        return None

    @property
    def is_everything(self) -> bool:
        """Whether every request is meant."""
        return not (self.methods or self.hosts or self.paths)

    def _named(self, path: str) -> Mapping[str, str] | None:
        matches = (one.fullmatch(path) for one in self.paths)
        found = next((found.groupdict() for found in matches if found), None)
        if found and _NO_SLASH in path:
            return {name: part.replace(_NO_SLASH, "/") for name, part in found.items()}
        return found

    def _has_host(self, host: str) -> bool:
        if "," in host:  # two fields, joined: the application takes one of them
            raise Ambiguous("the request has several hosts")
        return host in self.hosts or any(
            one.startswith("*.") and host.endswith(one[1:]) for one in self.hosts
        )


def _served(request: Request) -> Sequence[str]:
    """The readings of a request's path; many applications serve one that ends in a slash without it."""
    found = request.readings
    if len(found) == 1 and not found[0].endswith("/"):
        return found
    return (*found, *(path.rstrip("/") for path in found if path.endswith("/")))


def _in_any_case(found: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(found.pattern, found.flags | re.IGNORECASE)


def _agreed(values: Sequence[str | None]) -> str | None:
    return values[0] if len({*values}) == 1 else None


def is_among(method: str, methods: Collection[str]) -> bool:
    """Whether a method is one of those that are meant: who serves GET serves HEAD by it."""
    return method in methods or (method == "HEAD" and "GET" in methods)


_WILDCARD = re.compile(r"(\*\*|\*|\{[^{}]*\})")
#: What no path has in it as it is read.
_NO_PATH = re.compile(r"[?#]|%[0-9A-Fa-f]{2}|//|/\.{1,2}(?=/|$)")
_MOST_WILDCARDS = 40


def pattern(text: str, ignore_case: bool = False) -> re.Pattern[str]:
    """The path pattern that a text means; with ``ignore_case`` capitals and small letters are alike.

    Matching takes a time that grows with the path's length alone, whatever the path: what stands
    between two wildcards is taken where it comes first, and never looked for again.

    Raises:
        InvalidSetting: No path can be like this, or it names a part twice or badly.

    """
    if not text.startswith("/"):
        raise InvalidSetting.of("path", repr(text), "accepted is a pattern that begins with /")
    if wrong := _NO_PATH.search(text):
        raise InvalidSetting.of(
            "path",
            f"{text!r}, and no path has {wrong[0]!r} in it",
            "accepted is a path as it is read, decoded, without a query, empty and dotted segments",
        )
    for segment in map(_WILDCARD.findall, text.split("/")):
        if "**" in segment and len(segment) > 1:  # it would have to be looked for again and again
            raise InvalidSetting.of(
                "path", repr(text), "accepted is one wildcard in a segment where that is **"
            )
    pieces = _WILDCARD.split(text)
    try:
        if any(brace in literal for literal in pieces[::2] for brace in "{}"):
            raise re.error("a brace without its other one")
        flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
        return re.compile(_Spelling(pieces).text, flags)
    except re.error:
        raise InvalidSetting.of(
            "path",
            repr(text),
            f"accepted are up to {_MOST_WILDCARDS} wildcards, and parts in braces that "
            f"are names, each once, as in /orgs/{{org}}",
        ) from None


class _Spelling:
    r"""A pattern as a regular expression that does not look twice at what it has passed.

    For Python 3.10, which has no atomic groups, ``(?=(...))\1`` is one.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self._groups = 0
        pairs = list(zip(pieces[1::2], map(re.escape, pieces[2::2]), strict=True))
        if len(pairs) > _MOST_WILDCARDS:
            raise re.error("too many wildcards")
        # Each ** begins a block, which is looked for as a whole: a * in it ends at the next slash.
        starts = [place for place, (wildcard, _) in enumerate(pairs) if wildcard == "**"]
        self.text = re.escape(pieces[0])
        for start, end in zip([0, *starts], [*starts, len(pairs)], strict=True):
            self.text += self._block(pairs[start:end], end == len(pairs))

    def _block(self, pairs: Sequence[tuple[str, str]], is_last: bool) -> str:
        if not pairs or pairs[0][0] != "**":
            return self._within(pairs, is_last)
        if is_last:
            return f".*{pairs[0][1]}" + self._within(pairs[1:], is_last)
        number = self._group()
        return f"(?=(.*?{pairs[0][1]}{self._within(pairs[1:], is_last)}))\\{number}"

    def _within(self, pairs: Sequence[tuple[str, str]], is_last: bool) -> str:
        found = ""
        for place, (wildcard, literal) in enumerate(pairs, 1):
            if is_last and place == len(pairs):
                found += self._some(wildcard) + literal
            else:
                number = self._group()
                found += f"(?=({self._some(wildcard)}{literal}))\\{number}"
        return found

    def _some(self, wildcard: str) -> str:
        if wildcard == "*":
            return "[^/]*?"
        self._group()
        return f"(?P<{wildcard[1:-1]}>[^/]+?)"

    def _group(self) -> int:
        self._groups += 1
        return self._groups


#: Stands in a reading for a slash that was sent as %2F and separates nothing. No bytes are decoded to
#: this surrogate.
_NO_SLASH = "\udc2f"
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
            yield _NO_SLASH.join(map(decoded, _ENCODED_SLASH.split(cut)))


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

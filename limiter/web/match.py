"""Which requests are meant: methods, hosts and patterns of paths.

A limit is about a request when it is about one of its path's readings; an exemption holds when it holds
for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from limiter.errors import InvalidSetting
from limiter.web.identity import Ambiguous
from limiter.web.paths import NO_SLASH
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
        if found and NO_SLASH in path:
            return {name: part.replace(NO_SLASH, "/") for name, part in found.items()}
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

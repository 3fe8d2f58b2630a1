"""Which requests a rule applies to: methods, hosts and path patterns.

A limit applies if one reading of the path matches; an exemption applies if all readings match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from limiter.errors import InvalidSetting
from limiter.web.identity import Ambiguous
from limiter.web.paths import NO_SLASH
from limiter.web.request import Request


class SkipReason(Enum):
    """Why a rule does not apply to a request."""

    METHOD = "the method does not match"
    HOST = "the host does not match"
    PATH = "the path does not match"
    ROUTED = "it is the default policy, and a more specific policy applies"
    PREFLIGHT = "CORS preflights are free"
    EXEMPT_PATH = "the path is exempt"
    EXEMPT_NETWORK = "the client's address is exempt"
    EXEMPT_KEY = "the subject is exempt"
    UNIDENTIFIED = "the request is unidentified, and this policy skips such requests"
    PERCENT = "the roll-out has not reached this subject"

    @property
    def is_meant(self) -> bool:
        """Whether the rule applies, but its settings exempt the request."""
        return self.name.startswith(("EXEMPT", "PREFLIGHT"))


@dataclass(frozen=True)
class Match:
    """Methods, hosts and paths of the requests that a rule applies to; an empty one matches any.

    A path pattern matches a whole path. ``*`` stands for any text without a slash, ``**`` for any text, and
    ``{name}`` for one segment, which a key ``path:name`` reads; each takes as little as fits, from the
    left. If applications may read a path in several ways, one matching reading is enough. A host that
    begins with ``*.`` stands for all hosts below it. With ``ignore_case``, paths match in any case; named
    parts stay as the client sent them.
    """

    methods: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    paths: tuple[re.Pattern[str], ...] = ()
    ignore_case: bool = False

    def __post_init__(self) -> None:
        if self.ignore_case:
            object.__setattr__(self, "paths", tuple(map(_in_any_case, self.paths)))

    def parts(self, request: Request) -> Mapping[str, str | None] | None:
        """Return the named parts of the path; None if the rule does not apply to this request.

        A part is None if the path's readings differ in it.

        Raises:
            Ambiguous: The host or the path has more readings than those of real clients.

        """
        if self.missed(request) is not None:
            return None
        if not self.paths:
            return request.parts
        matches = [parts for path in _served(request) if (parts := self._named(path)) is not None]
        if not matches:
            return None
        if len(matches) == 1:
            return {**request.parts, **matches[0]}
        names = {name for parts in matches for name in parts}
        agreed = {name: _agreed([parts.get(name) for parts in matches]) for name in names}
        return {**request.parts, **agreed}

    def missed(self, request: Request) -> SkipReason | None:
        """Return which of method and host does not match; None if both match.

        Raises:
            Ambiguous: The rule names hosts, and the request has several.

        """
        method = "GET" if request.method == "HEAD" and "GET" in self.methods else request.method
        if self.methods and method not in self.methods:
            return SkipReason.METHOD
        if self.hosts and not self._has_host(request.host):
            return SkipReason.HOST
        return None

    @cached_property
    def is_everything(self) -> bool:
        """Whether every request matches."""
        return not (self.methods or self.hosts or self.paths)

    def _named(self, path: str) -> Mapping[str, str] | None:
        for expression in self.paths:
            match = expression.fullmatch(path)
            if match is not None:
                parts = match.groupdict()
                if NO_SLASH in path:
                    return {name: part.replace(NO_SLASH, "/") for name, part in parts.items()}
                return parts
        return None

    def _has_host(self, host: str) -> bool:
        if "," in host:  # two fields, joined: the application may use either
            raise Ambiguous("the request has several hosts")
        return host in self.hosts or any(
            expected.startswith("*.") and host.endswith(expected[1:]) for expected in self.hosts
        )


def _served(request: Request) -> Sequence[str]:
    """The readings of a request's path; many applications ignore a slash at its end."""
    readings = request.readings
    if len(readings) == 1 and not readings[0].endswith("/"):
        return readings
    return (*readings, *(path.rstrip("/") for path in readings if path.endswith("/")))


def _in_any_case(expression: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(expression.pattern, expression.flags | re.IGNORECASE)


def _agreed(values: Sequence[str | None]) -> str | None:
    return values[0] if len({*values}) == 1 else None


_WILDCARD = re.compile(r"(\*\*|\*|\{[^{}]*\})")
#: Texts that no decoded path contains.
_NO_PATH = re.compile(r"[?#]|%[0-9A-Fa-f]{2}|//|/\.{1,2}(?=/|$)")
_MOST_WILDCARDS = 40


def pattern(text: str, ignore_case: bool = False) -> re.Pattern[str]:
    """Compile a path pattern; with ``ignore_case`` it matches in any case.

    For every path, the time to match is linear in the path's length: the text between two wildcards is
    taken at its first place, and never searched again.

    Raises:
        InvalidSetting: No path can match, or a part's name is invalid or occurs twice.

    """
    if not text.startswith("/"):
        raise InvalidSetting.of("path", repr(text), "expected a pattern that begins with /")
    if wrong := _NO_PATH.search(text):
        raise InvalidSetting.of(
            "path",
            f"{text!r}, and no path has {wrong[0]!r} in it",
            "expected a decoded path without a query, empty segments, and segments . and ..",
        )
    for segment in map(_WILDCARD.findall, text.split("/")):
        if (
            "**" in segment and len(segment) > 1
        ):  # matching would search a part of the path repeatedly
            raise InvalidSetting.of(
                "path", repr(text), "expected one wildcard in a segment where that is **"
            )
    pieces = _WILDCARD.split(text)
    try:
        if any(brace in literal for literal in pieces[::2] for brace in "{}"):
            raise re.error("an unmatched brace")
        flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
        return re.compile(_Spelling(pieces).text, flags)
    except re.error:
        raise InvalidSetting.of(
            "path",
            repr(text),
            f"expected up to {_MOST_WILDCARDS} wildcards, and parts in braces that "
            f"are names, each once, as in /orgs/{{org}}",
        ) from None


class _Spelling:
    r"""A path pattern as a regular expression that never goes back in the path.

    It writes atomic groups as ``(?=(...))\1``, since Python 3.10 has no others.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self._groups = 0
        pairs = list(zip(pieces[1::2], map(re.escape, pieces[2::2]), strict=True))
        if len(pairs) > _MOST_WILDCARDS:
            raise re.error("too many wildcards")
        # Each ** begins a block, which is searched as a whole: a * in it ends at the next slash.
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
        expression = ""
        for place, (wildcard, literal) in enumerate(pairs, 1):
            if is_last and place == len(pairs):
                expression += self._wildcard(wildcard) + literal
            else:
                number = self._group()
                expression += f"(?=({self._wildcard(wildcard)}{literal}))\\{number}"
        return expression

    def _wildcard(self, wildcard: str) -> str:
        if wildcard == "*":
            return "[^/]*?"
        self._group()
        return f"(?P<{wildcard[1:-1]}>[^/]+?)"

    def _group(self) -> int:
        self._groups += 1
        return self._groups

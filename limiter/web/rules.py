"""What is limited, for whom, and how: one rule, and whether it applies to a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, NamedTuple

from limiter.errors import InvalidSetting, shown
from limiter.keys import Key
from limiter.policies import Policy
from limiter.web.identity import Ambiguous, Network, Unidentified, address
from limiter.web.new_subjects import NewSubjects
from limiter.web.request import Request
from limiter.web.subjects import Identity, by_address, somebody, spelled

#: What a call costs, at least 1; None where nobody can tell: as much as its limits ever admit at once.
Cost = Callable[[Request, Sequence[Network]], int | None]

#: What happens to a caller that cannot be identified.
UNIDENTIFIED = ("refuse", "skip", "address")

_PARTS = 10_000


@dataclass(frozen=True)
class Match:
    """Which requests a rule is about: methods, hosts and paths, each any where none is named.

    A path pattern is matched whole: ``*`` stands for anything but a slash, ``**`` for anything, and
    ``{name}`` for one part of the path, by which an identity can ask; each takes as little as fits, from
    the left. A path that others may read as another one is meant in each of its spellings: applications
    differ in which they serve. A host that begins with ``*.`` stands for all below it.
    """

    methods: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    paths: tuple[re.Pattern[str], ...] = ()

    def parts(self, request: Request) -> Mapping[str, str | None] | None:
        """The named parts of the path; None where the rule is not about this request.

        A part is None where the path's spellings do not agree about it.
        """
        if self.missed(request) is not None:
            return None
        if not self.paths:
            return request.parts
        spellings = _spellings(request.path)
        if request.path.endswith("/"):  # many an application serves it without, too
            spellings += tuple(path.rstrip("/") for path in spellings)
        found = [parts for path in spellings if (parts := self._named(path)) is not None]
        if not found:
            return None
        if len(found) == 1:
            return {**request.parts, **found[0]}
        named = {name for parts in found for name in parts}
        agreed = {name: _agreed([parts.get(name) for parts in found]) for name in named}
        return {**request.parts, **agreed}

    def missed(self, request: Request) -> str | None:
        """What of the request is another than here: method or host; None where both are right."""
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
        return next((found.groupdict() for found in matches if found), None)

    def _has_host(self, host: str) -> bool:
        return host in self.hosts or any(
            one.startswith("*.") and host.endswith(one[1:]) for one in self.hosts
        )


def _agreed(values: Sequence[str | None]) -> str | None:
    return values[0] if len({*values}) == 1 else None


def is_among(method: str, methods: Collection[str]) -> bool:
    """Whether a method is one of those that are meant: who serves GET serves HEAD by it."""
    return method in methods or (method == "HEAD" and "GET" in methods)


_WILDCARD = re.compile(r"(\*\*|\*|\{[^{}]*\})")
#: What no path has in it as it is read.
_NO_PATH = re.compile(r"[?#]|%[0-9A-Fa-f]{2}|//|/\.{1,2}(?=/|$)")
_MOST_WILDCARDS = 40


def pattern(text: str) -> re.Pattern[str]:
    """The path pattern that a text means.

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
        return re.compile(_Spelling(pieces).text, re.DOTALL)
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


def one_unit(request: Request, trusted: Sequence[Network]) -> int:  # noqa: ARG001 (other costs look)
    """What a request costs where nobody says."""
    return 1


class Asked(NamedTuple):
    """What a rule asks about one request."""

    rule: Rule
    key: Key
    cost: int
    limits: tuple[Policy, ...] | None
    """The subject's own numbers; None: the rule's."""
    address: Key | None = None
    """The client's, where the rule bounds how many subjects it may begin, and it has chosen this one."""


class Passed(Enum):
    """Why a rule is not about a request."""

    METHOD = "its methods are others"
    HOST = "its hosts are others"
    PATH = "its paths are others"
    ROUTED = "it is the default, and a policy with a match of its own decides about the request"
    PREFLIGHT = "CORS preflights are free"
    EXEMPT_PATH = "the path is exempt"
    EXEMPT_NETWORK = "the client's address is exempt"
    EXEMPT_KEY = "the subject is exempt"
    UNIDENTIFIED = "the request does not say for whom it is counted, and such are let through"
    PERCENT = "the roll-out has not reached this subject"

    @property
    def is_meant(self) -> bool:
        """Whether somebody has said of such requests that they are not limited here."""
        return self.name.startswith(("EXEMPT", "PREFLIGHT"))


@dataclass(frozen=True)
class Rule:
    """A limiter, and when, for whom and at what cost it is asked.

    Attributes:
        limiter: Decides; a ``Limiter``, or an ``AsyncLimiter`` where the server is asynchronous. Its
            name is the rule's.
        match: Which requests the rule is about.
        identity: Whom a request is counted for.
        cost: What it costs.
        form: In which header fields the rule speaks: one of ``headers.FORMS``.
        shadow: Whether it counts and reports, and never denies.
        percent: For how many of the subjects it holds, always the same ones.
        exempt_networks: Client addresses that it is not about.
        exempt_keys: Subjects that it is not about, as ``subjects.spelled``; what a setting means by a
            name, ``subjects.meant`` says.
        exempt_paths: Path patterns that it is not about.
        overrides: Numbers of their own for subjects, spelled as for ``exempt_keys``.
        unidentified: What happens to a caller that cannot be identified: one of ``UNIDENTIFIED``.
        preflights: How CORS preflights are counted: ``"apart"`` (each client address by itself, at a cost
            of 1), True (as other requests) or False (not at all).
        new_subjects: How many new subjects one client address may begin, where clients choose them.
        is_default: Whether it is only about requests of which no rule with a match of its own decides. One
            in the shadows does not, nor one that is not rolled out yet; one that exempts does.

    """

    limiter: Any
    match: Match = field(default_factory=Match)
    identity: Identity = by_address
    cost: Cost = one_unit
    form: str = "draft-11"
    shadow: bool = False
    percent: float = 100.0
    exempt_networks: tuple[Network, ...] = ()
    exempt_keys: frozenset[str] = frozenset()
    exempt_paths: tuple[re.Pattern[str], ...] = ()
    overrides: Mapping[str, tuple[Policy, ...]] = field(default_factory=dict)
    unidentified: str = "refuse"
    preflights: bool | Literal["apart"] = "apart"
    new_subjects: NewSubjects | None = None
    is_default: bool = False

    @property
    def name(self) -> str:
        """The limiter's: it stands in keys, headers and reports."""
        return str(self.limiter.name)

    def about(self, subject: Key, cost: int) -> Rule:
        """The same rule for a subject that somebody names, in the place of one that a request tells."""
        return replace(
            self,
            match=Match(),
            identity=lambda request, trusted: subject,  # noqa: ARG005 (it is named)
            cost=lambda request, trusted: cost,  # noqa: ARG005 (it is named)
            exempt_networks=(),
            exempt_paths=(),
            preflights=True,
            new_subjects=None,
            is_default=False,
        )

    def ask(self, request: Request, trusted: Sequence[Network]) -> Asked | None:
        """What this rule asks about a request; None where it is not about it.

        Raises:
            Unidentified: The caller cannot be told, and the rule refuses such.

        """
        found = self.consider(request, trusted)
        return found if isinstance(found, Asked) else None

    def consider(self, request: Request, trusted: Sequence[Network]) -> Asked | Passed:
        """What this rule asks about a request, or why it asks nothing.

        Raises:
            Unidentified: The caller cannot be told, and the rule refuses such.

        """
        parts = self.match.parts(request)
        if parts is None:
            missed = self.match.missed(request)
            return Passed.METHOD if missed == "method" else Passed.HOST if missed else Passed.PATH
        if not self.preflights and request.is_preflight:
            return Passed.PREFLIGHT
        if self.exempt_paths and all(map(self._exempts, _spellings(request.path))):
            return Passed.EXEMPT_PATH
        if self.exempt_networks and self._is_exempt(request, trusted):
            return Passed.EXEMPT_NETWORK
        subject = self._subject(
            request if parts is request.parts else _with_parts(request, parts), trusted
        )
        if subject is None:
            return Passed.UNIDENTIFIED
        if self.exempt_keys and spelled(subject) in self.exempt_keys:
            return Passed.EXEMPT_KEY
        if not self._holds_for(subject):
            return Passed.PERCENT
        limits = self.overrides.get(spelled(subject)) if self.overrides else None
        if self.counts_apart(request):
            return Asked(self, subject, 1, limits)
        cost = self.cost(request, trusted)
        if cost is None:
            cost = min(policy.capacity for policy in limits or self.limiter.policies)
        elif not isinstance(cost, int):
            raise TypeError(
                f"the cost of {self.name} said {shown(cost)}: accepted are a whole number, and None"
            )
        chooser = None if self.new_subjects is None else by_address(request, trusted)
        return Asked(self, subject, max(1, cost), limits, None if chooser == subject else chooser)

    def counts_apart(self, request: Request) -> bool:
        """Whether the rule counts this request as a preflight: browsers send those without credentials."""
        return self.preflights == "apart" and request.is_preflight

    def _subject(self, request: Request, trusted: Sequence[Network]) -> Key | None:
        try:
            if self.counts_apart(request):
                return ("preflight", by_address(request, trusted))
            return somebody(self.identity(request, trusted))
        except Ambiguous:
            raise
        except Unidentified:
            if self.unidentified == "skip":
                return None
            if self.unidentified == "address":
                return by_address(request, trusted)
            raise

    def _is_exempt(self, request: Request, trusted: Sequence[Network]) -> bool:
        try:
            found = address(request.peer, request.forwarded_for, trusted)
        except Unidentified:
            return False
        return any(found in network for network in self.exempt_networks)

    def _exempts(self, path: str) -> bool:
        return any(one.fullmatch(path) for one in self.exempt_paths)

    def _holds_for(self, subject: Key) -> bool:
        """Whether the subject is among those that the roll-out has reached."""
        if self.percent >= 100:
            return True
        return bool(self.limiter.plan().keys.share(subject, _PARTS) < self.percent * _PARTS / 100)


def _spellings(path: str) -> tuple[str, ...]:
    """The path as it stands, and as others may read it, if that is another.

    Without dotted segments, with and without merging slashes first; with a backslash for a slash and
    without what follows a semicolon.
    """
    if not _ODD.search(path):
        return (path,)
    found = {path: None}  # in this order, each once
    if "\\" in path or ";" in path:
        found[_PARAMETERS.sub("", path.replace("\\", "/"))] = None
    for one in tuple(found):
        segments = one.split("/")[1:]
        for some in (segments, [segment for segment in segments[:-1] if segment] + segments[-1:]):
            found["/" + "/".join(_undotted(some))] = None
    return tuple(found)


#: What a path has that is read in more ways than one.
_ODD = re.compile(r"//|/\.|[\\;]")
_PARAMETERS = re.compile(r";[^/]*")


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


def _with_parts(request: Request, parts: Mapping[str, str | None]) -> Request:
    return replace(request, parts=parts)

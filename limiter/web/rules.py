"""What is limited, for whom, and how: one rule, and whether it applies to a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple

from limiter.errors import InvalidSetting
from limiter.keys import Key
from limiter.policies import Policy
from limiter.web.identity import Network, Unidentified, address
from limiter.web.request import Request
from limiter.web.subjects import Identity, Subject, by_address

#: What a call costs; at least 1.
Cost = Callable[[Request, Sequence[Network]], int]

#: What happens to a caller that cannot be identified.
UNIDENTIFIED = ("refuse", "skip", "address")

_PARTS = 10_000


@dataclass(frozen=True)
class Match:
    """Which requests a rule is about: methods, hosts and paths, each any where none is named.

    A path pattern is matched whole: ``*`` stands for anything but a slash, ``**`` for anything, and
    ``{name}`` for one part of the path, by which an identity can ask. A path with empty or dotted segments
    is meant as it stands and without them: applications differ in which of the two they serve. A host
    that begins with ``*.`` stands for all below it.
    """

    methods: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    paths: tuple[re.Pattern[str], ...] = ()

    def parts(self, request: Request) -> Mapping[str, str] | None:
        """The named parts of the path; None where the rule is not about this request."""
        if self.missed(request) is not None:
            return None
        if not self.paths:
            return request.parts
        for path in _spellings(request.path):
            for pattern in self.paths:
                if found := pattern.fullmatch(path):
                    return {**request.parts, **found.groupdict()}
        return None

    def missed(self, request: Request) -> str | None:
        """What of the request is another than here: method or host; None where both are right."""
        if self.methods and request.method not in self.methods:
            return "method"
        if self.hosts and not self._has_host(request.host):
            return "host"
        return None

    @property
    def is_everything(self) -> bool:
        """Whether every request is meant."""
        return not (self.methods or self.hosts or self.paths)

    def _has_host(self, host: str) -> bool:
        return host in self.hosts or any(
            one.startswith("*.") and host.endswith(one[1:]) for one in self.hosts
        )


def pattern(text: str) -> re.Pattern[str]:
    """The path pattern that a text means.

    Raises:
        InvalidSetting: It begins with no slash, or names a part twice or badly.

    """
    if not text.startswith("/"):
        raise InvalidSetting(f"path is {text!r}: accepted is a pattern that begins with /")
    spelled = ""
    for piece in re.split(r"(\*\*|\*|\{[^{}]*\})", text):
        if piece == "**":
            spelled += ".*"
        elif piece == "*":
            spelled += "[^/]*"
        elif piece.startswith("{"):
            spelled += f"(?P<{piece[1:-1]}>[^/]+)"
        else:
            spelled += re.escape(piece)
    try:
        return re.compile(spelled, re.DOTALL)
    except re.error:
        raise InvalidSetting(
            f"path is {text!r}: accepted are parts in braces that are names, each once, as in /orgs/{{org}}"
        ) from None


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


class Passed(Enum):
    """Why a rule is not about a request."""

    METHOD = "its methods are others"
    HOST = "its hosts are others"
    PATH = "its paths are others"
    ROUTED = "it is the default, and a policy with a match of its own is about the request"
    PREFLIGHT = "CORS preflights are free"
    EXEMPT_PATH = "the path is exempt"
    EXEMPT_NETWORK = "the client's address is exempt"
    EXEMPT_KEY = "the subject is exempt"
    UNIDENTIFIED = "the request does not say for whom it is counted, and such are let through"
    PERCENT = "the roll-out has not reached this subject"


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
        exempt_keys: Subjects that it is not about: as the request says them, or hashed as they stand
            in keys.
        exempt_paths: Path patterns that it is not about.
        overrides: Numbers of their own for subjects, named as for ``exempt_keys``.
        unidentified: What happens to a caller that cannot be identified: one of ``UNIDENTIFIED``.
        preflights: Whether it is about CORS preflights too.
        is_default: Whether it is only about requests that no rule with a match of its own is about.

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
    preflights: bool = True
    is_default: bool = False

    @property
    def name(self) -> str:
        """The limiter's: it stands in keys, headers and reports."""
        return str(self.limiter.name)

    def about(self, subject: Subject, cost: int) -> Rule:
        """The same rule for a subject that somebody names, in the place of one that a request tells."""
        return replace(
            self,
            match=Match(),
            identity=lambda request, trusted: subject,  # noqa: ARG005 (it is named)
            cost=lambda request, trusted: cost,  # noqa: ARG005 (it is named)
            exempt_networks=(),
            exempt_paths=(),
            preflights=True,
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
        if self.exempt_keys and not self.exempt_keys.isdisjoint(_names(subject)):
            return Passed.EXEMPT_KEY
        if not self._holds_for(subject):
            return Passed.PERCENT
        return Asked(self, subject.key, max(1, self.cost(request, trusted)), self._limits(subject))

    def _limits(self, subject: Subject) -> tuple[Policy, ...] | None:
        for name in _names(subject) if self.overrides else ():
            if name in self.overrides:
                return self.overrides[name]
        return None

    def _subject(self, request: Request, trusted: Sequence[Network]) -> Subject | None:
        try:
            return self.identity(request, trusted)
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

    def _holds_for(self, subject: Subject) -> bool:
        """Whether the subject is among those that the roll-out has reached."""
        if self.percent >= 100:
            return True
        text = f"{self.name} {subject.key!r}".encode("utf-8", "surrogateescape")
        place = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") % _PARTS
        return place < self.percent * _PARTS / 100


def _spellings(path: str) -> tuple[str, ...]:
    """The path without empty and dotted segments, and as it stands where that is another."""
    if "//" not in path and "/." not in path:
        return (path,)
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    end = "/" if kept and segments[-1] in ("", ".", "..") else ""
    plain = "/" + "/".join(kept) + end
    return (plain,) if plain == path else (plain, path)


def _names(subject: Subject) -> tuple[str, str]:
    """How settings may name a subject: as the request says it, or hashed."""
    key = subject.key
    return subject.said, ",".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _with_parts(request: Request, parts: Mapping[str, str]) -> Request:
    return replace(request, parts=parts)

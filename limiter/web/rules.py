"""What is limited, for whom, and how: one rule, and whether it applies to a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    ``{name}`` for one part of the path, by which an identity can ask.
    """

    methods: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    paths: tuple[re.Pattern[str], ...] = ()

    def parts(self, request: Request) -> Mapping[str, str] | None:
        """The named parts of the path; None where the rule is not about this request."""
        if self.methods and request.method not in self.methods:
            return None
        if self.hosts and request.host not in self.hosts:
            return None
        if not self.paths:
            return request.parts
        for pattern in self.paths:
            if found := pattern.fullmatch(request.path):
                return {**request.parts, **found.groupdict()}
        return None


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
    except re.error as error:
        raise InvalidSetting(f"path is {text!r}: {error}; a part is {{name}}, each once") from None


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


@dataclass(frozen=True)
class Rule:
    """A limiter, and when, for whom and at what cost it is asked.

    Attributes:
        limiter: Decides; a ``Limiter``, or an ``AsyncLimiter`` where the server is asynchronous. Its
            name is the rule's.
        match: Which requests the rule is about.
        identity: Whom a request is counted for.
        cost: What it costs.
        on_error: Only what the limiter says of itself, for whoever looks.
        form: In which header fields the rule speaks: one of ``headers.FORMS``.
        shadow: Whether it counts and reports, and never denies.
        percent: For how many of the subjects it holds, always the same ones.
        exempt_networks: Client addresses that it is not about.
        exempt_keys: Subjects, as the request says them, that it is not about.
        overrides: Numbers of their own, for subjects as the request says them.
        unidentified: What happens to a caller that cannot be identified: one of ``UNIDENTIFIED``.

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
    overrides: Mapping[str, tuple[Policy, ...]] = field(default_factory=dict)
    unidentified: str = "refuse"

    @property
    def name(self) -> str:
        """The limiter's: it stands in keys, headers and reports."""
        return str(self.limiter.name)

    def ask(self, request: Request, trusted: Sequence[Network]) -> Asked | None:
        """What this rule asks about a request; None where it is not about it.

        Raises:
            Unidentified: The caller cannot be told, and the rule refuses such.

        """
        parts = self.match.parts(request)
        if parts is None or self._is_exempt(request, trusted):
            return None
        subject = self._subject(
            request if parts is request.parts else _with_parts(request, parts), trusted
        )
        if subject is None or subject.said in self.exempt_keys or not self._holds_for(subject):
            return None
        cost = max(1, self.cost(request, trusted))
        return Asked(self, subject.key, cost, self.overrides.get(subject.said))

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
        if not self.exempt_networks:
            return False
        try:
            found = address(request.peer, request.forwarded_for, trusted)
        except Unidentified:
            return False
        return any(found in network for network in self.exempt_networks)

    def _holds_for(self, subject: Subject) -> bool:
        """Whether the subject is among those that the roll-out has reached."""
        if self.percent >= 100:
            return True
        text = f"{self.name} {subject.key!r}".encode("utf-8", "surrogateescape")
        place = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") % _PARTS
        return place < self.percent * _PARTS / 100


def _with_parts(request: Request, parts: Mapping[str, str]) -> Request:
    return Request(request.method, request.host, request.path, request.headers, request.peer, parts)

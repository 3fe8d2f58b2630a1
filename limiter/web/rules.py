"""What is limited, for whom, and how: one rule, and whether it applies to a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, NamedTuple

from limiter.errors import shown
from limiter.keys import Key
from limiter.plan import Part
from limiter.policies import Policy
from limiter.web import limiter_calls
from limiter.web.identity import Ambiguous, Network, Unidentified
from limiter.web.match import Match as Match
from limiter.web.match import pattern as pattern  # beside the rules, for who writes some
from limiter.web.new_subjects import NewSubjects
from limiter.web.request import Request
from limiter.web.subjects import Identity, by_address, checked_subject, spelled

#: What a call costs, at least 1; None where nobody can tell: as much as its limits ever admit at once.
Cost = Callable[[Request, Sequence[Network]], int | None]
#: The same, of an application: it takes as much as it needs.
CostFunction = Callable[[], int | None] | Callable[[Request], int | None] | Cost

#: What happens to a caller that cannot be identified.
UNIDENTIFIED = ("refuse", "skip", "address")

_PARTS = 10_000


def one_unit(request: Request, trusted: Sequence[Network]) -> int:  # noqa: ARG001 (other costs look)
    """What a request costs where nobody says."""
    return 1


class Check(NamedTuple):
    """What a rule asks about one request."""

    rule: Rule
    key: Key
    cost: int
    limits: tuple[Policy, ...] | None
    """The subject's own numbers; None: the rule's."""
    address: Key | None = None
    """The client's, where the rule bounds how many subjects it may begin, and it has chosen this one."""

    def part(self) -> Part:
        """What it asks of the store.

        Raises:
            InvalidCost: The cost could never pass.

        """
        plan = limiter_calls.plan(self.rule.limiter, self.limits)
        plan.checked(self.cost)
        return Part(plan, self.key, self.cost, self.rule.shadow)


class SkipReason(Enum):
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

    @property
    def counts_leases(self) -> bool:
        """Whether it counts what is held, not what passes."""
        return any(policy.leases for policy in self.limiter.policies)

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

    def check(self, request: Request, trusted: Sequence[Network]) -> Check | None:
        """What this rule asks about a request; None where it is not about it.

        Raises:
            Unidentified: The caller cannot be told, and the rule refuses such.

        """
        found = self.consider(request, trusted)
        return found if isinstance(found, Check) else None

    def consider(self, request: Request, trusted: Sequence[Network]) -> Check | SkipReason:
        """What this rule asks about a request, or why it asks nothing.

        Raises:
            Unidentified: The caller cannot be told, and the rule refuses such.

        """
        parts = self.match.parts(request)
        if parts is None:
            missed = self.match.missed(request)
            return (
                SkipReason.METHOD
                if missed == "method"
                else SkipReason.HOST
                if missed
                else SkipReason.PATH
            )
        if not self.preflights and request.is_preflight:
            return SkipReason.PREFLIGHT
        if self.exempt_paths and all(map(self._exempts, request.readings)):
            return SkipReason.EXEMPT_PATH
        if self.exempt_networks and self._is_exempt(request, trusted):
            return SkipReason.EXEMPT_NETWORK
        if parts is not request.parts:
            request = request.changed(parts=parts)
        subject = self._subject(request, trusted)
        if subject is None:
            return SkipReason.UNIDENTIFIED
        if self.exempt_keys and spelled(subject) in self.exempt_keys:
            return SkipReason.EXEMPT_KEY
        if not self._holds_for(subject):
            return SkipReason.PERCENT
        limits = self.overrides.get(spelled(subject)) if self.overrides else None
        if self._counts_apart(request):
            return Check(self, subject, 1, limits)
        cost = self.cost(request, trusted)
        if cost is None:
            cost = min(policy.capacity for policy in limits or self.limiter.policies)
        elif not isinstance(cost, int):
            raise TypeError(
                f"the cost of {self.name} said {shown(cost)}: accepted are a whole number, and None"
            )
        chooser = None if self.new_subjects is None else by_address(request, trusted)
        return Check(self, subject, max(1, cost), limits, None if chooser == subject else chooser)

    def _counts_apart(self, request: Request) -> bool:
        """Whether the rule counts this request as a preflight: browsers send those without credentials."""
        return self.preflights == "apart" and request.is_preflight

    def _subject(self, request: Request, trusted: Sequence[Network]) -> Key | None:
        try:
            if self._counts_apart(request):
                return ("preflight", by_address(request, trusted))
            return checked_subject(self.identity(request, trusted))
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
            found = request.client(trusted)
        except Unidentified:
            return False
        return any(found in network for network in self.exempt_networks)

    def _exempts(self, path: str) -> bool:
        return any(one.fullmatch(path) for one in self.exempt_paths)

    def _holds_for(self, subject: Key) -> bool:
        """Whether the subject is among those that the roll-out has reached."""
        if self.percent >= 100:
            return True
        return bool(
            limiter_calls.plan(self.limiter).keys.share(subject, _PARTS)
            < self.percent * _PARTS / 100
        )

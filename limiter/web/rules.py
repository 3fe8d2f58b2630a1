"""A rule: a limiter with the conditions under which it applies to a request.

It calls no store: ``guard`` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from limiter.errors import shown
from limiter.keys import Key
from limiter.plan import Part
from limiter.policies import Policy
from limiter.web import limiter_calls
from limiter.web.by_response import ByResponse
from limiter.web.identity import Ambiguous, Network, Unidentified
from limiter.web.match import Match, SkipReason
from limiter.web.new_subjects import NewSubjects
from limiter.web.plans import Classes, CustomerPlan, Plans
from limiter.web.request import Request
from limiter.web.subjects import Identity, by_address, checked_subject, spelled
from limiter.web.trusted_field import TrustedField

#: Returns a request's cost, at least 1; None (unknown) counts as the most that its limits admit at once.
Cost = Callable[[Request, Sequence[Network]], int | None]
#: An application's own cost function, which may take fewer arguments.
CostFunction = Callable[[], int | None] | Callable[[Request], int | None] | Cost

#: What happens to a caller that cannot be identified.
UNIDENTIFIED = ("refuse", "skip", "address")

_PARTS = 10_000


def one_unit(request: Request, trusted: Sequence[Network]) -> int:  # noqa: ARG001 (the signature of a Cost)
    """Return the default cost."""
    return 1


def fixed_cost(cost: int) -> Cost:
    """Return the cost that is the same for every request."""
    return one_unit if cost == 1 else lambda request, trusted: cost  # noqa: ARG005 (as above)


class Check(NamedTuple):
    """A rule applied to one request: the subject, the cost, and the limits that hold for them."""

    rule: Rule
    key: Key
    cost: int
    limits: tuple[Policy, ...] | None
    """The numbers of the plan and the class; None: the rule's."""
    address: Key | None = None
    """The client's, if the rule bounds new subjects and the client has chosen this one."""
    plan: CustomerPlan | None = None
    """The plan of the subject, or its override."""
    class_: str | None = None
    """The class of priority, if the rule has classes."""

    def part(self) -> Part:
        """Return this check's part of the call to the store.

        Raises:
            InvalidCost: The cost is more than the limits ever admit at once.

        """
        rule, key, cost, limits, *_ = self
        plan = limiter_calls.plan(rule.limiter, limits)
        checked, _ = plan.checked(cost)
        return Part(plan, key, checked, rule.shadow)

    def charged(self, part: Part) -> Part:
        """Return the part that settles what ``part`` was charged: no class bounds the true cost."""
        limits = None if self.plan is None else self.plan.limits
        if self.limits is limits or self.rule.by_response is None:
            return part
        return part._replace(plan=limiter_calls.plan(self.rule.limiter, limits))


@dataclass(frozen=True)
class Rule:
    """A limiter with the conditions, the subject and the cost of its use.

    Attributes:
        limiter: A ``Limiter``, or an ``AsyncLimiter`` in asynchronous servers. Its name is the rule's.
        match: Which requests the rule applies to.
        identity: Returns the subject of a request.
        cost: Returns the cost of a request.
        form: The form of the rule's header fields: one of ``headers.FORMS``.
        shadow: Whether the rule counts and reports, but never denies.
        percent: The share of subjects to which the rule applies, always the same ones.
        exempt_networks: Client addresses that are not limited.
        exempt_keys: Subjects that are not limited, in the form of ``subjects.spelled``;
            ``subjects.meant`` finds them by a name in a setting.
        exempt_paths: Patterns of paths that are not limited.
        plans: Who has which limits in place of the limiter's own.
        classes: The classes of priority, which may use a part of the limits.
        unidentified: What happens to an unidentified request: one of ``UNIDENTIFIED``.
        preflights: How CORS preflights are counted: ``"apart"`` (by client address, at a cost of 1), True
            (as other requests) or False (not at all).
        new_subjects: A bound on the new subjects of one client address, if clients choose them.
        is_default: Whether the rule applies only if no rule with a match of its own does. A rule in shadow
            mode, or one whose ``percent`` excludes the subject, does not count; one that exempts does.
        unit: What the limits count, in the plural, as refusals name it. If it is empty, it is
            ``"requests"`` with the default cost, else ``"units"``.
        by_response: Returns the true cost of a request from its response, where an adapter sees it: a
            ``by_response.Head``. The difference to the cost is then refunded or charged.

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
    plans: Plans | None = None
    classes: Classes | None = None
    unidentified: str = "refuse"
    preflights: bool | Literal["apart"] = "apart"
    new_subjects: NewSubjects | None = None
    is_default: bool = False
    unit: str = ""
    by_response: ByResponse | None = None

    def __post_init__(self) -> None:
        if not self.unit:
            unit = "requests" if self.cost is one_unit else "units"
            object.__setattr__(self, "unit", unit)

    @cached_property
    def name(self) -> str:
        """The limiter's name, as it stands in keys, header fields and reports."""
        return str(self.limiter.name)

    @cached_property
    def is_plain(self) -> bool:
        """Whether a check needs the subject alone: the rule always applies, and costs 1.

        A preflight may count apart all the same.
        """
        return (
            self.match.is_everything
            and self.cost is one_unit
            and self.percent >= 100
            and not (self.exempt_networks or self.exempt_keys or self.exempt_paths)
            and self.plans is None
            and self.classes is None
            and self.new_subjects is None
            and not self.is_default
        )

    @property
    def counts_leases(self) -> bool:
        """Whether a policy of the rule counts leases."""
        return any(policy.leases for policy in self.limiter.policies)

    def check(self, request: Request, trusted: Sequence[Network]) -> Check | None:
        """Return this rule's check of a request; None if the rule does not apply.

        Raises:
            Unidentified: The caller cannot be identified, and the rule refuses such requests.

        """
        outcome = self.consider(request, trusted)
        return outcome if isinstance(outcome, Check) else None

    def consider(self, request: Request, trusted: Sequence[Network]) -> Check | SkipReason:
        """Return this rule's check of a request, or the reason why the rule does not apply.

        Raises:
            Unidentified: The caller cannot be identified, and the rule refuses such requests.

        """
        if self.is_plain and request.method != "OPTIONS":
            subject = self._subject(request, trusted, False)
            return SkipReason.UNIDENTIFIED if subject is None else Check(self, subject, 1, None)
        parts = self.match.parts(request)
        if parts is None:
            return self.match.missed(request) or SkipReason.PATH
        if not self.preflights and request.is_preflight:
            return SkipReason.PREFLIGHT
        if self.exempt_paths and all(
            any(expression.fullmatch(path) for expression in self.exempt_paths)
            for path in request.readings
        ):
            return SkipReason.EXEMPT_PATH
        if self.exempt_networks and self._is_exempt(request, trusted):
            return SkipReason.EXEMPT_NETWORK
        if parts is not request.parts:
            request = request.changed(parts=parts)
        is_apart = self._counts_apart(request)
        subject = self._subject(request, trusted, is_apart)
        if subject is None:
            return SkipReason.UNIDENTIFIED
        reason = self._skips(subject)
        if reason is not None:
            return reason
        if is_apart:
            return Check(self, subject, 1, None)
        plan = None if self.plans is None else self.plans.of_request(subject, request, trusted)
        class_ = None if self.classes is None else self.classes.of_request(request, trusted)
        limits, cost = self._limits(plan, class_), self.cost(request, trusted)
        if cost is None:
            cost = min(policy.capacity for policy in limits or self.limiter.policies)
        elif not isinstance(cost, int):
            raise TypeError(
                f"the cost function of {self.name} returned {shown(cost)}: "
                f"expected a whole number, or None"
            )
        address = None if self.new_subjects is None else by_address(request, trusted)
        if address == subject:
            address = None
        return Check(self, subject, max(1, cost), limits, address, plan, class_)

    def consider_subject(
        self, subject: Key, cost: int, plan: str | None = None, class_: str | None = None
    ) -> Check | SkipReason:
        """Return this rule's check of a subject, whatever the request is, or why it does not apply.

        ``plan`` and ``class_`` are what the caller names; an unknown plan counts as none, and an unknown
        class as the lowest.
        """
        reason = self._skips(subject)
        if reason is not None:
            return reason
        own = None if self.plans is None else self.plans.of(subject, plan)
        class_ = None if self.classes is None else self.classes.of(class_)
        return Check(self, subject, cost, self._limits(own, class_), None, own, class_)

    def consider_refund(
        self, subject: Key, cost: int, plan: str | None = None
    ) -> Check | SkipReason:
        """As ``consider_subject``, for a refund, a settlement, or a held lease: no class bounds these."""
        reason = self._skips(subject)
        own = None if self.plans is None else self.plans.of(subject, plan)
        return reason or Check(self, subject, cost, own and own.limits, None, own)

    def limits_of(self, subject: Key) -> tuple[Policy, ...] | None:
        """Return the limits of a subject, without those of a class; None: the rule's."""
        plan = None if self.plans is None else self.plans.of(subject)
        return None if plan is None else plan.limits

    def warn_of_replaced_peers(self) -> None:
        """Log that fields of trusted proxies do not count, since the server replaces their addresses."""
        plans, classes = self.plans, self.classes
        for read in (self.cost, plans and plans.named_by, classes and classes.named_by):
            if isinstance(read, TrustedField):
                read.warn_of_replaced_peers()

    def _skips(self, subject: Key) -> SkipReason | None:
        """Return why the rule does not apply to a subject; None if it does."""
        if self.exempt_keys and spelled(subject) in self.exempt_keys:
            return SkipReason.EXEMPT_KEY
        if self.percent < 100 and not self._holds_for(subject):
            return SkipReason.PERCENT
        return None

    def _limits(self, plan: CustomerPlan | None, class_: str | None) -> tuple[Policy, ...] | None:
        """Return the limits of a plan in a class; None: the rule's."""
        own: tuple[Policy, ...] = self.limiter.policies
        limits = own if plan is None else plan.limits
        if self.classes is not None and class_ is not None:
            limits = self.classes.limits(class_, limits)
        return None if limits is own else limits

    def _counts_apart(self, request: Request) -> bool:
        """Whether the rule counts this request as a preflight: browsers send those without credentials."""
        return self.preflights == "apart" and request.is_preflight

    def _subject(self, request: Request, trusted: Sequence[Network], is_apart: bool) -> Key | None:
        """Return the subject; None if it is unidentified, and the rule skips such requests.

        ``is_apart`` is the result of ``_counts_apart``.
        """
        try:
            if is_apart:
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
            address = request.client(trusted)
        except Unidentified:
            return False
        return any(address in network for network in self.exempt_networks)

    def _holds_for(self, subject: Key) -> bool:
        """Whether ``percent`` includes the subject."""
        return bool(
            limiter_calls.plan(self.limiter).keys.share(subject, _PARTS)
            < self.percent * _PARTS / 100
        )

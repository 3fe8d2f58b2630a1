"""Other numbers for a rule's limits, over the same state: plans of customers, and classes of priority.

It calls no store, and reads no request but the fields and the key that say what holds for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from limiter.keys import Key
from limiter.policies import Policy
from limiter.web.identity import Network, Unidentified
from limiter.web.request import Request
from limiter.web.subjects import Identity, spelled
from limiter.web.trusted_field import TrustedField


class CustomerPlan(NamedTuple):
    """Limits that hold for some subjects in place of the rule's own."""

    limits: tuple[Policy, ...]
    """The rule's policies with other numbers."""
    name: str | None = None
    """The plan's name; None: an override of a single subject."""


@dataclass(frozen=True)
class Plans:
    """Who has which plan. A subject that changes its plan keeps its state.

    A subject that is named here has the plan that is written here. Else the request, or a caller that names
    the subject, may name a plan; then the longest prefix of the subject counts.

    Attributes:
        by_subject: Plans of single subjects, in the form of ``subjects.spelled``.
        by_name: Plans that a request may name.
        by_prefix: Plans by the first characters of a subject, as ``written`` returns it; the longest first.
        named_by: The field that names a request's plan.
        written: Returns the subject as the request writes it; what clients choose is not hashed.

    """

    by_subject: Mapping[str, CustomerPlan] = field(default_factory=dict)
    by_name: Mapping[str, CustomerPlan] = field(default_factory=dict)
    by_prefix: tuple[tuple[str, CustomerPlan], ...] = ()
    named_by: TrustedField | None = None
    written: Identity | None = None

    def of(self, subject: Key, name: str | None = None) -> CustomerPlan | None:
        """Return the plan of a subject; None if it has none. ``name`` is the plan that its caller names."""
        text = spelled(subject)
        return self._named(text, name) or self._prefixed(text)

    def of_request(
        self, subject: Key, request: Request, trusted: Sequence[Network]
    ) -> CustomerPlan | None:
        """Return the plan of a request with this subject; None if it has none."""
        name = None if self.named_by is None else self.named_by.value(request, trusted)
        plan = self._named(spelled(subject), name)
        if plan is None and self.by_prefix:
            return self._prefixed(spelled(self._written(subject, request, trusted)))
        return plan

    def _named(self, subject: str, name: str | None) -> CustomerPlan | None:
        plan = self.by_subject.get(subject)
        return self.by_name.get(name) if plan is None and name is not None else plan

    def _prefixed(self, subject: str) -> CustomerPlan | None:
        return next((plan for prefix, plan in self.by_prefix if subject.startswith(prefix)), None)

    def _written(self, subject: Key, request: Request, trusted: Sequence[Network]) -> Key:
        if self.written is None:
            return subject
        try:
            return self.written(request, trusted)
        except Unidentified:  # the subject is the client's address
            return subject


@dataclass(frozen=True)
class Classes:
    """Classes of priority: each may use a share of what the limits ever admit at once.

    A call of a lower class is denied if it would take the part that is left for the higher ones. All
    classes count on the same state.

    Attributes:
        shares: The share of each class, above 0 and up to 1.
        named_by: The field that names a request's class.

    """

    shares: Mapping[str, float]
    named_by: TrustedField | None = None

    @cached_property
    def lowest(self) -> str:
        """The class of calls that name no class, or an unknown one."""
        return min(self.shares, key=self.shares.__getitem__)

    def of(self, name: str | None) -> str:
        """Return the class of a call that names this one."""
        return self.lowest if name is None or name not in self.shares else name

    def of_request(self, request: Request, trusted: Sequence[Network]) -> str:
        """Return the class of a request."""
        return self.of(None if self.named_by is None else self.named_by.value(request, trusted))

    def limits(self, name: str, limits: tuple[Policy, ...]) -> tuple[Policy, ...]:
        """Return the share of a class in ``limits``: the same object, if that is all of them."""
        share = self.shares[name]
        return limits if share == 1 else _scaled(limits, share)


@lru_cache(maxsize=1024)
def _scaled(limits: tuple[Policy, ...], share: float) -> tuple[Policy, ...]:
    return tuple(policy.scaled(share) for policy in limits)

"""What ``/readyz`` asks the store, and says about it: for the decision service, and for the Flask demo."""

from __future__ import annotations

from typing import Protocol

from limiter import LimiterError
from limiter.web.guard import AsyncGuard, Guard

#: Subjects to peek at: enough to reach every node of a cluster of a usual size.
PROBES = [f"readyz-{number}" for number in range(16)]


class InForce(Protocol):
    """The part of policies that is used here."""

    @property
    def guard(self) -> Guard | AsyncGuard:
        """Checks all policies."""

    @property
    def refused(self) -> object:
        """The error of the policy file; None if there is none."""


def ready(policies: InForce, degraded: bool) -> str:
    """Say that the process can decide; ``degraded`` means that a fallback does."""
    notes = []
    if degraded:
        fallbacks = ", ".join(sorted({rule.limiter.on_error for rule in policies.guard.rules}))
        notes.append(f"the store does not decide; until it does, on_error decides: {fallbacks}")
    if policies.refused:
        notes.append("the policy file is refused, and its last valid version is in force")
    return "; ".join(["ready", *notes]) + "\n"


def not_ready(error: LimiterError) -> str:
    """Say that nothing decides."""
    return f"the store does not decide, and no fallback does: {error}\n"

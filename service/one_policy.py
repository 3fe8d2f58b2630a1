"""The policy of LIMITER_* without a policy file; it has the interface of ``Policies``."""

from __future__ import annotations

from limiter import Limiter
from limiter.policyfile import Policies
from limiter.web.guard import Guard
from limiter.web.identity import Network
from limiter.web.rules import Rule


class OnePolicy:
    """A limiter that counts by client address."""

    def __init__(self, limiter: Limiter, trusted: tuple[Network, ...]) -> None:
        self.guard = Guard([Rule(limiter)], trusted)
        self.path = None
        self.refused = None

    def reload(self) -> bool:
        """Do nothing, since there is no file."""
        return True

    def open(self) -> None:
        """Connect and load the scripts; raise LimiterError if that fails."""
        self.guard.rules[0].limiter.open()

    def close(self) -> None:
        """Close the idle connections."""
        self.guard.rules[0].limiter.close()


#: The policies of the application: those of a file, or the only one.
AnyPolicies = Policies | OnePolicy

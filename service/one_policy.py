"""The policy of LIMITER_* in a service without a policy file; it has the interface of ``Policies``."""

from __future__ import annotations

from limiter import Limiter
from limiter.policyfile import Policies
from limiter.web.guard import Guard
from limiter.web.identity import Network
from limiter.web.rules import Rule

#: The policy's name in paths, whatever LIMITER_NAME is: proxies' configurations contain these paths.
NAME = "default"


class OnePolicy:
    """A limiter that counts by client address, and counts CORS preflights separately."""

    def __init__(self, limiter: Limiter, trusted: tuple[Network, ...]) -> None:
        rule = Rule(limiter)
        self.guard = Guard([rule], trusted)
        self.path = None
        self.refused = None

    def guard_for(self, name: str) -> Guard | None:
        """Return the policy's guard; None for any other name."""
        return self.guard if name in (NAME, self.guard.rules[0].name) else None

    def reload(self) -> bool:
        """Do nothing, since there is no file."""
        return True

    def open(self) -> None:
        """Connect and load the scripts; raise LimiterError if that fails."""
        self.guard.rules[0].limiter.open()

    def close(self) -> None:
        """Close the idle connections."""
        self.guard.rules[0].limiter.close()


#: The policies of the service: those of a file, or the only one.
AnyPolicies = Policies | OnePolicy

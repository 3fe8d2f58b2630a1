"""The policy of LIMITER_* in a service without a policy file; it has the interface of ``AsyncPolicies``."""

from __future__ import annotations

from collections.abc import Sequence

from limiter import AsyncLimiter
from limiter.policyfile import AsyncPolicies
from limiter.web.guard import AsyncGuard
from limiter.web.identity import Network
from limiter.web.rules import Rule

#: The policy's name in paths, whatever LIMITER_NAME is: proxies' configurations contain these paths.
NAME = "default"


class OnePolicy:
    """A limiter that counts by client address, and counts CORS preflights separately."""

    def __init__(self, limiter: AsyncLimiter, trusted: Sequence[Network]) -> None:
        rule = Rule(limiter)
        self.guard = AsyncGuard([rule], trusted)
        self.forward_auth = AsyncGuard([], trusted) if rule.counts_leases else self.guard
        self.path = None
        self.refused = None

    def guard_for(self, name: str) -> AsyncGuard | None:
        """Return the policy's guard; None for any other name."""
        return self.guard if name in (NAME, self.guard.rules[0].name) else None

    def reload(self) -> bool:
        """Do nothing, since there is no file."""
        return True

    async def open(self) -> None:
        """Connect and load the scripts; raise LimiterError if that fails."""
        await self.guard.rules[0].limiter.open()

    async def close(self) -> None:
        """Return the prepaid units, and close the connections of the running event loop."""
        await self.guard.rules[0].limiter.close()


#: The policies of the service: those of a file, or the only one.
AnyPolicies = AsyncPolicies | OnePolicy

"""The one policy of LIMITER_*, where no file says others; it is asked as ``Policies`` are."""

from __future__ import annotations

from typing import Any

from limiter import Limiter
from limiter.web.guard import Guard
from limiter.web.identity import Network
from limiter.web.rules import Rule

#: How it is called in paths, whatever LIMITER_NAME says: so the paths stand in proxies' configurations.
NAME = "default"


class OnePolicy:
    """A limiter's policy, for each client address; CORS preflights are counted apart."""

    def __init__(self, limiter: Limiter, trusted: tuple[Network, ...]) -> None:
        rule = Rule(limiter)
        self.guard = Guard([rule], trusted)
        self.path = None
        self.refused = None

    def guard_for(self, name: str) -> Guard | None:
        """The policy's guard; None for any other name."""
        return self.guard if name in (NAME, self.guard.rules[0].name) else None

    def described(self) -> list[dict[str, Any]]:
        """The policy, ready for JSON."""
        rule = self.guard.rules[0]
        limits = [policy.to_dict() for policy in rule.limiter.policies]
        return [{"name": rule.name, "limits": limits, "key": "address"}]

    def reload(self) -> bool:
        """There is no file: what is in force stays."""
        return True

    def open(self) -> None:
        """Connect and load the scripts; raise LimiterError where that fails."""
        self.guard.rules[0].limiter.open()

    def close(self) -> None:
        """Close the idle connections."""
        self.guard.rules[0].limiter.close()

"""LeaseCalls by calls of their own, for holders that are no `with`: in another language, say."""

from __future__ import annotations

from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import InvalidPolicy, StoreUnavailable
from limiter.plan import Part, Plan
from limiter.web import limiter_calls
from limiter.web.rules import Check


class LeaseCalls:
    """The leases of one rule's subject; each call is one round trip.

    Whoever holds one draws its id, renews it before it ends, and gives it back. Taking a lease again
    under the id of one that is held is the same lease. One that this process gave, since the store did
    not decide (``on_error="local"``), is renewed and given back here, whatever the store does by then.

    Raises:
        InvalidPolicy: No policy counts leases.

    """

    def __init__(self, check: Check) -> None:
        self.rule = check.rule
        self._limiter: Limiter = check.rule.limiter
        self._plan: Plan = limiter_calls.plan(self._limiter, check.limits)
        if not self._plan.leases:
            raise InvalidPolicy(f"no policy of {check.rule.name} counts leases")
        self._plan.checked(check.cost, least=1)
        self.part = Part(self._plan, check.key, check.cost, check.rule.shadow)

    @property
    def seconds(self) -> float:
        """How long one lasts that nobody renews."""
        return min(policy.period_us for policy in self._plan.leases) / 1e6

    def take(self, lease: str) -> Decision:
        """Take the leases, and charge the rates beside them: all or nothing.

        Raises:
            StoreUnavailable: The store did not decide, and perhaps took them; so says ``on_error`` too.
            StoreRefused: The store answered, but not with a decision.

        """
        return self._ask(self.part, "acquire", lease)

    def fallback(self, lease: str) -> Decision:
        """What ``on_error`` makes of a store that did not decide; ``raise`` is a denial here."""
        return limiter_calls.fallbacks([self._limiter], [self.part], "acquire", lease)[0]

    def forget(self, lease: str, why: StoreUnavailable) -> None:
        """Give back, later, what the store may have taken without our knowing."""
        limiter_calls.forget(self._limiter, self.part, lease, why)

    def renew(self, lease: str) -> bool:
        """Let them last for another while; False where one of them has ended.

        Raises:
            StoreUnavailable, StoreRefused: It may not have happened.

        """
        return self._change("renew", lease) == self.part.cost

    def give_back(self, lease: str) -> int:
        """Give them back; how many were still held.

        Raises:
            StoreUnavailable, StoreRefused: It may not have happened; then they end by themselves.

        """
        return self._change("release", lease)

    def _change(self, mode: str, lease: str) -> int:
        """How many units there were, here or in the store."""
        changed = limiter_calls.change_here(self._limiter, self.part, mode, lease)
        here = self.part.cost if changed else 0
        part = self.part._replace(plan=self._plan.of_leases, shadow=False)
        try:
            there = min(one.granted for one in self._ask(part, mode, lease).each)
        except StoreUnavailable:
            if not here:
                raise
            return here
        return max(here, there)

    def _ask(self, part: Part, mode: str, lease: str) -> Decision:
        limiter = self._limiter
        flow = limiter_calls.decide_flow(limiter, [part], mode, lease, limiter.timeout)
        return limiter_calls.drive(limiter, flow)[0]

"""Take, renew and release a lease in separate calls: for holders outside a ``with``, as over HTTP."""

from __future__ import annotations

from typing import Generic, TypeVar

from limiter import several
from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import InvalidPolicy, StoreUnavailable
from limiter.flows import Flow
from limiter.leases import HeldLease
from limiter.plan import Part, Plan
from limiter.web import limiter_calls
from limiter.web.limiter_calls import core_of
from limiter.web.rules import Check

_Limiter = TypeVar("_Limiter", Limiter, AsyncLimiter)


class _LeaseCalls(Generic[_Limiter]):
    """The leases of one rule's subject; a subclass makes the round trips.

    The holder chooses the id, renews the lease before it expires, and releases it. A second ``take`` with
    the id of a held lease takes no other. A lease that ``on_error="local"`` gave is renewed and released
    in this process, also when the store decides again.

    Raises:
        InvalidPolicy: No policy counts leases.

    """

    def __init__(self, check: Check) -> None:
        self.rule = check.rule
        self._limiter: _Limiter = check.rule.limiter
        self._plan: Plan = limiter_calls.plan(self._limiter, check.limits)
        if not self._plan.leases:
            raise InvalidPolicy(f"no policy of {check.rule.name} counts leases")
        self._cost = self._plan.checked_whole(check.cost, least=1)
        self.part = Part(self._plan, check.key, self._cost, check.rule.shadow)

    @property
    def seconds(self) -> float:
        """How long a lease lasts without a renewal."""
        return min(policy.period_us for policy in self._plan.leases) / 1e6

    def fallback(self, lease: str) -> Decision:
        """Decide by ``on_error``, since the store did not; ``raise`` denies here."""
        core = core_of(self._limiter)
        return several.decide_without_store([core], [self.part], "acquire", lease)[0]

    def forget(self, lease: str, why: StoreUnavailable) -> None:
        """Release later a lease that the store may have taken without an answer."""
        HeldLease.of_part(core_of(self._limiter), self.part, lease).forget(why)

    def _taking_flow(self, lease: str) -> Flow[Decision]:
        return self._asking_flow(self.part, "acquire", lease)

    def _renewing_flow(self, lease: str) -> Flow[bool]:
        return (yield from self._changing_flow("renew", lease)) == self._cost

    def _changing_flow(self, mode: str, lease: str) -> Flow[int]:
        """Renew or release in this process and in the store; return how many units were held."""
        core = core_of(self._limiter)
        share = core.share
        part = self.part._replace(plan=self._plan.of_leases, shadow=False)
        known = (part.plan, mode, part.key, part.cost, None, core.now_us, lease)
        in_process = self._cost if share is not None and share.change(*known) else 0
        try:
            decision = yield from self._asking_flow(part, mode, lease)
        except StoreUnavailable:
            if not in_process:
                raise
            return in_process
        return max(in_process, min(each.granted for each in decision.each))

    def _asking_flow(self, part: Part, mode: str, lease: str) -> Flow[Decision]:
        (decision,) = yield from limiter_calls.decide_flow([self._limiter], [part], mode, lease)
        return decision


class LeaseCalls(_LeaseCalls[Limiter]):
    """The leases of one rule's subject, for threads; each call is one round trip."""

    def take(self, lease: str) -> Decision:
        """Take the leases, and charge the policy's rate limits: all or nothing.

        Raises:
            StoreUnavailable: The store did not answer, and may have taken them, whatever ``on_error`` is.
            StoreRefused: The store answered, but not with a decision.

        """
        return core_of(self._limiter).drive(self._taking_flow(lease))

    def renew(self, lease: str) -> bool:
        """Renew the leases; False if one of them has expired.

        Raises:
            StoreUnavailable, StoreRefused: The store may not have renewed them.

        """
        return core_of(self._limiter).drive(self._renewing_flow(lease))

    def release(self, lease: str) -> int:
        """Release the leases; return how many units were still held.

        Raises:
            StoreUnavailable, StoreRefused: The store may not have released them; then they expire.

        """
        return core_of(self._limiter).drive(self._changing_flow("release", lease))


class AsyncLeaseCalls(_LeaseCalls[AsyncLimiter]):
    """The leases of one rule's subject, for coroutines; each call is one round trip."""

    async def take(self, lease: str) -> Decision:
        """As ``LeaseCalls.take``."""
        return await core_of(self._limiter).drive(self._taking_flow(lease))

    async def renew(self, lease: str) -> bool:
        """As ``LeaseCalls.renew``."""
        return await core_of(self._limiter).drive(self._renewing_flow(lease))

    async def release(self, lease: str) -> int:
        """As ``LeaseCalls.release``."""
        return await core_of(self._limiter).drive(self._changing_flow("release", lease))

"""Reserve and settle in separate calls, which a record in the store joins: for callers over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from limiter import several
from limiter.aio import AsyncLimiter
from limiter.decision import Decision
from limiter.plan import Part as Part
from limiter.recorded import Recorded as Recorded
from limiter.recorded import State as State
from limiter.recorded import reserve_flow, settle_flow
from limiter.web import limiter_calls
from limiter.web.limiter_calls import core_of
from limiter.web.rules import Check

#: Bytes that tell two reservations of one id apart.
_DIGEST_SIZE = 4


def part_without_cost(check: Check) -> Part:
    """Return a part that takes nothing and denies nothing, but has a place in the record."""
    return Part(limiter_calls.plan(check.rule.limiter, check.limits), check.key, 0, shadow=True)


def part_of_true_cost(check: Check) -> Part:
    """Return the part that settles a check at its cost, which may be more than the limits ever admit."""
    return part_without_cost(check)._replace(cost=check.cost, shadow=check.rule.shadow)


def is_charge_of(recorded: Recorded, part: Part) -> bool:
    """Whether the recorded charge is that of a part; in shadow mode a policy may have granted nothing."""
    granted = [each.granted for each in recorded.decision.each]
    costs = part.plan.each_cost(part.cost)
    return all(
        units == cost or (part.shadow and not units)
        for units, cost in zip(granted, costs, strict=True)
    )


def _charged(part: Part) -> bytes:
    """Return what a part charges: its subject, and the limits without their numbers."""
    fields = [policy.field.encode() for policy in part.plan.policies]
    return b" ".join([part.plan.state(part.key)[0], *fields])


class AsyncReservationCalls:
    """The calls about one reservation, whose parts are of limiters that share one store.

    The caller chooses the id, and may repeat each call. Every call has all parts, in any order. Under the
    same id, other subjects or other policies are another reservation: a wrong call, or one after a change
    of the policy file, refunds nothing that was not charged.
    """

    def __init__(self, id_: str, limiters: Sequence[AsyncLimiter], parts: Sequence[Part]) -> None:
        digest = blake2b(b"\n".join(sorted(map(_charged, parts))), digest_size=_DIGEST_SIZE)
        self._name = f"{id_}.{digest.hexdigest()}"
        self._parts = parts
        self._cores = [core_of(limiter) for limiter in limiters]
        #: The core that makes the calls has the shortest timeout.
        self._caller = min(self._cores, key=lambda core: core.timeout)

    async def reserve(self, seconds: int) -> list[Recorded]:
        """Charge all parts, or none, and record for these seconds what was charged.

        Raises:
            StoreUnavailable: The store did not answer, and may have charged them, whatever ``on_error`` is.
            StoreRefused: The store answered, but not with a decision.

        """
        return await self._caller.drive(
            reserve_flow(self._caller, self._parts, self._name, seconds)
        )

    async def settle(self) -> list[State]:
        """Refund or charge, once, the difference of each part's cost to what is recorded.

        Raises:
            StoreUnavailable, StoreRefused: The store may not have settled them.

        """
        return await self._caller.surely(settle_flow(self._caller, self._parts, self._name))

    def fallback(self) -> list[Decision]:
        """Decide by each limiter's ``on_error``, since the store did not; ``raise`` denies here."""
        return several.decide_without_store(self._cores, self._parts, "hit", "")

"""Calls of a limiter that only web adapters need: joint calls of several limiters, and leases by id.

They are no methods of a limiter, since users do not need them.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any, TypeVar, overload

from limiter import several
from limiter.aio import AsyncLimiter
from limiter.base import Base
from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow
from limiter.grammar import Limits
from limiter.leases import HeldLease
from limiter.plan import Part, Plan

_Result = TypeVar("_Result")


def plan(limiter: Base, limits: Limits | None = None) -> Plan:
    """Return the call template of a limiter, with its own numbers or with those of ``limits``.

    Raises:
        InvalidPolicy: The limits differ from the limiter's in more than their numbers.

    """
    return limiter._core.plan_for(limits)


def decide_flow(
    limiter: Base,
    parts: list[Part],
    mode: str = "hit",
    lease: str = "",
    timeout: float | None = None,
) -> Flow[list[Decision]]:
    """Decide parts of limiters that share this one's store, in one script call if one slot holds them.

    All parts are charged, or none. The mode ``acquire`` also takes the leases, under the id ``lease``.
    Parts may name one subject several times if their keys or fields differ. ``timeout`` replaces the
    store's own.
    """
    core = limiter._core
    deadline = None
    if timeout is not None and timeout != core.store.timeout:
        deadline = monotonic() + timeout
    return several.decide_flow(core, parts, None, mode, lease, deadline)


def fallbacks(
    owners: Sequence[Base], parts: Sequence[Part], mode: str, lease: str = ""
) -> list[Decision]:
    """Decide by ``on_error`` of each part's owner, since the store did not.

    The owners share one store. Those with ``local`` decide jointly, and charge nothing if another one
    denies; ``raise`` denies here.
    """
    return several.decide_without_store([owner._core for owner in owners], parts, mode, lease)


def keep(limiter: Base, part: Part, lease: str, decision: Decision, asked: float) -> HeldLease:
    """Return the lease that a part took, and renew it from now on; ``asked`` is when the call began."""
    held = HeldLease.of_part(limiter._core, part, lease)
    held.keep(decision, asked)
    return held


def forget(limiter: Base, part: Part, lease: str, why: StoreUnavailable) -> None:
    """Release later a lease that the store may have given without an answer."""
    HeldLease.of_part(limiter._core, part, lease).forget(why)


def change_here(limiter: Base, part: Part, mode: str, lease: str) -> bool:
    """Renew or release units of a lease that ``on_error="local"`` gave; return whether all were held."""
    core, plan = limiter._core, part.plan.of_leases
    if core.share is None:
        return False
    return core.share.change(plan, mode, part.key, part.cost, None, core.now_us, lease)


def release_flow(held: HeldLease) -> Flow[None]:
    """Release the lease, once; if the store does not answer, the lease expires."""
    return held.release_flow()


def refund_flow(limiter: Base, part: Part, decision: Decision) -> Flow[Decision | None]:
    """Refund what a part was charged; return the state after it, None if the store was not changed."""
    core, plan = limiter._core, part.plan
    if decision.degraded:
        if core.share is not None and not plan.leases:
            core.share.change(plan, "refund", part.key, part.cost, None, core.now_us)
        return None
    call = plan.call("refund", part.key, part.cost, None, None, core.now_us)
    try:
        return Decision(plan.policies, (yield Ask(call)))
    except LimiterError as error:
        core.not_settled("a refund", error)
        return None


def shares_store(limiter: Base, other: Base) -> bool:
    """Return whether both use one store, through the same connections."""
    return limiter._core.store is other._core.store


def keeps_store_timeout(limiter: Base) -> bool:
    """Return whether its calls have the timeout of the limiter whose store it shares."""
    return limiter._core.timeout == limiter._core.store.timeout


@overload
def drive(limiter: Limiter, flow: Flow[_Result]) -> _Result: ...


@overload
def drive(limiter: AsyncLimiter, flow: Flow[_Result]) -> Coroutine[Any, Any, _Result]: ...


def drive(limiter: Limiter | AsyncLimiter, flow: Flow[Any]) -> Any:
    """Run every step of a flow, and return what it returns; a coroutine for an ``AsyncLimiter``."""
    return limiter._core.drive(flow)


async def surely(limiter: AsyncLimiter, flow: Flow[_Result]) -> _Result:
    """Run a flow as ``drive`` does, in its own task: cancelling the caller does not stop it."""
    return await limiter._core.surely(flow)

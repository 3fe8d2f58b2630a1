"""Calls of a limiter that only adapters need; they are no methods, since users do not need them."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, overload

from limiter import several
from limiter.aio import AsyncLimiter
from limiter.base import Base
from limiter.client import Limiter
from limiter.core import Core
from limiter.decision import Decision
from limiter.errors import LimiterError
from limiter.flows import Ask, Flow
from limiter.grammar import Limits
from limiter.loop_core import LoopCore
from limiter.plan import Part, Plan
from limiter.thread_core import ThreadCore


@overload
def core_of(limiter: Limiter) -> ThreadCore: ...
@overload
def core_of(limiter: AsyncLimiter) -> LoopCore: ...
@overload
def core_of(limiter: Base) -> Core[Any]: ...
def core_of(limiter: Base) -> Core[Any]:
    """Return the core of a limiter, which runs flows; no other function of the adapters reaches for it."""
    return limiter._core


def plan(limiter: Base, limits: Limits | None = None) -> Plan:
    """Return the call template of a limiter, with its own numbers or with those of ``limits``.

    Raises:
        InvalidPolicy: The limits differ from the limiter's in more than their numbers.

    """
    core = limiter._core
    return core.plan if limits is None else core.plan_for(limits)


def decide_flow(
    limiters: Sequence[Base], parts: list[Part], mode: str, lease: str
) -> Flow[list[Decision]]:
    """Decide parts of limiters that share one store, in one script call if one slot holds them.

    The shortest of their timeouts and the shortest of their denial caches hold. All parts are charged, or
    none. The mode ``acquire`` also takes the leases, under the id ``lease``.
    Parts may name one subject several times if their keys or fields differ.
    """
    cores = [core_of(limiter) for limiter in limiters]
    core, timeout = cores[0], min(core.timeout for core in cores)
    deadline = None if timeout == core.store.timeout else monotonic() + timeout
    caches = [core.denials for core in cores if core.denials is not None]
    denials = None
    if len(caches) == len(cores):
        denials = min(caches, key=lambda cache: cache.seconds)
    return several.decide_flow(core, parts, None, mode, lease, deadline, denials)


def settle_flow(limiter: Base, part: Part, decision: Decision, cost: int) -> Flow[Decision | None]:
    """Settle the true cost of a part; return the state after it, None if the store was not changed."""
    core, plan = core_of(limiter), part.plan.of_rates
    if plan is None or cost == part.cost:
        return None
    mode, difference = ("refund" if cost < part.cost else "settle"), abs(cost - part.cost)
    if decision.degraded:
        if core.share is not None:
            core.share.change(plan, mode, part.key, difference, None, core.now_us)
        return None
    call = plan.call(mode, part.key, min(difference, plan.most_cost), None, None, core.now_us)
    try:
        return Decision(plan.policies, (yield Ask(call)))
    except LimiterError as error:
        core.not_settled("a settlement", error)
        return None

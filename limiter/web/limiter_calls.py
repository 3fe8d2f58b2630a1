"""Calls of a limiter that only adapters need; they are no methods, since users do not need them."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, overload

from limiter import reservations, several
from limiter.aio import AsyncLimiter
from limiter.base import Base
from limiter.client import Limiter
from limiter.core import Core
from limiter.decision import Decision
from limiter.flows import Flow
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


def settle_flow(
    limiters: Sequence[Base],
    parts: Sequence[Part],
    decisions: Sequence[Decision],
    costs: Sequence[int],
) -> Flow[bool]:
    """Settle the true costs of parts; return whether that reached the store.

    The limiters share one store: one call refunds, and one charges, if one slot holds the parts. A decision
    of ``on_error`` is settled in this process, by its own limiter.
    """
    by_core: dict[Core[Any], list[tuple[Part, Decision, tuple[int, ...]]]] = {}
    for limiter, part, decision, cost in zip(limiters, parts, decisions, costs, strict=True):
        core = core_of(limiter if decision.degraded else limiters[0])
        settled = (part, decision, part.plan.each_cost(cost))
        by_core.setdefault(core, []).append(settled)
    has_arrived = True
    for core, settlements in by_core.items():
        has_arrived &= yield from reservations.settle_flow(core, *zip(*settlements, strict=True))
    return has_arrived

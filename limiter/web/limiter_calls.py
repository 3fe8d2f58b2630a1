"""What web adapters need of a limiter beyond its public calls: joint calls of limiters, leases by id.

Users have no need of these functions; that is why no limiter has them as methods.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from limiter.aio import AsyncLimiter
    from limiter.base import Base, Limits
    from limiter.client import Limiter
    from limiter.decision import Decision
    from limiter.errors import StoreUnavailable
    from limiter.flows import Flow
    from limiter.held import Held
    from limiter.plan import Part, Plan

_Result = TypeVar("_Result")


def plan(limiter: Base[Any], limits: Limits | None = None) -> Plan:
    """Return what is known of a call before its key and cost are; with other numbers, or the limiter's.

    Raises:
        InvalidPolicy: The limits differ from the limiter's in more than their numbers.

    """
    return limiter.plan(limits)


def deciding(
    limiter: Base[Any],
    parts: list[Part],
    mode: str = "hit",
    lease: str = "",
    timeout: float | None = None,
) -> Flow[list[Decision]]:
    """Decide parts of limiters that share this one's store: in one script call, where one slot has them.

    Each part is charged, or none is; ``acquire`` under the id ``lease`` takes the leases as well.
    Parts may name one subject several times, as long as their keys or fields differ. ``timeout``
    replaces the store's own.
    """
    return limiter.deciding(parts, mode, lease, timeout)


def fallbacks(
    owners: Sequence[Base[Any]], parts: Sequence[Part], mode: str, lease: str = ""
) -> list[Decision]:
    """Decide by ``on_error`` of each part's owner, since the store did not.

    The owners share one store. Those that decide in this process do it together, and charge nothing
    where another one denies; ``raise`` is a denial here.
    """
    return owners[0].fallbacks(owners, parts, mode, lease)


def keep(limiter: Base[Any], part: Part, lease: str, decision: Decision, asked: float) -> Held:
    """Return the lease that a part took, renewed until it is released; ``asked`` is when the call began."""
    return limiter.keep(part, lease, decision, asked)


def forget(limiter: Base[Any], part: Part, lease: str, why: StoreUnavailable) -> None:
    """Release, later, a lease that the store may have given without an answer."""
    limiter.forget(part, lease, why)


def change_here(limiter: Base[Any], part: Part, mode: str, lease: str) -> bool:
    """Renew or release what ``on_error="local"`` gave of a lease; return whether all of it was there."""
    return limiter.change_here(part, mode, lease)


def releasing(limiter: Base[Any], held: Held) -> Flow[None]:
    """Release the lease, once; if the store does not answer, the lease ends by itself."""
    return limiter.releasing(held)


def returning(limiter: Base[Any], part: Part, decision: Decision) -> Flow[Decision | None]:
    """Refund what a part was charged; return the state after it, None where the store did not get it."""
    return limiter.returning(part, decision)


def shares_store(limiter: Base[Any], other: Base[Any]) -> bool:
    """Return whether both use one store, through the same connections."""
    return limiter.shares_store(other)


def keeps_store_timeout(limiter: Base[Any]) -> bool:
    """Return whether its calls take as long as those of the limiter whose store it shares."""
    return limiter.keeps_store_timeout


@overload
def drive(limiter: Limiter, flow: Flow[_Result]) -> _Result: ...


@overload
def drive(limiter: AsyncLimiter, flow: Flow[_Result]) -> Coroutine[Any, Any, _Result]: ...


def drive(limiter: Limiter | AsyncLimiter, flow: Flow[Any]) -> Any:
    """Run every step of a flow, and return what it returns; a coroutine for an ``AsyncLimiter``."""
    return limiter.drive(flow)


async def surely(limiter: AsyncLimiter, flow: Flow[_Result]) -> _Result:
    """Run a flow as ``drive`` does, in a task of its own: cancelling the caller does not stop it."""
    return await limiter.surely(flow)

"""The limiter for coroutines: the calls of ``client``, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from limiter.base import Base
from limiter.call import STRIDE
from limiter.decision import CachedDecision, Decision
from limiter.denials import PAUSE_EVERY
from limiter.errors import StoreUnavailable
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.leases import HeldLease
from limiter.loop_core import LoopCore
from limiter.plan import Cost
from limiter.reservations import ReservedCosts
from limiter.several import Decisions, Item, hit_all_flow
from limiter.transport import checked, finish, scripts_of

_Own = TypeVar("_Own", bound="AsyncLimiter")


class AsyncLimiter(Base):
    """As ``Limiter``, for coroutines. If ``store`` is a client object, it is one of ``redis.asyncio``.

    Await every call. A coroutine is always true: ``if limiter.hit(key):`` admits every caller, and
    Python only warns that the coroutine "was never awaited".

    Calls that one turn of the event loop makes to one node are sent together. A cancelled call is
    charged at most once, and does not disturb other calls. Event loops in several threads may share an
    ``AsyncLimiter``; each loop has its own connections.

    Args:
        join: Send the hits that one turn of the event loop makes on the same key, with the same cost, as
            one script call. This is the default. Each caller gets the same decision as without it, in the
            order of the calls; only ``reset_after`` of a bucket already counts all of them. Hits with
            ``at_least`` or costs by policy, those of a ``LeakyBucket``, and calls for several subjects are
            never joined.

    All other arguments are those of ``Limiter``.

    """

    _core_class = LoopCore
    _can_join = True
    _core: LoopCore

    async def hit(
        self,
        key: Key,
        cost: Cost = 1,
        *,
        at_least: int | None = None,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> Decision:
        """Take ``cost`` units from every limit of ``key``, or nothing; as ``Limiter.hit``."""
        core = self._core
        if (
            at_least is None
            and limits is None
            and tag is None
            and type(key) is str
            and type(cost) is int
        ):
            prepaid = core.prepaid
            if prepaid is not None:
                spent = prepaid.spend(key, cost)
                if spent is not None:
                    if spent.left % PAUSE_EVERY < cost:
                        await asyncio.sleep(0)
                    return spent
                decision = await core.take(prepaid, key, cost)
                if decision is not None:
                    return decision
            plan, call = core.plan, core.calls[key, cost, core.now_us]
        else:
            prepaid = None
            plan = core.plan_for(limits)
            call = plan.call("hit", key, cost, at_least, tag, core.now_us)
            if core.denials is not None:
                core.denials.recall(call)
        denials = core.denials
        if denials is not None:
            if call.denial is not None and (cached := denials.answer(call)) is not None:
                if denials.answered % PAUSE_EVERY == 0:
                    await asyncio.sleep(0)
                return CachedDecision(plan.policies, cached)
            began, last = denials.clock(), denials.marks.last
        transport = core.transport
        try:
            sent = transport.begin(call)
            if sent is None:
                reply = await transport.run(call)
            else:
                reply = await sent[0]
                if isinstance(reply, Exception):
                    reply = await finish(call, reply, sent)
                elif type(reply) is not tuple:  # a joined call has its numbers already
                    reply = checked(call, reply)
        except StoreUnavailable as error:
            core.note(error)
            return core.fallback(error, plan, "hit", key, cost, at_least, tag)
        if core.outage.since is not None:
            core.outage.answered()
        if denials is not None and (reply[2] or len(reply) > STRIDE + 1):
            denials.received(call, began, last, reply)
        if prepaid is not None:
            prepaid.note(key, reply)
        return Decision(plan.policies, reply)

    async def peek(
        self, key: Key, cost: Cost = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decision:
        """Return what ``hit`` or ``hold`` would decide now; as ``Limiter.peek``."""
        core = self._core
        return await core.drive(core.ask_flow(core.plan_for(limits), "peek", key, cost, tag))

    async def reset(
        self, key: Key, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decision:
        """Forget the counts of ``key`` in this limiter; as ``Limiter.reset``."""
        return await self._core.drive(self._core.reset_flow(key, limits, tag))

    async def refund(
        self, key: Key, cost: Cost = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> None:
        """Refund ``cost`` units to ``key``; as ``Limiter.refund``."""
        await self._core.drive(self._core.refund_flow(key, cost, limits, tag))

    async def wait(
        self,
        key: Key,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> Decision:
        """Hit; if that is denied, sleep and hit again; as ``Limiter.wait``."""
        core = self._core
        return await core.drive(core.wait_flow(key, cost, timeout, limits, tag))

    async def hit_all(
        self, items: Iterable[Item], *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decisions:
        """Hit several subjects: all of them are charged, or none; as ``Limiter.hit_all``."""
        return await self._core.drive(hit_all_flow(self._core, items, limits, tag))

    def hold(
        self,
        key: Key,
        cost: int = 1,
        timeout: float | None = 0,
        on_lost: Callable[[], Any] | None = None,
        *,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> AsyncLease:
        """Hold a lease for the body of an ``async with``; as ``Limiter.hold``.

        The event loop calls ``on_lost``, which must not block.
        """
        return AsyncLease.for_call(self._core, key, cost, timeout, on_lost, limits, tag)

    def reserve(
        self, key: Key, cost: Cost, *, limits: Limits | None = None, tag: Key | None = None
    ) -> AsyncReservation:
        """Take ``cost`` in advance for the body of an ``async with``; as ``Limiter.reserve``."""
        return AsyncReservation(self._core, [(key, cost)], limits, tag, is_list=False)

    def reserve_all(
        self, items: Iterable[Item], *, limits: Limits | None = None, tag: Key | None = None
    ) -> AsyncReservation:
        """Take the costs of several subjects in advance; as ``Limiter.reserve_all``."""
        return AsyncReservation.of_all(self._core, items, limits, tag)

    async def open(self: _Own) -> _Own:
        """Connect and load the scripts, for the running event loop; as ``Limiter.open``."""
        await self._core.transport.load(scripts_of(self.policies), self._core.plan.example_key)
        return self

    async def close(self) -> None:
        """Return the prepaid units, and close the running loop's connections; as ``Limiter.close``."""
        if self._core.prepaid is not None:
            await self._core.drive(self._core.prepaid.return_flow())
        await self._core.transport.close()

    async def __aenter__(self: _Own) -> _Own:
        try:
            await self.open()
        except StoreUnavailable as error:
            self._core.not_opened(error)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncLease(HeldLease):
    """A lease, held for the body of an ``async with``; see ``Limiter.hold``."""

    written = "async with limiter.hold(...)"

    _core: LoopCore

    async def release(self) -> None:
        """Release the lease now; the end of the body then does nothing."""
        await self._core.surely(self.release_flow())

    async def __aenter__(self) -> AsyncLease:
        try:
            await self._core.drive(self.hold_flow())
        except asyncio.CancelledError:  # perhaps after the lease was taken
            await self.release()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.release()


class AsyncReservation(ReservedCosts):
    """Costs taken in advance, for the body of an ``async with``; see ``Limiter.reserve``."""

    written = "async with limiter.reserve(...)"

    _core: LoopCore

    async def settle(self, actual: Cost | Sequence[Cost]) -> None:
        """Settle the true cost, in the body; as ``Reservation.settle``."""
        await self._core.surely(self.settle_flow(actual))

    async def __aenter__(self) -> AsyncReservation:
        await self._core.drive(self.reserve_flow())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self.is_inherited:
            await self._core.surely(self.refund_flow())

"""What every call of a limiter is made of: its plans, one decision, and what ``on_error`` decides."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Generic, Protocol, TypeVar

from limiter import settings
from limiter.call import SERVER_CLOCK, STRIDE
from limiter.decision import Decision, RateLimited
from limiter.errors import InvalidPolicy, LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow, Pause
from limiter.grammar import Limits, policies_of, read_limits
from limiter.keys import Key
from limiter.local import LocalShare
from limiter.log_throttle import log_seldom
from limiter.memory import MemoryStore
from limiter.outage import Outage
from limiter.plan import Plan, remember
from limiter.policies import Policy

#: At most this part longer than needed, at random, keeps those who wait for one moment from coming
#: as one crowd.
_JITTER = 0.05

#: What happens to calls while the store does not decide, by ``on_error``.
_INSTEAD = {
    "raise": "calls raise StoreUnavailable",
    "allow": "calls are allowed (on_error=allow)",
    "deny": "calls are denied (on_error=deny)",
    "local": "this process decides about its share of each limit (on_error=local)",
}

log = logging.getLogger("limiter")


class AnyTransport(Protocol):
    """What a limiter's flows need to know of the way to its store."""

    @property
    def where(self) -> str:
        """The store, for messages."""

    def one_slot(self, tags: list[bytes]) -> bool:
        """Whether subjects with these hash tags can be decided in one call."""


_Transport = TypeVar("_Transport", bound=AnyTransport)


class SharedStore(Generic[_Transport]):
    """A store, and what all limiters have in common that share its connections."""

    def __init__(self, transport: _Transport, timeout: float) -> None:
        self.transport = transport
        self.timeout = timeout
        """Seconds within which a call without a deadline of its own is decided."""
        self.local = MemoryStore()
        """Where they decide while the store does not (``on_error="local"``): together, as in the store."""
        self.outage = Outage(transport.where)


class Core(Generic[_Transport]):
    """Everything about a limiter but the round trip, which ``client`` and ``aio`` add."""

    def __init__(
        self,
        plan: Plan,
        name: str,
        store: SharedStore[_Transport],
        on_error: str,
        local_share: int,
        timeout: float,
    ) -> None:
        self.plan = plan
        self.name = name
        self.store = store
        self.transport = store.transport
        self.outage = store.outage
        self.on_error = on_error
        self.timeout = timeout
        self.share = LocalShare(local_share, store.local) if on_error == "local" else None
        #: Settlements, refunds and releases that did not reach the store, and expired with their keys.
        self.unsettled = 0
        #: Leases that may have been taken, and are being released.
        self.forgetting = 0
        #: The time of every call, for tests and simulations; ``SERVER_CLOCK``: the store's clock.
        self.now_us = SERVER_CLOCK
        self._plans: dict[object, Plan] = {}

    @classmethod
    def connect(cls, store: object, timeout: float, connect_timeout: float) -> _Transport:
        """The way to a store, in this process or elsewhere."""
        raise NotImplementedError

    def run_beside(
        self, flow: Flow[None], interrupted: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """Run a flow that no caller waits for; what comes back ends it.

        ``interrupted`` is told what else ended it, where the flow itself was not.

        Raises:
            StoreUnavailable: It cannot be run; it was closed.

        """
        raise NotImplementedError

    # --- plans ---

    def plan_for(self, limits: Limits | None) -> Plan:
        """The plan of a call, with its own numbers where it brings any.

        Raises:
            InvalidPolicy: The limits are others than ours in more than their numbers.

        """
        if limits is None:
            return self.plan
        if not isinstance(limits, (str, Policy)):
            limits = policies_of(limits)
        plan = self._plans.get(limits)
        if plan is None:
            plan = Plan(self._renumbered(limits), self.plan.keys)
            remember(self._plans, limits, plan)
        return plan

    def _renumbered(self, limits: Limits) -> tuple[Policy, ...]:
        """Our policies with the numbers of ``limits``."""
        own = self.plan.policies
        if isinstance(limits, str):
            read = read_limits(limits)
            if [limit.period_us for limit in read] == [policy.period_us for policy in own]:
                pairs = zip(own, read, strict=True)
                return tuple(policy.renumbered(limit.limit, limit.burst) for policy, limit in pairs)
        else:
            others = policies_of(limits)
            if [(type(policy), policy.field) for policy in others] == [
                (type(policy), policy.field) for policy in own
            ]:
                return others
        raise InvalidPolicy.of(
            "limits",
            repr(limits),
            f"accepted here are those of {list(own)} with other numbers, "
            f"since algorithm, period and name say which state is meant",
        )

    # --- one decision ---

    def ask_flow(
        self, plan: Plan, mode: str, key: Key, cost: int, tag: Key | None = None, lease: str = ""
    ) -> Flow[Decision]:
        """One round trip, or what ``on_error`` decides where the store does not."""
        call = plan.call(mode, key, cost, None, tag, self.now_us, lease)
        try:
            return Decision(plan.policies, (yield Ask(call)))
        except StoreUnavailable as error:
            return self.fallback(error, plan, mode, key, cost, None, tag, lease)

    def reset_flow(self, key: Key, limits: Limits | None, tag: Key | None) -> Flow[Decision]:
        """As ``Limiter.reset``."""
        plan = self.plan_for(limits)
        call = plan.call("reset", key, 1, None, tag, self.now_us)
        return Decision(plan.policies, (yield Ask(call)))

    def refund_flow(
        self, key: Key, cost: int, limits: Limits | None, tag: Key | None
    ) -> Flow[None]:
        """As ``Limiter.refund``."""
        plan = self.plan_for(limits)
        plan.checked(cost, least=1)
        yield Ask(plan.call("refund", key, cost, None, tag, self.now_us))

    def change_flow(
        self,
        plan: Plan,
        mode: str,
        key: Key,
        cost: int,
        tag: Key | None,
        lease: str = "",
        degraded: bool = False,
        deadline: float | None = None,
    ) -> Flow[bool]:
        """Renew, release, refund or settle, where it was decided; whether all of the cost was there."""
        if not degraded:
            call = plan.call(mode, key, cost, None, tag, self.now_us, lease)
            reply = yield Ask(call, deadline)
            return bool(min(reply[0:-1:STRIDE]) == cost)
        if self.share is None:  # nothing was counted
            return True
        return self.share.change(plan, mode, key, cost, tag, self.now_us, lease)

    def wait_flow(
        self, key: Key, cost: int, timeout: float | None, limits: Limits | None, tag: Key | None
    ) -> Flow[Decision]:
        """As ``Limiter.wait``."""
        timeout = settings.check_wait(timeout)
        deadline = inf if timeout is None else monotonic() + timeout
        plan = self.plan_for(limits)
        while True:
            decision = yield from self.ask_flow(plan, "hit", key, cost, tag)
            if decision.allowed:
                if decision.delay:
                    yield Pause(decision.delay)
                return decision
            left = deadline - monotonic()
            # A call that the store may have run is not made again, whatever answered in its place.
            if decision.degraded or decision.retry_after > left:
                raise RateLimited(decision)
            yield Pause(jittered(decision.retry_after, left))

    # --- without the store ---

    def fallback(
        self,
        error: StoreUnavailable,
        plan: Plan,
        mode: str,
        key: Key,
        cost: int,
        at_least: int | None,
        tag: Key | None,
        lease: str = "",
    ) -> Decision:
        """What ``on_error`` makes of a store that does not decide."""
        if self.on_error == "raise":
            raise error
        if self.share is None:
            return self.without_store(plan)
        return self.share.decide(plan, mode, key, cost, at_least, tag, self.now_us, lease)

    def without_store(self, plan: Plan) -> Decision:
        """What ``on_error`` decides without any counts."""
        return Decision.without_store(plan.policies, allowed=self.on_error == "allow")

    def note(self, error: LimiterError) -> None:
        """A call found no decision: say so in the log where the store is away."""
        if isinstance(error, StoreUnavailable):
            self.outage.failed(error, _INSTEAD[self.on_error])

    def not_opened(self, error: StoreUnavailable) -> None:
        """Opening failed in a ``with``: the calls find out what ``on_error`` makes of that."""
        if self.on_error == "raise":
            raise error
        self.note(error)

    def not_settled(self, what: str, error: LimiterError) -> None:
        """Log and count what did not reach the store; it goes when its key expires."""
        self.unsettled += 1
        text = "%s of limiter %s did not reach the store: %s"
        log_seldom(log, logging.WARNING, text, what, self.name, error, kind=(what, self.name))

    def cut_off(self, what: str, process: int, why: str = "it was interrupted") -> None:
        """Count what no flow goes on with; of a fork's copy, the parent's flow goes on."""
        if process == os.getpid():
            self.not_settled(what, StoreUnavailable(why))


def jittered(seconds: float, left: float) -> float:
    """A little more than asked for, but not beyond the time that is left."""
    return max(seconds, min(seconds * (1 + _JITTER * random.random()), left))

"""The core of both limiters: call templates, the flow of one decision, and fallbacks. It does no I/O."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from limiter import settings
from limiter.call import SERVER_CLOCK, STRIDE, Call
from limiter.call_cache import CallCache
from limiter.decision import Decision
from limiter.denials import GIVING_BACK, PAUSE_EVERY, DenialCache, Marks, hit_flow
from limiter.errors import InvalidPolicy, LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow, Pause
from limiter.grammar import Limits, policies_of, read_limits
from limiter.keys import Key
from limiter.lines import Lines, Waiter, line_flow
from limiter.local import LocalShare
from limiter.log_throttle import log_seldom
from limiter.memory import MemoryStore
from limiter.outage import Outage
from limiter.plan import MOST_PLANS, MOST_TEMPLATES_OF_CALL, Cost, Plan, remember
from limiter.policies import Policy
from limiter.prepaid import Terms
from limiter.prepaid_subjects import PrepaidSubjects

#: What happens to calls while the store does not decide, by ``on_error``.
_INSTEAD = {
    "raise": "calls raise StoreUnavailable",
    "allow": "calls are allowed (on_error=allow)",
    "deny": "calls are denied (on_error=deny)",
    "local": "this process decides about its share of each limit (on_error=local)",
}

log = logging.getLogger("limiter")


class AnyTransport(Protocol):
    """The part of a transport that a limiter's flows use."""

    @property
    def where(self) -> str:
        """The store, for messages."""

    def one_slot(self, tags: list[bytes]) -> bool:
        """Whether one script call can decide about subjects with these hash tags."""


_Transport = TypeVar("_Transport", bound=AnyTransport)


class SharedStore(Generic[_Transport]):
    """A store, with the state of all limiters that share its connections."""

    def __init__(self, transport: _Transport, timeout: float) -> None:
        self.transport = transport
        self.timeout = timeout
        """Seconds within which a call without its own deadline is decided."""
        self.local = MemoryStore()
        """The counts of ``on_error="local"``, which these limiters share as they share the store."""
        self.outage = Outage(transport.where)
        self.marks = Marks()
        """The refunds and resets of these limiters, which end cached denials."""


class Core(Generic[_Transport]):
    """All of a limiter but the round trip, which ``client`` and ``aio`` add."""

    def __init__(
        self,
        plan: Plan,
        name: str,
        store: SharedStore[_Transport],
        on_error: str,
        local_share: int,
        timeout: float,
        calls: CallCache,
        denials: DenialCache | None,
    ) -> None:
        self.plan = plan
        self.calls = calls
        #: The cached denials; None if there is no cache, or while ``now_us`` is not the store's clock.
        self.denials = denials
        self._own_denials = denials
        #: The prepaid units; None if there are none, or while ``now_us`` is not the store's clock.
        self.prepaid: PrepaidSubjects | None = None
        self._own_prepaid: PrepaidSubjects | None = None
        self.name = name
        self.store = store
        self.transport = store.transport
        self.outage = store.outage
        self.on_error = on_error
        self.timeout = timeout
        self.share = LocalShare(local_share, store.local) if on_error == "local" else None
        #: Number of settlements, refunds and releases that did not reach the store.
        self.unsettled = 0
        #: Number of leases that may have been taken, and are being released.
        self.forgetting = 0
        #: The time of every call, for tests and simulations; ``SERVER_CLOCK`` is the store's clock.
        self.now_us = SERVER_CLOCK
        self._plans: dict[object, Plan] = {}

    @classmethod
    def connect(cls, store: object, timeout: float, connect_timeout: float) -> _Transport:
        """Make the transport for a store."""
        raise NotImplementedError

    def run_beside(
        self, flow: Flow[None], interrupted: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """Run a flow in the background; return a function that ends it.

        If anything else ends the flow early, ``interrupted`` is called with the reason, unless the flow
        itself gets the error.

        Raises:
            StoreUnavailable: The flow cannot be run; it was closed.

        """
        raise NotImplementedError

    def set_time(self, now_us: int) -> None:
        """Set the time of later calls; ``SERVER_CLOCK`` is the store's clock."""
        self.now_us = now_us
        self.denials = self._own_denials if now_us == SERVER_CLOCK else None
        self.prepaid = self._own_prepaid if now_us == SERVER_CLOCK else None

    def new_turn(self) -> Any:
        """What a caller holds while it takes prepaid units of one subject, before the first does."""

    @property
    def lines(self) -> Lines:
        """The lines in which callers wait: of all threads, or of all tasks of the running event loop."""
        raise NotImplementedError

    def new_waiter(self, deadline: float) -> Waiter:
        """A caller that may have to wait, until its deadline."""
        raise NotImplementedError

    def prepay(self, terms: Terms) -> PrepaidSubjects:
        """Take units in advance from now on."""
        self.prepaid = self._own_prepaid = PrepaidSubjects(self, terms, self.new_turn)
        return self.prepaid

    def ended(self, call: Call) -> None:
        """Note the end of a call, whether it failed or not; a failed one may have run, too."""
        mode, record_ms = call.template.mode, call.template.record_ms
        # By a record, a settlement may also refund.
        if mode in GIVING_BACK or (mode == "settle" and record_ms is not None):
            self.store.marks.renew(call.keys)
            self.lines.wake(call.keys)
        elif mode == "release":
            self.lines.wake(call.keys)

    # --- plans ---

    def plan_for(self, limits: Limits | None) -> Plan:
        """The plan of a call, with the numbers of ``limits`` if there are any.

        Raises:
            InvalidPolicy: ``limits`` differs from ours in more than numbers.

        """
        if limits is None:
            return self.plan
        if not isinstance(limits, (str, Policy)):
            limits = policies_of(limits)
        plan = self._plans.get(limits)
        if plan is None:
            own = self.plan
            policies = self._renumbered(limits)
            plan = Plan(policies, own.keys, own.join, own.cap, MOST_TEMPLATES_OF_CALL)
            remember(self._plans, limits, plan, MOST_PLANS)
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
            f"expected those of {list(own)} with other numbers, "
            f"since algorithm, period and name decide which state is used",
        )

    # --- one decision ---

    def hit_call(
        self, plan: Plan, key: Key, cost: Cost, at_least: int | None, tag: Key | None
    ) -> Call:
        """Return the call of a hit, a kept one if possible."""
        if (
            plan is self.plan
            and at_least is None
            and tag is None
            and type(key) is str
            and type(cost) is int
        ):
            return self.calls[key, cost, self.now_us]
        return plan.call("hit", key, cost, at_least, tag, self.now_us)

    def _spend(self, plan: Plan, key: Key, cost: Cost, tag: Key | None) -> Decision | None:
        """Spend prepaid units, if they are for this hit and enough of them are here."""
        if (
            self.prepaid is not None
            and plan is self.plan
            and tag is None
            and type(key) is str
            and type(cost) is int
        ):
            return self.prepaid.spend(key, cost)
        return None

    def ask_flow(
        self, plan: Plan, mode: str, key: Key, cost: Cost, tag: Key | None = None, lease: str = ""
    ) -> Flow[Decision]:
        """Decide in one round trip, or by ``on_error`` if the store does not decide."""
        try:
            if mode == "hit":
                spent = self._spend(plan, key, cost, tag)
                if spent is not None:
                    if spent.remaining % PAUSE_EVERY < spent.granted:
                        yield Pause(0.0)
                    return spent
                call = self.hit_call(plan, key, cost, None, tag)
                kind, reply = yield from hit_flow(self.denials, call)
                return kind(plan.policies, reply)
            call = plan.call(mode, key, cost, None, tag, self.now_us, lease)
            reply = yield Ask(call)
            prepaid = self.prepaid if mode == "peek" and plan is self.plan and tag is None else None
            if prepaid is not None and type(cost) is int:
                reply = prepaid.with_own(key, cost, reply)
            return Decision(plan.policies, reply)
        except StoreUnavailable as error:
            return self.fallback(error, plan, mode, key, cost, None, tag, lease)

    def reset_flow(self, key: Key, limits: Limits | None, tag: Key | None) -> Flow[Decision]:
        """As ``Limiter.reset``."""
        plan = self.plan_for(limits)
        call = plan.call("reset", key, 1, None, tag, self.now_us)
        prepaid = self.prepaid if tag is None else None
        if prepaid is None:
            return Decision(plan.policies, (yield Ask(call)))
        prepaid.drop(key)
        try:
            return Decision(plan.policies, (yield Ask(call)))
        finally:
            prepaid.drop(
                key
            )  # again: the store may have forgotten the charge of units taken meanwhile

    def refund_flow(
        self, key: Key, cost: Cost, limits: Limits | None, tag: Key | None
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
        cost: Cost,
        tag: Key | None,
        lease: str = "",
        degraded: bool = False,
        deadline: float | None = None,
    ) -> Flow[bool]:
        """Renew, release, refund or settle where the call was decided; return whether all of it applied."""
        if not degraded:
            call = plan.call(mode, key, cost, None, tag, self.now_us, lease)
            reply = yield Ask(call, deadline)
            return tuple(reply[0:-1:STRIDE]) == plan.each_cost(cost)
        if self.share is None:  # the fallback counted nothing
            return True
        return self.share.change(plan, mode, key, cost, tag, self.now_us, lease)

    def wait_flow(
        self, key: Key, cost: Cost, timeout: float | None, limits: Limits | None, tag: Key | None
    ) -> Flow[Decision]:
        """As ``Limiter.wait``."""
        timeout = settings.check_wait(timeout)
        waiter = self.new_waiter(inf if timeout is None else monotonic() + timeout)
        plan = self.plan_for(limits)
        plan.check_mode("hit")

        def try_flow() -> Flow[Decision]:
            return self.ask_flow(plan, "hit", key, cost, tag)

        decision = yield from line_flow(self, waiter, plan, key, cost, tag, try_flow)
        if decision.delay:
            yield Pause(decision.delay)
        return decision

    # --- without the store ---

    def fallback(
        self,
        error: StoreUnavailable,
        plan: Plan,
        mode: str,
        key: Key,
        cost: Cost,
        at_least: int | None,
        tag: Key | None,
        lease: str = "",
    ) -> Decision:
        """Decide by ``on_error``, after the store did not."""
        if self.on_error == "raise":
            raise error
        if self.share is None:
            return self.without_store(plan)
        return self.share.decide(plan, mode, key, cost, at_least, tag, self.now_us, lease)

    def without_store(self, plan: Plan) -> Decision:
        """Decide by ``on_error`` without any counts."""
        return Decision.without_store(plan.policies, allowed=self.on_error == "allow")

    def note(self, error: LimiterError) -> None:
        """Note a failed call; if the store is unavailable, log the beginning of the outage."""
        if isinstance(error, StoreUnavailable):
            self.outage.failed(error, _INSTEAD[self.on_error])

    def not_opened(self, error: StoreUnavailable) -> None:
        """Handle a failed opening in a ``with``: raise the error, or let the calls follow ``on_error``."""
        if self.on_error == "raise":
            raise error
        self.note(error)

    def not_settled(self, what: str, error: LimiterError) -> None:
        """Log and count a change that did not reach the store; the state stays until its key expires."""
        self.unsettled += 1
        text = "%s of limiter %s did not reach the store: %s"
        log_seldom(log, logging.WARNING, text, what, self.name, error, kind=(what, self.name))

    def cut_off(self, what: str, process: int, why: str = "it was interrupted") -> None:
        """Count a change whose flow was closed; in the child of a fork, the parent's flow goes on."""
        if process == os.getpid():
            self.not_settled(what, StoreUnavailable(why))

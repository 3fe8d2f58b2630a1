"""A reservation: a cost taken in advance, and settled when the true cost is known."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from limiter.core import Core
from limiter.decision import RateLimited
from limiter.entered import Entered
from limiter.errors import InvalidCost, InvalidSetting, LimiterError, StoreUnavailable, shown
from limiter.flows import Ask, Flow
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.plan import JointCall, Part, Plan

_Own = TypeVar("_Own", bound="ReservedCost")


class ReservedCost(Entered):
    """A cost taken in advance.

    Attributes:
        decision: The decision of the call that took the cost.
        settled: Whether the true cost was settled.

    """

    def __init__(self, core: Core[Any], plan: Plan, key: Key, cost: int, tag: Key | None) -> None:
        super().__init__()
        self.settled = False
        self._core = core
        self._plan = plan
        self._key = key
        self._cost = cost
        self._tag = tag

    @classmethod
    def for_call(
        cls: type[_Own],
        core: Core[Any],
        key: Key,
        cost: int,
        limits: Limits | None,
        tag: Key | None,
    ) -> _Own:
        """Check the arguments of ``Limiter.reserve``, and make its reservation; nothing is taken yet."""
        plan = core.plan_for(limits)
        plan.check_mode("hit")
        cost = plan.checked_whole(cost, least=1)
        plan.state(key, tag)
        return cls(core, plan, key, cost, tag)

    def reserve_flow(self) -> Flow[None]:
        """Take the cost."""
        ask = self._core.ask_flow(self._plan, "hit", self._key, self._cost, self._tag)
        decision = yield from ask
        if not decision.allowed:
            raise RateLimited(decision)
        self.decision = decision
        self.settled = False
        self._process = os.getpid()

    def settle_flow(self, actual: int) -> Flow[None]:
        """Refund the unused part of the cost, or charge the excess, once."""
        if isinstance(actual, bool) or not isinstance(actual, int) or actual < 0:
            raise InvalidCost.of("actual", shown(actual), "accepted is a whole number from 0")
        if not hasattr(self, "decision"):
            raise InvalidSetting("nothing is reserved yet: settle in the body of the with")
        if self.settled:
            return
        self.settled = True
        mode = "refund" if actual < self._cost else "settle"
        cost = abs(actual - self._cost)
        if cost == 0:
            return
        core, plan, degraded = self._core, self._plan, self.decision.degraded
        try:
            if cost > plan.most_cost and not degraded:
                yield from self._charge_flow(cost)
            else:
                yield from core.change_flow(
                    plan, mode, self._key, cost, self._tag, degraded=degraded
                )
        except LimiterError as error:
            core.not_settled("a settlement", error)
        except GeneratorExit:
            core.not_settled("a settlement", StoreUnavailable("it was interrupted"))
            raise

    def _charge_flow(self, cost: int) -> Flow[None]:
        """Charge more than one call may cost, even without room: each policy as far as its debt may go."""
        plan = self._plan
        parts: list[Any] = [
            Part(Plan((policy,), plan.keys), self._key, cost) for policy in plan.policies
        ]
        while parts:
            charges = [part._replace(cost=min(part.cost, part.plan.most_cost)) for part in parts]
            joint = JointCall(charges, self._tag)
            replies = joint.split((yield Ask(joint.call("settle", self._core.now_us))))
            parts = [
                part._replace(cost=part.cost - charge.cost)
                for part, charge, reply in zip(parts, charges, replies, strict=True)
                if reply[0] == charge.cost < part.cost
            ]

"""``on_error="local"``: if the store does not decide, this process does, by its share of each limit."""

from __future__ import annotations

from collections.abc import Sequence

from limiter.call import STRIDE, Call
from limiter.decision import Decision, MarkedDecision
from limiter.errors import InvalidCost
from limiter.keys import Key
from limiter.memory import MemoryStore
from limiter.plan import MOST_PLANS, Cost, JointCall, Part, Plan, remember


class LocalShare:
    """A limiter's part of each limit, of ``share`` equal parts, decided in this process."""

    def __init__(self, share: int, store: MemoryStore) -> None:
        self._share = share
        self.store = store
        self._plans: dict[Plan, Plan] = {}

    def decide(
        self,
        plan: Plan,
        mode: str,
        key: Key,
        cost: Cost,
        at_least: int | None,
        tag: Key | None,
        now_us: int,
        lease: str,
    ) -> Decision:
        """Decide by the local share; a cost above it is denied."""
        own = self.plan(plan)
        if type(cost) is int and at_least is not None and at_least <= own.most_cost:
            cost = min(cost, own.most_cost)
        try:
            call = own.call(mode, key, cost, at_least, tag, now_us, lease)
        except InvalidCost:  # the store's limits admit this cost
            return Decision.without_store(own.policies, allowed=False)
        return MarkedDecision(own.policies, self.store.run(call), degraded=True)

    def change(
        self,
        plan: Plan,
        mode: str,
        key: Key,
        cost: Cost,
        tag: Key | None,
        now_us: int,
        lease: str = "",
    ) -> bool:
        """Renew, release or settle a local decision; return whether all of its cost was still there.

        A settlement may be larger than any call: each policy charges as much as its debt may be.
        """
        own = self.plan(plan)
        if mode != "settle":
            cost = own.capped(cost)
        state, _ = own.state(key, tag)
        template = own.template(mode, cost, cost, now_us, lease)
        reply = self.store.run(Call(template, own.keys_of(state)))
        return tuple(reply[0:-1:STRIDE]) == own.each_cost(cost)

    def part(self, part: Part) -> Part:
        """The same part with the local share of its numbers."""
        plan = self.plan(part.plan)
        return part._replace(plan=plan, cost=plan.capped(part.cost) if plan.cap else part.cost)

    def plan(self, plan: Plan) -> Plan:
        """The same plan with the local share of its numbers."""
        local_plan = self._plans.get(plan)
        if local_plan is None:
            shared = tuple(policy.shared(self._share) for policy in plan.policies)
            local_plan = Plan(shared, plan.keys, cap=plan.cap, most_templates=plan.most_templates)
            remember(self._plans, plan, local_plan, MOST_PLANS)
        return local_plan


def decide_shares(
    shares: Sequence[LocalShare],
    parts: Sequence[Part],
    tag: Key | None,
    now_us: int,
    mode: str = "hit",
    lease: str = "",
) -> list[Decision]:
    """Decide each part by its local share; the shares have one store, and all are charged or none."""
    own = [share.part(part) for share, part in zip(shares, parts, strict=True)]
    fits = [part.cost == part.plan.capped(part.cost) for part in own]
    decisions = [Decision.without_store(part.plan.policies, allowed=False) for part in own]
    if any(not (fit or part.shadow) for fit, part in zip(fits, own, strict=True)):
        return decisions
    fitting = [place for place, fit in enumerate(fits) if fit]
    if fitting:
        joint = JointCall([own[place] for place in fitting], tag)
        replies = joint.split(shares[0].store.run(joint.call(mode, now_us, lease)))
        for place, reply in zip(fitting, replies, strict=True):
            decisions[place] = MarkedDecision(own[place].plan.policies, reply, degraded=True)
    return decisions

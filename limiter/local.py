"""``on_error="local"``: while the store is away, this process decides by its share of each limit."""

from __future__ import annotations

from collections.abc import Sequence

from limiter.call import STRIDE, Call
from limiter.decision import Decision
from limiter.keys import Key
from limiter.memory import MemoryStore
from limiter.plan import JointCall, Part, Plan, remember


class LocalShare:
    """One of ``share`` equal parts of every quota, decided here while the store does not decide."""

    def __init__(self, share: int, store: MemoryStore) -> None:
        self._share = share
        self.store = store
        self._plans: dict[Plan, Plan] = {}

    def decide(
        self,
        plan: Plan,
        mode: str,
        key: Key,
        cost: int,
        at_least: int | None,
        tag: Key | None,
        now_us: int,
        lease: str,
    ) -> Decision:
        """What this part of the quota says; a cost above it is denied."""
        own = self.plan(plan)
        if cost > own.most_cost:
            if at_least is None or at_least > own.most_cost:
                return Decision.without_store(own.policies, allowed=False)
            cost = own.most_cost
        call = own.call(mode, key, cost, at_least, tag, now_us, lease)
        return Decision(own.policies, self.store.run(call), degraded=True)

    def change(
        self,
        plan: Plan,
        mode: str,
        key: Key,
        cost: int,
        tag: Key | None,
        now_us: int,
        lease: str = "",
    ) -> bool:
        """Renew, release or settle what was decided here; whether all of it was still there.

        A settlement may be larger than any call: each policy takes of it what its debt may be.
        """
        own = self.plan(plan)
        if mode != "settle":
            cost = min(cost, own.most_cost)
        state, _ = own.state(key, tag)
        template = own.template(mode, cost, cost, now_us, lease)
        reply = self.store.run(Call(template, own.keys_of(state)))
        return bool(min(reply[0:-1:STRIDE]) == cost)

    def plan(self, plan: Plan) -> Plan:
        """The same plan with this part of its numbers."""
        found = self._plans.get(plan)
        if found is None:
            shared = tuple(policy.shared(self._share) for policy in plan.policies)
            found = Plan(shared, plan.keys)
            remember(self._plans, plan, found)
        return found


def decide_shares(
    shares: Sequence[LocalShare],
    parts: Sequence[Part],
    tag: Key | None,
    now_us: int,
    mode: str = "hit",
    lease: str = "",
) -> list[Decision]:
    """Each part by its share of the quota; the shares have one store, and all are charged or none."""
    own = [
        part._replace(plan=share.plan(part.plan)) for share, part in zip(shares, parts, strict=True)
    ]
    fits = [part.cost <= part.plan.most_cost for part in own]
    decisions = [Decision.without_store(part.plan.policies, allowed=False) for part in own]
    if any(not (fit or part.shadow) for fit, part in zip(fits, own, strict=True)):
        return decisions
    asked = [place for place, fit in enumerate(fits) if fit]
    if asked:
        joint = JointCall([own[place] for place in asked], tag)
        replies = joint.split(shares[0].store.run(joint.call(mode, now_us, lease)))
        for place, reply in zip(asked, replies, strict=True):
            decisions[place] = Decision(own[place].plan.policies, reply, degraded=True)
    return decisions

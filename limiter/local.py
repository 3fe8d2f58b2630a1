"""Decisions in this process: ``memory://``, and ``on_error="local"`` while the store is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from limiter.decision import STRIDE, Decision
from limiter.keys import Key, KeySpeller
from limiter.memory import MemoryStore
from limiter.plan import SERVER_CLOCK, Part, Plan, Together, own_suffix, suffixes
from limiter.policies import Policy
from limiter.question import Block, Question
from limiter.scripts import Script

_Numbers = TypeVar("_Numbers")
_Plan = TypeVar("_Plan", bound=Plan)

#: So many sets of numbers (``limits=`` at call time) are kept prepared.
_PLANS_KEPT = 256


class LocalPlan(Plan):
    """A plan whose calls are questions to a store in this process."""

    def __init__(self, policies: tuple[Policy, ...], keys: KeySpeller) -> None:
        super().__init__(policies, keys)
        self._suffixes = suffixes(policies)
        self._places = [(policy, self._suffixes.index(own_suffix(policy))) for policy in policies]

    def call(
        self,
        mode: str,
        key: Key,
        cost: int = 0,
        at_least: int | None = None,
        tag: Key | None = None,
        now_us: int = SERVER_CLOCK,
        lease: str = "",
    ) -> Question:
        """As ``Plan.call``."""
        self.check_mode(mode)
        cost, wanted = self.checked(cost, at_least)
        enough = wanted if wanted != cost else 0
        return self.question(mode, enough, now_us, key, tag, cost, lease)

    def question(
        self,
        mode: str,
        at_least: int,
        now_us: int,
        key: Key,
        tag: Key | None,
        cost: int,
        lease: str = "",
    ) -> Question:
        """As ``call``, of any cost."""
        state, _ = self.keys.state(key, tag)
        keys = tuple(state + suffix for suffix in self._suffixes)
        return Question(mode, at_least, now_us, keys, self.blocks(cost, 0, lease))

    def blocks(self, cost: int, before: int, lease: str, shadow: bool = False) -> tuple[Block, ...]:
        """What is asked of each policy, where ``before`` keys stand before ours."""
        return tuple(
            Block(policy, before + place, cost, shadow, lease) for policy, place in self._places
        )

    def read(self, reply: object) -> list[int]:
        """The reply, which nobody else can have written."""
        return reply  # type: ignore[return-value]


class LocalTogether(Together):
    """As ``Together``, as a question to a store in this process."""

    def call(self, mode: str, now_us: int, lease: str = "") -> Question:
        """The one call."""
        keys: list[bytes] = []
        blocks: list[Block] = []
        for part, (state, _) in zip(self.parts, self.states, strict=True):
            suffixes_ = suffixes(part.plan.policies)
            plan: Any = part.plan
            blocks += plan.blocks(part.cost, len(keys), lease, part.shadow)
            keys += [state + suffix for suffix in suffixes_]
        return Question(mode, 0, now_us, tuple(keys), tuple(blocks))


class MemoryTransport:
    """Takes a question to a store in this process; there is nothing to wait for."""

    where = "memory://"

    def __init__(self, store: MemoryStore | None = None) -> None:
        self._store = MemoryStore() if store is None else store

    def run(self, call: Question, deadline: float | None = None) -> list[int]:
        """The reply, as a script would give it."""
        return self._store.run(call)

    def clear(self) -> None:
        """Forget every subject."""
        self._store.clear()

    def load(self, script: Script) -> None:
        """There is no script to load."""

    def close(self) -> None:
        """There is no connection to close; the state stays."""

    def one_slot(self, tags: Sequence[bytes]) -> bool:
        """Whether subjects with these hash tags can be decided in one call."""
        return True


class AsyncMemoryTransport:
    """The same for a coroutine."""

    where = MemoryTransport.where

    def __init__(self) -> None:
        self._inner = MemoryTransport()
        self.one_slot = self._inner.one_slot
        self.clear = self._inner.clear

    async def run(self, call: Question, deadline: float | None = None) -> list[int]:
        """As ``MemoryTransport.run``."""
        return self._inner.run(call, deadline)

    async def load(self, script: Script) -> None:
        """There is no script to load."""

    async def close(self) -> None:
        """There is no connection to close; the state stays."""


class Share:
    """One of ``share`` equal parts of every quota, decided here while the store does not decide."""

    def __init__(self, share: int, store: MemoryStore | None = None) -> None:
        self._share = share
        self._store = MemoryStore() if store is None else store
        self._plans: dict[Plan, LocalPlan] = {}

    def decide(self, plan: Plan, mode: str, key: Key, **more: Any) -> Decision:
        """What this part of the quota says; a cost above it is denied."""
        own = self._plan(plan)
        cost, at_least = more.pop("cost"), more.pop("at_least", None)
        if cost > own.most_cost:
            if at_least is None or at_least > own.most_cost:
                return Decision.without_store(own.policies, allowed=False)
            cost = own.most_cost
        question = own.call(mode, key, cost, at_least, **more)
        return Decision(own.policies, self._store.run(question), degraded=True)

    def decide_all(
        self,
        parts: Sequence[Part],
        tag: Key | None,
        now_us: int,
        mode: str = "hit",
        lease: str = "",
    ) -> list[Decision]:
        """The same for several subjects, all of them charged or none."""
        return decide_shares([self] * len(parts), parts, tag, now_us, mode, lease)

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
        own = self._plan(plan)
        if mode != "settle":
            cost = min(cost, own.most_cost)
        reply = self._store.run(own.question(mode, 0, now_us, key, tag, cost, lease))
        return bool(min(reply[0:-1:STRIDE]) == cost)

    def _plan(self, plan: Plan) -> LocalPlan:
        found = self._plans.get(plan)
        if found is None:
            shared = tuple(policy.shared(self._share) for policy in plan.policies)
            found = LocalPlan(shared, plan.keys)
            remember(self._plans, plan, found)
        return found


def decide_shares(
    shares: Sequence[Share],
    parts: Sequence[Part],
    tag: Key | None,
    now_us: int,
    mode: str = "hit",
    lease: str = "",
) -> list[Decision]:
    """Each part by its share of the quota; the shares have one store, and all are charged or none."""
    own = [
        part._replace(plan=share._plan(part.plan))
        for share, part in zip(shares, parts, strict=True)
    ]
    fits = [part.cost <= part.plan.most_cost for part in own]
    decisions = [Decision.without_store(part.plan.policies, allowed=False) for part in own]
    if any(not (fit or part.shadow) for fit, part in zip(fits, own, strict=True)):
        return decisions
    asked = [place for place, fit in enumerate(fits) if fit]
    if asked:
        group = LocalTogether([own[place] for place in asked], tag)
        replies = group.read(shares[0]._store.run(group.call(mode, now_us, lease)))
        for place, reply in zip(asked, replies, strict=True):
            decisions[place] = Decision(own[place].plan.policies, reply, degraded=True)
    return decisions


def remember(plans: dict[_Numbers, _Plan], numbers: _Numbers, plan: _Plan) -> None:
    """Keep the plan of a call's own numbers prepared; where there are too many, they are made anew."""
    if len(plans) >= _PLANS_KEPT:
        plans.clear()
    plans[numbers] = plan

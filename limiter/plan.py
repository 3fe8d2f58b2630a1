"""Prepare calls: all that is known before the key and the cost, and calls made from it. It does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import inf
from typing import NamedTuple, TypeVar

from limiter.call import SERVER_CLOCK, STRIDE, Block, Call, CallTemplate, Reply
from limiter.errors import InvalidCost, InvalidPolicy, shown
from limiter.keys import Key, KeySpeller
from limiter.policies import Policy

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")

#: What a call costs: units of each policy, the same number for all, or a number for each in their order.
Cost = int | tuple[int, ...]

#: The most templates kept for a limiter's plan, and for each plan of a call's own limits.
_MOST_TEMPLATES = 256
MOST_TEMPLATES_OF_CALL = 32
#: The most plans kept for a limiter: subjects with limits of their own may all call at once.
MOST_PLANS = 4096


class Plan:
    """A limiter's policies and keys, with the call templates prepared from them."""

    def __init__(
        self,
        policies: tuple[Policy, ...],
        keys: KeySpeller,
        join: bool = False,
        cap: bool = False,
        most_templates: int = _MOST_TEMPLATES,
    ) -> None:
        if not policies:
            raise InvalidPolicy("limits are empty: expected at least one policy")
        fields = [policy.field for policy in policies]
        for policy in policies:
            if fields.count(policy.field) > 1:
                raise InvalidPolicy(
                    f"two policies of one limiter are {policy}: they would share their state; "
                    f"leave one out, or name one of them (name=...)"
                )
        self.policies = policies
        self.leases = tuple(policy for policy in policies if policy.leases)
        self.most_cost = min(policy.most_cost for policy in policies)
        self.keys = keys
        self.join = join
        """Whether a transport may join equal hits."""
        self.cap = cap and not self.leases
        """Whether a cost above a limit takes all of that limit; a lease always takes its whole cost."""
        #: A queue's delay differs from hit to hit by a fraction that no reply has; a lease has its own id.
        self._joins = join and not any(policy.queues or policy.leases for policy in policies)
        self._suffixes = suffixes(policies)
        self._places = [(policy, self._suffixes.index(own_suffix(policy))) for policy in policies]
        #: Prepared templates by mode, cost and at_least; those of joint calls by their parts.
        self.templates: dict[object, CallTemplate] = {}
        self.most_templates = most_templates

    @property
    def example_key(self) -> bytes:
        """A key such as the limiter's subjects have, to check rights with."""
        return self.keys.state("rights")[0]

    @cached_property
    def of_rates(self) -> Plan | None:
        """The plan of the rates alone, which are refunded while leases are released; None without rates."""
        rates = tuple(policy for policy in self.policies if not policy.leases)
        if len(rates) == len(self.policies):
            return self
        return Plan(rates, self.keys, most_templates=self.most_templates) if rates else None

    @cached_property
    def of_leases(self) -> Plan:
        """The plan of the leases alone, which are renewed and released without the rates."""
        return self if len(self.leases) == len(self.policies) else Plan(self.leases, self.keys)

    def call(
        self,
        mode: str,
        key: Key,
        cost: Cost = 0,
        at_least: int | None = None,
        tag: Key | None = None,
        now_us: int = SERVER_CLOCK,
        lease: str = "",
        hold_us: int = 0,
    ) -> Call:
        """Make a call of the ``mode`` for the subject ``key``; ``lease`` is the id of a lease.

        ``hold_us`` is how long units that the call takes in advance may be used.

        Raises:
            InvalidCost: ``cost`` could never pass, or ``at_least`` is not in 1 to ``cost``.
            InvalidKey: ``key`` or ``tag`` is empty, or of a wrong type.
            InvalidPolicy: The mode is not for these policies.

        """
        wanted: Cost
        if at_least is None and type(cost) is int and 0 <= cost <= self.most_cost:
            wanted = cost
        else:
            cost, wanted = self.checked(cost, at_least)
        state, tag_bytes = self.keys.state(key, tag)
        template = None
        if now_us == SERVER_CLOCK and not lease:
            template = self.templates.get((mode, cost, wanted, hold_us))
        if template is None:
            self.check_mode(mode)
            template = self.template(mode, cost, wanted, now_us, lease, hold_us)
            if now_us == SERVER_CLOCK and not lease:
                name = mode, cost, wanted, hold_us
                remember(self.templates, name, template, self.most_templates)
        return Call(template, self.keys_of(state), tag_bytes)

    def template(
        self, mode: str, cost: Cost, at_least: Cost, now_us: int, lease: str, hold_us: int = 0
    ) -> CallTemplate:
        """Make the template of a call, without checks of the cost and the mode."""
        blocks = self.blocks(cost, 0, lease)
        partial = at_least if type(at_least) is int and at_least != cost else 0
        joinable = self._joins and mode == "hit" and type(cost) is int and cost > 0 and not partial
        return CallTemplate(mode, partial, now_us, blocks, joinable=joinable, hold_us=hold_us)

    def blocks(
        self, cost: Cost, before: int, lease: str, shadow: bool = False
    ) -> tuple[Block, ...]:
        """The block of each policy; ``before`` is the number of keys of other plans in the same call."""
        return tuple(
            Block(policy, before + place, each, shadow, lease)
            for (policy, place), each in zip(self._places, self.each_cost(cost), strict=True)
        )

    def each_cost(self, cost: Cost) -> tuple[int, ...]:
        """The cost for each policy."""
        return cost if isinstance(cost, tuple) else (cost,) * len(self.policies)

    def capped(self, cost: Cost) -> Cost:
        """The cost, or of each policy the most that one call may take."""
        if type(cost) is int and cost <= self.most_cost:
            return cost
        costs = zip(self.each_cost(cost), self.policies, strict=True)
        return even([min(each, policy.most_cost) for each, policy in costs])

    def keys_of(self, state: bytes) -> tuple[bytes, ...]:
        """The keys of a call for the subject whose key begins with ``state``."""
        if len(self._suffixes) == 1:
            return (state + self._suffixes[0],)
        return tuple([state + suffix for suffix in self._suffixes])

    def checked(self, cost: Cost, at_least: int | None = None, least: int = 0) -> tuple[Cost, Cost]:
        """Check and return the cost, and the least that is enough.

        Raises:
            InvalidCost: ``cost`` could never pass, or ``at_least`` is not in 1 to ``cost``.

        """
        if isinstance(cost, tuple) and not self.leases and at_least is None:
            cost = self._checked_each(cost, least)
            return cost, cost
        units = whole("cost", cost, least) if self.cap else self.checked_whole(cost, least)
        if at_least is None:
            cost = self.capped(units)
            return cost, cost
        # Every policy grants the same number, which is never more than the smallest limit.
        at_least = whole("at_least", at_least, 1, units, "the cost")
        return min(units, self.most_cost), min(at_least, self.most_cost)

    def checked_whole(self, cost: object, least: int = 0) -> int:
        """Check and return a cost that is the same for each policy, and is not capped.

        Raises:
            InvalidCost: The cost could never pass.

        """
        which = "the most that these limits ever admit at once"
        return whole("cost", cost, least, self.most_cost, which)

    def _checked_each(self, costs: tuple[int, ...], least: int) -> Cost:
        """Check and return costs that differ."""
        if len(costs) != len(self.policies):
            raise InvalidCost.of(
                "cost",
                shown(costs),
                f"expected a whole number, or a tuple of {len(self.policies)} in the order of the "
                f"limits, which are {list(self.policies)}",
            )
        checked = []
        for place, (cost, policy) in enumerate(zip(costs, self.policies, strict=True)):
            most = inf if self.cap else policy.most_cost
            which = f"the most that {policy} ever admits at once"
            checked.append(whole(f"cost[{place}]", cost, least, most, which))
        return self.capped(even(checked))

    def state(self, key: Key, tag: Key | None = None) -> tuple[bytes, bytes]:
        """The subject's key, and the tag that decides its slot.

        Raises:
            InvalidKey: ``key`` or ``tag`` is empty, or of a wrong type.

        """
        return self.keys.state(key, tag)

    def check_mode(self, mode: str) -> None:
        """Check that the mode is for these policies.

        Raises:
            InvalidPolicy: It is not; the message says which call to use.

        """
        if self.leases and mode in ("hit", "refund", "settle"):
            raise InvalidPolicy(
                f"{self.leases[0]} counts leases, not units: use hold, which takes a lease, charges "
                f"the other limits, and releases the lease"
            )
        if not self.leases and mode == "acquire":
            raise InvalidPolicy(
                f"hold needs a Concurrency policy among the limits, which are {list(self.policies)}: "
                f"use hit"
            )


class Part(NamedTuple):
    """One subject's part of a call for several subjects."""

    plan: Plan
    key: Key
    cost: Cost
    shadow: bool = False
    """Whether the part is in shadow mode: it counts, and never denies."""

    def rates(self, costs: Sequence[int]) -> Part | None:
        """The part of the rates alone, at ``costs`` of all policies; None if it is without cost."""
        if not any(costs):
            return None
        plan, policies = self.plan.of_rates, self.plan.policies
        of_rates = [cost for cost, policy in zip(costs, policies, strict=True) if not policy.leases]
        if plan is None or not any(of_rates):
            return None
        return Part(plan, self.key, even(of_rates))


class JointCall:
    """Several subjects in one call: all of them are charged, or none."""

    def __init__(self, parts: Sequence[Part], tag: Key | None) -> None:
        self._parts = parts
        self._states = [part.plan.state(part.key, tag) for part in parts]

    @property
    def tags(self) -> list[bytes]:
        """The hash tag of each subject, which decides its slot."""
        return [tag for _, tag in self._states]

    def call(self, mode: str, now_us: int = SERVER_CLOCK, lease: str = "") -> Call:
        """Make the joint call; ``tags`` must lie in one slot."""
        keys: list[bytes] = []
        for part, (state, _) in zip(self._parts, self._states, strict=True):
            keys += part.plan.keys_of(state)
        return Call(self._template(mode, now_us, lease), tuple(keys), self._states[0][1])

    def split(self, reply: Reply) -> list[Reply]:
        """Split the reply into one for each subject, in the form of a call for that subject alone."""
        replies: list[Reply] = []
        start = 0
        for part in self._parts:
            end = start + STRIDE * len(part.plan.policies)
            replies.append([*reply[start:end], reply[-1]])
            start = end
        return replies

    def _template(self, mode: str, now_us: int, lease: str) -> CallTemplate:
        if now_us != SERVER_CLOCK or lease:
            return self._make_template(mode, now_us, lease)
        plan = self._parts[0].plan
        name = (mode, *[(part.plan, part.cost, part.shadow) for part in self._parts])
        template = plan.templates.get(name)
        if template is None:
            template = self._make_template(mode, now_us, lease)
            remember(plan.templates, name, template, plan.most_templates)
        return template

    def _make_template(self, mode: str, now_us: int, lease: str) -> CallTemplate:
        blocks: list[Block] = []
        before = 0
        for part in self._parts:
            blocks += part.plan.blocks(part.cost, before, lease, part.shadow)
            before += len(suffixes(part.plan.policies))
        return CallTemplate(mode, 0, now_us, tuple(blocks))


def own_suffix(policy: Policy) -> bytes:
    """The end of the policy's key after the subject's; empty if its state is a field of the hash."""
    return b"" if policy.key_type == "hash" else f":{policy.field}".encode()


def suffixes(policies: tuple[Policy, ...]) -> list[bytes]:
    """The ends of a subject's keys, each once, in the order of their first use; the hash first."""
    return sorted(dict.fromkeys(map(own_suffix, policies)), key=bool)


def even(costs: Sequence[int]) -> Cost:
    """The costs of policies in their shortest form: one number if they are all the same."""
    return costs[0] if costs.count(costs[0]) == len(costs) else tuple(costs)


def whole(what: str, number: object, least: int = 0, most: float = inf, which: str = "") -> int:
    """Return the number as an int, if it is one in the range; an IntEnum is one, a bool is not."""
    if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
        return int(number)
    bound = "" if most == inf else f" to {most}, {which}"
    raise InvalidCost.of(what, shown(number), f"expected a whole number from {least}{bound}")


def remember(kept: dict[_Name, _Value], name: _Name, value: _Value, most: int) -> None:
    """Keep a prepared value; if there are too many, forget all others first."""
    if len(kept) >= most:
        kept.clear()
    kept[name] = value

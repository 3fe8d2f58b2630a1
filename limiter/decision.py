"""The result of a call, and the only decoder of a script's reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limiter.call import STRIDE, Reply
from limiter.errors import LimiterError
from limiter.policies import Policy

_SECOND = 1e6


class Decision:
    """The result of a call: allowed or denied, with the numbers. True when allowed.

    A decision is frozen, equal and hashable by value, and picklable. It keeps the script's reply, and
    computes a field when it is read. Times are seconds, exact to the microsecond.

    Example: with ``Limiter("100/minute", ...)`` the first hit of cost 3 gives allowed True, granted 3,
    remaining 97, retry_after 0.0, reset_after 60.0.
    """

    __slots__ = ("_policies", "_reply")

    degraded: bool = False
    """Whether ``on_error`` decided, since the store did not."""
    cached: bool = False
    """Whether the decision was made without a call to the store: by the denial cache, or a prepaid unit."""

    _policies: tuple[Policy, ...]
    _reply: Reply
    _part: bool = False
    """Whether it is one of the decisions in another one's ``each``."""

    def __init__(self, policies: tuple[Policy, ...], reply: Reply) -> None:
        _set_policies(self, policies)
        _set_reply(self, reply)

    @staticmethod
    def without_store(policies: tuple[Policy, ...], allowed: bool) -> Decision:
        """Build the decision of ``on_error`` ``allow`` or ``deny``, while the store does not decide."""
        return MarkedDecision(policies, (0, 0, 0 if allowed else 1_000_000, 0, 0, 0), degraded=True)

    def refunded(self) -> Decision:
        """Return this decision as if all granted units had been refunded."""
        reply = list(self._reply)
        for at in range(0, len(reply) - 1, STRIDE):
            granted = reply[at]
            reply[at : at + 2] = [0, reply[at + 1] + granted]
        return MarkedDecision(self._policies, reply, self.degraded, self._part, self.cached)

    @property
    def allowed(self) -> bool:
        """Whether every policy had room (and, for ``hit``, was charged)."""
        reply = self._reply
        return not (reply[2] if len(reply) == STRIDE + 1 else any(reply[2:-1:STRIDE]))

    def __bool__(self) -> bool:
        return not any(self._reply[2:-1:STRIDE])

    @property
    def granted(self) -> int:
        """Units taken: the cost, or with ``at_least`` a number from that to the cost; 0 when denied.

        If each policy has its own cost, it is the smallest; ``each`` has those of all policies.
        """
        return int(min(self._reply[0:-1:STRIDE]))

    @property
    def remaining(self) -> int:
        """Whole units that would pass right now: the smallest over all policies."""
        return int(min(self._reply[1:-1:STRIDE]))

    @property
    def retry_after(self) -> float:
        """Seconds until this same call would pass, if no other call spends; 0.0 when allowed."""
        return max(self._reply[2:-1:STRIDE]) / _SECOND

    @property
    def reset_after(self) -> float:
        """Seconds until every policy counts as unused: the largest over all policies."""
        return max(self._reply[3:-1:STRIDE]) / _SECOND

    @property
    def decided_at(self) -> float:
        """Time of the decision, in seconds since 1970 by the store's clock; 0.0 if nothing was counted."""
        return self._reply[-1] / _SECOND

    @property
    def delay(self) -> float:
        """Seconds to wait before going on, if a policy is a queue (leaky bucket); 0.0 when denied."""
        if not self.allowed:
            return 0.0
        delays = zip(self._policies, self._reply[4:-1:STRIDE], strict=False)
        return max((us for policy, us in delays if policy.queues), default=0) / _SECOND

    @property
    def policy(self) -> Policy:
        """The policy that decided.

        If the call is denied, the denying policy with the largest ``retry_after``, else the policy with the
        smallest ``remaining``. Of several equals, the first.
        """
        waits = self._reply[2:-1:STRIDE]
        longest = max(waits)
        if longest:
            return self._policies[waits.index(longest)]
        left = self._reply[1:-1:STRIDE]
        return self._policies[left.index(min(left))]

    @property
    def limit(self) -> int:
        """The limit of ``policy``, or its burst if it is a bucket."""
        return self.policy.capacity

    @property
    def each(self) -> tuple[Decision, ...]:
        """A decision for each policy alone, in order; empty if nothing was counted."""
        # Without the store and without a local share there are no numbers, and no time of the decision.
        if self._part or (self.degraded and not self._reply[-1]):
            return ()
        reply = self._reply
        return tuple(
            MarkedDecision(
                (policy,), (*reply[at : at + STRIDE], reply[-1]), self.degraded, True, self.cached
            )
            for policy, at in zip(self._policies, range(0, len(reply), STRIDE), strict=False)
        )

    @property
    def grants(self) -> list[int]:
        """Units taken from each policy alone, in order; empty if nothing was counted."""
        if self.degraded and not self._reply[-1]:
            return []
        return list(map(int, self._reply[0:-1:STRIDE]))

    @property
    def numbers(self) -> list[tuple[Policy, int, int, int]]:
        """Each policy with its ``remaining``, and ``retry_after`` and ``reset_after`` in microseconds.

        Empty if nothing was counted. It has the main numbers of ``each`` at a lower cost.
        """
        if self.degraded and not self._reply[-1]:
            return []
        reply = tuple(map(int, self._reply))
        if len(self._policies) == 1:
            return [(self._policies[0], reply[1], reply[2], reply[3])]
        rows = zip(self._policies, range(0, len(reply), STRIDE), strict=False)
        return [(policy, reply[at + 1], reply[at + 2], reply[at + 3]) for policy, at in rows]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, ready for JSON; ``each`` as a list of the same without ``each``."""
        fields = self._fields()
        if self._part:
            return fields
        if len(self._reply) == STRIDE + 1 and (self._reply[-1] or not self.degraded):
            each = [{**fields, "policy": fields["policy"].copy()}]  # the only policy decided
        else:
            each = [decision._fields() for decision in self.each]
        return {**fields, "each": each}

    def _fields(self) -> dict[str, Any]:
        # The properties would read the reply several times.
        reply, policy = self._reply, self.policy
        wait_us = max(reply[2:-1:STRIDE])
        return {
            "allowed": not wait_us,
            "granted": int(min(reply[0:-1:STRIDE])),
            "remaining": int(min(reply[1:-1:STRIDE])),
            "retry_after": wait_us / _SECOND,
            "reset_after": max(reply[3:-1:STRIDE]) / _SECOND,
            "delay": self.delay,
            "policy": policy.to_dict(),
            "limit": policy.capacity,
            "degraded": self.degraded,
            "cached": self.cached,
        }

    def _value(self) -> tuple[object, ...]:
        """Return what makes decisions equal: everything but the time of the decision."""
        return (self._policies, tuple(self._reply[:-1]), self.degraded, self._part, self.cached)

    def __eq__(self, other: object) -> bool:
        return self._value() == other._value() if isinstance(other, Decision) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._shown().items())
        return f"Decision({fields})"

    def _shown(self) -> dict[str, object]:
        return {**self._fields(), "policy": self.policy}

    def __reduce__(self) -> tuple[type[Decision], tuple[object, ...]]:
        return type(self), (self._policies, self._reply)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Decision is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Decision is frozen: {name} cannot be deleted")


# The slots' own setters work on a frozen object, at a third of object.__setattr__'s cost.
_set_policies = Decision.__dict__["_policies"].__set__
_set_reply = Decision.__dict__["_reply"].__set__


class CachedDecision(Decision):
    """A decision that was made without a call to the store.

    It is a class of its own, so that its field costs nothing.
    """

    __slots__ = ()

    cached = True


class PrepaidDecision(CachedDecision):
    """An allowed hit of prepaid units; the reply is made when one of its numbers is read."""

    __slots__ = ("_spent",)

    _spent: tuple[Any, int, int, float]

    def __init__(
        self, policies: tuple[Policy, ...], units: Any, cost: int, left: int, now: float
    ) -> None:
        _set_policies(self, policies)
        _set_spent(self, (units, cost, left, now))

    @property
    def left(self) -> int:
        """Prepaid units that were left after the hit."""
        return self._spent[2]

    @property
    def allowed(self) -> bool:
        """True."""
        return True

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name != "_reply":
            raise AttributeError(f"a Decision has no field {name}")
        units, cost, left, now = self._spent
        reply = units.reply_of(cost, left, now)
        _set_reply(self, reply)
        return reply

    def __reduce__(self) -> tuple[type[Decision], tuple[object, ...]]:
        return CachedDecision, (self._policies, self._reply)


_set_spent = PrepaidDecision.__dict__["_spent"].__set__


class MarkedDecision(Decision):
    """A decision of the fallback, or a part of another one.

    It is a class of its own, so that a decision of the store does without these fields.
    """

    __slots__ = ("_part", "cached", "degraded")

    def __init__(
        self,
        policies: tuple[Policy, ...],
        reply: Reply,
        degraded: bool = False,
        part: bool = False,
        cached: bool = False,
    ) -> None:
        super().__init__(policies, reply)
        object.__setattr__(self, "degraded", degraded)
        object.__setattr__(self, "_part", part)
        object.__setattr__(self, "cached", cached)

    def __reduce__(self) -> tuple[type[Decision], tuple[object, ...]]:
        fields = (self._policies, self._reply, self.degraded, self._part, self.cached)
        return MarkedDecision, fields


class RateLimited(LimiterError):
    """A call was denied; ``decision`` has the policy that denied, and ``retry_after``.

    ``decisions`` are those about all subjects of the call, in their order.
    """

    def __init__(self, decision: Decision, decisions: Sequence[Decision] = ()) -> None:
        policy = decision.policy
        super().__init__(f"denied by {policy}: retry after {decision.retry_after:.6f} s")
        self.decision = decision
        self.decisions = [*decisions] or [decision]

    def __reduce__(self) -> tuple[type[RateLimited], tuple[Decision, list[Decision]]]:
        return type(self), (self.decision, self.decisions)

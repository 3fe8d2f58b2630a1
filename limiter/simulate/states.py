"""The state of a rule's subjects in simulated time; expired state is dropped, as a server does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from limiter import units
from limiter.keys import Key
from limiter.plan import Plan, own_suffix, suffixes
from limiter.policies import Policy
from limiter.policies.step import Step
from limiter.simulate.sizes import hash_bytes, key_bytes, list_bytes

#: A server keeps a key for so long after its state has expired.
_SLACK_US = units.SECOND_US


class Usage(NamedTuple):
    """Keys, and their bytes in Redis."""

    keys: int
    bytes: int


class States:
    """The values under one key of every subject: a hash of one field or more, or a list.

    They are in two generations. When the younger one has lasted as long as any state lives after a write,
    the state in the older one has expired, and is dropped.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = tuple(policies)
        self._young: dict[Key, Any] = {}
        self._old: dict[Key, Any] = {}
        self._began_us = 0
        self._life_us = 0
        self._is_list = policies[0].key_type == "list"
        #: The only field of a hash: then its bytes are kept, and no dict, which takes more memory.
        self._field = policies[0].field if len(policies) == 1 and not self._is_list else None
        self._only: dict[str, bytes] = {}

    def read(self, subject: Key) -> Any:
        """Return the value of a subject's key, in the form that a policy's ``step`` reads; None: unused."""
        value = self._young.get(subject)
        if value is None:
            value = self._old.pop(subject, None)
            if value is None:
                return None
            self._young[subject] = value
        if self._field is None:
            return value
        self._only[self._field] = value
        return self._only

    def write(self, subject: Key, step: Step) -> None:
        """Write the state after a call; ``read`` was called for the subject before."""
        if step.reset_us > self._life_us:
            self._life_us = step.reset_us
        if self._field is not None:
            step.write(self._only)
            self._young[subject] = self._only[self._field]
            return
        value = self._young.get(subject)
        if value is None:
            value = self._young[subject] = [] if self._is_list else {}
        step.write(value)

    def is_due(self, now_us: int) -> bool:
        """Whether a generation has ended: then ``turn`` must be called."""
        return now_us >= self._began_us + self._life_us + _SLACK_US

    def turn(self, now_us: int) -> None:
        """Begin a new generation."""
        is_over = now_us >= self._began_us + 2 * (self._life_us + _SLACK_US)
        self._old = {} if is_over else self._young
        self._young = {}
        self._began_us = now_us

    def usage(self, plan: Plan, now_us: int) -> Usage:
        """Return the keys that a server would have now, and their bytes."""
        keys = size = 0
        suffix = len(own_suffix(self._policies[0]))
        for subject, state in self._live(now_us):
            keys += 1
            name = len(plan.state(subject)[0]) + suffix
            size += key_bytes(name) + (
                list_bytes(len(state)) if self._is_list else hash_bytes(state)
            )
        return Usage(keys, size)

    def _live(self, now_us: int) -> Iterator[tuple[Key, Any]]:
        before_us = max(0, now_us - _SLACK_US)
        policies, field, only = self._policies, self._field, self._only
        for values in (self._young, self._old):
            for subject, state in values.items():
                if field is not None:
                    only[field] = state
                    state = only
                for policy in policies:
                    if policy.step(state, before_us).reset_us:
                        yield subject, state
                        break


def states_of(plan: Plan) -> list[States]:
    """Return the states of a plan, one for each of its keys."""
    return [
        States([policy for policy in plan.policies if own_suffix(policy) == suffix])
        for suffix in suffixes(plan.policies)
    ]

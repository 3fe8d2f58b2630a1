"""Call a store in the process with a script's arguments, and read its state as one reads a server's."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from limiter.call import Block, Call, CallTemplate
from limiter.memory import MemoryStore
from limiter.memory.store import _Key
from limiter.policies import (
    ALGORITHMS,
    Concurrency,
    Policy,
)
from limiter.policies.concurrency import LeaseSet
from tests.scripts import argument_names

#: The expiry of a planted key that never expires.
NEVER = 2**62

#: The scripts that take any list of policies, as text.
LISTS = ("several", "reservation")

#: The algorithm that each script decides; of several, the first.
CLASSES: dict[str, type[Policy]] = {
    policy.script: policy for policy in (*reversed(ALGORITHMS.values()), Concurrency)
}


def policy_of(script: str, given: dict[str, Any]) -> Policy:
    """A policy from a script's arguments, without checks of ranges: a script takes more than a policy."""
    policy = object.__new__(CLASSES[script])
    numbers = {name: int(given[name]) for name in given if name not in ("field", "id", "mode")}
    numbers["period_us"] = numbers.get("period_us", numbers.get("lease_us", 0))
    own: dict[str, Any] = {
        "limit": numbers["limit"],
        "period_us": numbers["period_us"],
        "name": None,
    }
    own["field"] = given["field"]
    if script == "fixed_window":
        own["align"] = numbers["aligned"] == 1
    elif script == "sliding_window":
        own["unit_us"] = numbers["unit_us"]
    elif script == "token_bucket":
        own["burst"] = numbers["limit"]
        own["interval"] = (numbers["interval_us"], numbers["parts"])
    for name, value in own.items():
        policy._set(name, value)
    return policy


def call_of(
    mode: str,
    at_least: int,
    now_us: int,
    keys: tuple[bytes, ...],
    blocks: tuple[Block, ...],
    step: int = 1,
    record_ms: int | None = None,
) -> Call:
    """A call made without a plan."""
    return Call(CallTemplate(mode, at_least, now_us, blocks, step, record_ms=record_ms), keys)


def read_call(script: str, keys: Sequence[str], words: Sequence[Any]) -> Call:
    """The call for a script's arguments."""
    names = tuple(key.encode() for key in keys)
    texts = [str(word) for word in words]
    if script not in LISTS:
        # at_least and step, the last arguments, are optional.
        given = dict(zip(argument_names(script), texts, strict=False))
        at_least, step = int(given.pop("at_least", 0)), int(given.pop("step", 1))
        now_us, mode = int(given.pop("now_us")), given["mode"]
        blocks = (_block(script, 0, False, given),)
        return call_of(mode, at_least, now_us, names, blocks, step)
    now_us, mode, *own_numbers = texts[: len(argument_names(script))]
    listed, at = [], len(argument_names(script))
    while at < len(texts):
        algorithm, number, shadow = texts[at : at + 3]
        own = argument_names(algorithm)
        own = own[own.index("cost") : own.index("at_least")]
        given = dict(zip(own, texts[at + 3 :], strict=False))
        listed.append(_block(algorithm, int(number) - 1, shadow == "1", given))
        at += 3 + len(own)
    numbers = list(map(int, own_numbers))
    if script == "reservation":
        return call_of(mode, 0, int(now_us), names, tuple(listed), record_ms=numbers[0])
    return call_of(mode, numbers[0], int(now_us), names, tuple(listed), numbers[1])


def _block(script: str, key: int, shadow: bool, given: dict[str, Any]) -> Block:
    lease = given.get("id", "")
    return Block(policy_of(script, given), key, int(given["cost"]), shadow, lease)


def number(text: str | int) -> Any:
    """The number that Lua reads from an entry of a list or a score: 0 if it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return 0


def clock_us(store: MemoryStore) -> int:
    """The store's own time."""
    return store.run(call_of("peek", 0, 0, (), ()))[-1]


def plant(store: MemoryStore, name: str, kind: str, value: Any, ttl_ms: int) -> None:
    """Put a key into the store without a call; -1: it never expires."""
    key = _Key("hash", NEVER if ttl_ms == -1 else clock_us(store) + ttl_ms * 1_000)
    key.kind, key.value = kind, value
    heapq.heappush(store._heap, (key.marked_us, name.encode()))
    store._keys[name.encode()] = key


def leases(members: dict[str, int]) -> LeaseSet:
    """A set with these members."""
    made = LeaseSet()
    for member, end_us in members.items():
        made.put(member, end_us)
    return made


def look(store: MemoryStore, keys: Sequence[str]) -> dict[str, tuple[str, Any, float]]:
    """Kind, value and remaining life in milliseconds of every key that exists; -1: it never expires."""
    now_us, found = clock_us(store), {}
    for name in keys:
        key = store._keys.get(name.encode())
        if key is None or key.expires_us <= now_us:
            continue
        life_ms = -1 if key.expires_us == NEVER else (key.expires_us - now_us) / 1_000
        held = key.value.ends if key.kind == "zset" else key.value
        if isinstance(held, dict):
            held = dict(sorted(held.items()))
        if key.kind == "zset":
            assert key.value.order == sorted((end, member) for member, end in held.items())
        found[name] = (key.kind, held, life_ms)
    return found

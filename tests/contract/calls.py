"""Calls of every script, by the server's clock or a given time, to check the state that they leave."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis

from tests import model as algorithms
from tests.machines.support import NOW_US, new_key
from tests.model.base import Model, Rate
from tests.model.concurrency import LONGEST_US, Concurrency
from tests.scripts import (
    GIVEN_TIME_MS,
    IN_FEW,
    SLACK_MS,
    Caller,
    few,
    field_of,
    several,
    single,
)

#: Long enough that no state expires during a test.
PERIOD_US = 60_000_000
ALL: dict[str, type[Model]] = {**algorithms.MODELS, **algorithms.LEASES}
MODELS: dict[str, list[Model]] = {
    model.script: [model.samples(5, PERIOD_US)[0]] for model in ALL.values()
}
#: All algorithms; the lists have larger limits and longer periods than the fields of the hash.
MODELS["several"] = [
    model.samples(*((60, 10 * PERIOD_US) if model.key_type == "list" else (5, PERIOD_US)))[0]
    for model in ALL.values()
]
MODELS["few"] = [MODELS[name][0] for name in IN_FEW]
#: Each script in the form of its name, as text but for ``few``; and those of one policy packed, too.
PACKED = " packed"
FORMS = [*MODELS, *(f"{name}{PACKED}" for name in MODELS if name not in ("several", "few"))]
_callers = itertools.count()


#: How the numbers of a hash's field are packed, by its length.
LAYOUTS = {16: "<2d", 24: "<3d", 12: "<dI", 28: "<dI2d"}


class Subject(NamedTuple):
    """An unused subject under some policies, and the connection for its calls."""

    caller: Caller
    script: str
    keys: list[str]
    blocks: list[tuple[Model, int, str]]
    packed: bool

    def blocks_of(self, mode: str) -> list[tuple[Model, int, str]]:
        """Return the blocks with this mode: rates, leases, or both for ``hit``, ``peek`` and ``reset``.

        ``few`` knows no mode but ``hit``.
        """
        if self.script == "few" and mode != "hit":
            return []
        only = {
            **dict.fromkeys(("refund", "settle"), Rate),
            **dict.fromkeys(("renew", "release"), Concurrency),
        }
        return [block for block in self.blocks if isinstance(block[0], only.get(mode, Model))]

    def words(
        self, mode: str, cost: int, now_us: int = 0, at_least: int | None = None
    ) -> list[Any]:
        """Return the arguments of the form, for a new holder; a hit of leases is ``acquire``."""
        blocks, holder = self.blocks_of(mode), f"caller-{next(_callers)}"
        if mode == "hit" and any(isinstance(model, Concurrency) for model, _, _ in blocks):
            mode = "acquire"
        if self.script == "several":
            return several(blocks, now_us, mode, cost, at_least, holder)[1]
        if self.script == "few":
            return few(blocks, now_us, cost, at_least)[1]
        model, _, field = self.blocks[0]
        return single(model, now_us, mode, cost, at_least, field, holder, packed=self.packed)[1]

    def run(self, mode: str, cost: int, now_us: int = 0, at_least: int | None = None) -> list[int]:
        """Call the script."""
        return self.send(self.words(mode, cost, now_us, at_least))

    def send(self, words: Sequence[Any]) -> list[int]:
        """Call the script with any arguments."""
        return self.caller.run(self.keys, self.script, words)

    def state(self) -> list[bytes | None]:
        """Return the content of every key."""
        return self.caller.dumps(self.keys)

    def lives_ms(self) -> list[int]:
        """Return the milliseconds until each key expires."""
        return self.caller.lives_ms(self.keys)


def subject(caller: Caller, form: str, same_key: str | None = None) -> Subject:
    """Make an unused subject under the policies of a script, for calls in one form."""
    script = form.removesuffix(PACKED)
    models = MODELS[script]
    state = same_key or new_key("contract")
    keys = [state] if any(model.key_type == "hash" for model in models) else []
    blocks = []
    for model in models:
        field = field_of(model)
        if model.key_type != "hash":
            keys.append(f"{state}:{field}")
        on = len(keys) if model.key_type != "hash" else 1
        blocks.append((model, on, field))
    return Subject(caller, script, keys, blocks, form.endswith(PACKED))


def changes(client: redis.Redis) -> int:
    """Return the server's number of writes so far; it counts a write that changes nothing."""
    return int(client.info("persistence")["rdb_changes_since_last_save"])


def resets_us(tested: Subject, mode: str, reply: list[int], number: int) -> list[int]:
    """Return the reset_after_us that the reply has for the blocks on a key."""
    blocks = enumerate(tested.blocks_of(mode))
    return [reply[5 * n + 3] for n, (_, on, _) in blocks if on == number]


def check_lives(tested: Subject, mode: str, reply: list[int], given: bool) -> None:
    """Check that every key expires when the longest of its policies counts as unused, or little later."""
    for number, life_ms in enumerate(tested.lives_ms(), 1):
        resets = resets_us(tested, mode, reply, number)
        if not resets:
            continue
        least = -(-max(resets) // 1000) + (GIVEN_TIME_MS if given else 0)
        # A second passes at most between the decision and this check on a busy machine.
        assert least - 1000 <= life_ms <= least + SLACK_MS, (
            f"{life_ms} ms of {least} in {tested.keys}"
        )


def check_charge_gives_life(url: str, script: str) -> None:
    """Check that a hit that passes, and a settlement, set the expiry that each key's state needs."""
    caller = Caller(url)
    try:
        for now_us in (0, NOW_US):
            tested = subject(caller, script)
            for mode, cost in [("hit", 1), ("hit", 2), ("hit", 1), ("settle", 4)]:
                if tested.blocks_of(mode):
                    reply = tested.run(mode, cost, now_us)
                    check_lives(tested, mode, reply, given=now_us != 0)
    finally:
        caller.close()


def check_nothing_written(url: str, script: str) -> None:
    """Check that a call that takes nothing changes no byte and no expiry, and makes no write."""
    caller = Caller(url)
    try:
        for now_us in (0, NOW_US):
            tested = subject(caller, script)
            for spent in (0, 3, 2):
                if spent:
                    assert tested.run("hit", spent, now_us)[0] == spent
                before, began = tested.state(), changes(caller.client)
                lives = tested.lives_ms()
                for mode, cost in [
                    ("peek", 1),
                    ("peek", 5),
                    ("hit", 0),
                    ("refund", 0),
                    ("settle", 0),
                    ("renew", 1),
                    ("release", 1),
                    ("hit", 5) if spent else ("refund", 5),
                ]:
                    if tested.blocks_of(mode):
                        assert tested.run(mode, cost, now_us)[0] == 0
                assert tested.state() == before
                assert changes(caller.client) == began, f"{script} changed something"
                assert all(now <= then for now, then in zip(tested.lives_ms(), lives, strict=True))
    finally:
        caller.close()


def check_server_clock(url: str, script: str) -> None:
    """Check that without a given time the reply has the server's, between two readings of its clock."""
    caller = Caller(url)
    try:
        seconds, micros = caller.client.time()
        *_, now_us = subject(caller, script).run("hit", 1)
        later_seconds, later_micros = caller.client.time()
        assert seconds * 1_000_000 + micros <= now_us <= later_seconds * 1_000_000 + later_micros
    finally:
        caller.close()


def check_stored_numbers(tested: Subject) -> None:
    """Check that every stored number is whole, and at most 2^53 plus the longest lease."""
    client = tested.caller.client
    for key in tested.keys:
        kind = client.type(key)
        values: list[float] = []
        if kind == b"hash":
            for value in client.hgetall(key).values():
                values += struct.unpack(LAYOUTS[len(value)], value)
        elif kind == b"list":
            values = [float(entry) for entry in client.lrange(key, 0, -1)]
        elif kind == b"zset":
            values = [end for _, end in client.zrange(key, 0, -1, withscores=True)]
        for value in values:
            assert 0 <= value < 2**53 + LONGEST_US, f"{value} in {key}"
            assert value == int(value), f"{value} in {key}"

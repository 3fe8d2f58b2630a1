"""Calls of every script, at the server's clock or a given one, for the checks of what they leave."""

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
from tests.scripts import GIVEN_TIME_MS, SLACK_MS, Caller, field_of, several, single

#: Long enough that nothing runs out while a test looks.
PERIOD_US = 60_000_000
ALL: dict[str, type[Model]] = {**algorithms.MODELS, **algorithms.LEASES}
MODELS: dict[str, list[Model]] = {
    model.script: [model.samples(5, PERIOD_US)[0]] for model in ALL.values()
}
#: All at once; the lists have more room and last longer than what stands in the hash.
MODELS["several"] = [
    model.samples(*((60, 10 * PERIOD_US) if model.key_type == "list" else (5, PERIOD_US)))[0]
    for model in ALL.values()
]
_callers = itertools.count()


#: How the numbers of a hash's field are packed, by its length.
LAYOUTS = {16: "<2d", 24: "<3d", 12: "<dI", 28: "<dI2d"}


class Subject(NamedTuple):
    """A fresh subject under some policies, and the connection that asks about it."""

    caller: Caller
    script: str
    keys: list[str]
    blocks: list[tuple[Model, int, str]]

    def asked(self, mode: str) -> list[tuple[Model, int, str]]:
        """The blocks that know this mode: rates or leases; to take, look or forget, all of them."""
        only = {
            **dict.fromkeys(("refund", "settle"), Rate),
            **dict.fromkeys(("renew", "release"), Concurrency),
        }
        return [block for block in self.blocks if isinstance(block[0], only.get(mode, Model))]

    def words(
        self, mode: str, cost: int, now_us: int = 0, at_least: int | None = None
    ) -> list[Any]:
        """The script's arguments; whoever calls is somebody else, who takes a lease where he hits."""
        blocks, holder = self.asked(mode), f"caller-{next(_callers)}"
        if mode == "hit" and any(isinstance(model, Concurrency) for model, _, _ in blocks):
            mode = "acquire"
        if self.script == "several":
            return several(blocks, now_us, mode, cost, at_least, holder)[1]
        model, _, field = self.blocks[0]
        return single(model, now_us, mode, cost, at_least, field, holder)[1]

    def run(self, mode: str, cost: int, now_us: int = 0, at_least: int | None = None) -> list[int]:
        """Call the script."""
        return self.send(self.words(mode, cost, now_us, at_least))

    def send(self, words: Sequence[Any]) -> list[int]:
        """Call the script with whatever it is."""
        return self.caller.run(self.keys, self.script, words)

    def state(self) -> list[bytes | None]:
        """What stands under every key."""
        return self.caller.dumps(self.keys)

    def lives_ms(self) -> list[int]:
        """How long every key still lives."""
        return self.caller.lives_ms(self.keys)


def subject(caller: Caller, script: str, same_key: str | None = None) -> Subject:
    """A subject that nobody else has, under the policies of this script."""
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
    return Subject(caller, script, keys, blocks)


def changes(client: redis.Redis) -> int:
    """How many changes the server has ever made to its data: a write that changes nothing counts."""
    return int(client.info("persistence")["rdb_changes_since_last_save"])


def resets_us(asked: Subject, mode: str, reply: list[int], number: int) -> list[int]:
    """What the blocks on this key were told of when they are as if unused."""
    blocks = enumerate(asked.asked(mode))
    return [reply[5 * n + 3] for n, (_, on, _) in blocks if on == number]


def check_lives(asked: Subject, mode: str, reply: list[int], given: bool) -> None:
    """Every key lives for as long as the longest of its policies counts, and little longer."""
    for number, life_ms in enumerate(asked.lives_ms(), 1):
        resets = resets_us(asked, mode, reply, number)
        if not resets:
            continue
        least = -(-max(resets) // 1000) + (GIVEN_TIME_MS if given else 0)
        # A second for the way from the decision to here, on a machine that is kept busy.
        assert least - 1000 <= life_ms <= least + SLACK_MS, (
            f"{life_ms} ms of {least} in {asked.keys}"
        )


def check_charge_gives_life(url: str, script: str) -> None:
    """A hit that passes leaves every key with the life that its state needs; so does a settlement."""
    caller = Caller(url)
    try:
        for now_us in (0, NOW_US):
            asked = subject(caller, script)
            for mode, cost in [("hit", 1), ("hit", 2), ("hit", 1), ("settle", 4)]:
                if asked.asked(mode):
                    reply = asked.run(mode, cost, now_us)
                    check_lives(asked, mode, reply, given=now_us != 0)
    finally:
        caller.close()


def check_nothing_written(url: str, script: str) -> None:
    """Denied, peeked, of cost 0 or about nothing: no byte, no life and no change is left behind."""
    caller = Caller(url)
    try:
        for now_us in (0, NOW_US):
            asked = subject(caller, script)
            for spent in (0, 3, 2):
                if spent:
                    assert asked.run("hit", spent, now_us)[0] == spent
                before, began = asked.state(), changes(caller.client)
                lives = asked.lives_ms()
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
                    if asked.asked(mode):
                        assert asked.run(mode, cost, now_us)[0] == 0
                assert asked.state() == before
                assert changes(caller.client) == began, f"{script} changed something"
                assert all(now <= then for now, then in zip(asked.lives_ms(), lives, strict=True))
    finally:
        caller.close()


def check_server_clock(url: str, script: str) -> None:
    """Without a given time the reply says the server's own, between two readings of it."""
    caller = Caller(url)
    try:
        seconds, micros = caller.client.time()
        *_, now_us = subject(caller, script).run("hit", 1)
        later, more = caller.client.time()
        assert seconds * 1_000_000 + micros <= now_us <= later * 1_000_000 + more
    finally:
        caller.close()


def check_stored_numbers(asked: Subject) -> None:
    """Every number that stands in the state is a whole one, up to a lease after the year 2255."""
    client = asked.caller.client
    for key in asked.keys:
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

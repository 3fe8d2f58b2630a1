"""Call the Lua scripts as a program in another language would: by their headers alone."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis

from tests.model.base import Model

V1 = Path(__file__).parent.parent / "lua" / "v1"
#: How much longer a key lives under a caller's own time, and how much longer any key lives.
GIVEN_TIME_MS, SLACK_MS = 3_600_000, 1_000
#: The numbers of the algorithms in ``few``.
IN_FEW = {"fixed_window": 1, "sliding_window": 2, "token_bucket": 3}

#: A script, and the arguments of a call.
Call = tuple[str, list[Any]]


@cache
def source(name: str) -> str:
    """The text of a script."""
    return (V1 / f"{name}.lua").read_text()


@cache
def sha1(name: str) -> str:
    """The script's digest, by which EVALSHA names it."""
    return hashlib.sha1(source(name).encode()).hexdigest()  # noqa: S324 (what Redis calls it)


@cache
def argument_names(name: str) -> list[str]:
    """The names of the script's arguments as text, in order, from its header."""
    header = source(name).split("]]")[0].partition("\nPacked,")[0]
    return re.findall(r"^ARGV\[\d+\] (\w+)", header, re.M)


@cache
def packed_names(name: str) -> list[str]:
    """The names of the numbers in a packed call, in order, from the script's header."""
    packed = source(name).split("]]")[0].partition("\nPacked,")[2]
    (names,) = re.findall(r"^ARGV\[1\] numbers +(.*)", packed, re.M)
    return names.split(", ")


def field_of(model: Model, name: str = "") -> str:
    """The policy's field in the subject's hash."""
    return model.field + (f":{name}" if name else "")


def pack(numbers: Sequence[int]) -> bytes:
    """Numbers as little-endian doubles."""
    return struct.pack(f"<{len(numbers)}d", *numbers)


def single(
    model: Model,
    now_us: int,
    mode: str,
    cost: int,
    at_least: int | None = None,
    field: str | None = None,
    holder: str = "",
    *,
    step: int = 1,
    packed: bool = False,
) -> Call:
    """The script that decides the model's policy alone, and its arguments: as text, or packed."""
    script, field = model.script, field or field_of(model)
    given = {"now_us": now_us, "mode": mode, "cost": cost, "id": holder, "field": field}
    given |= {"at_least": cost if at_least is None else at_least, "step": step} | model.numbers()
    if packed:
        words = [pack([given[name] for name in packed_names(script)]), field]
        if "id" in argument_names(script):
            words.append(holder)
        return script, words if mode in ("hit", "acquire") else [*words, mode]
    names = argument_names(script)
    if step == 1:  # at the end of the arguments, what is not given is left out
        names = names[: names.index("at_least") + (at_least is not None)]
    return script, [given[name] for name in names]


#: A policy in a list: its model, the number of its key, and its field.
Block = tuple[Model, int, str]


def several(
    blocks: Sequence[Block],
    now_us: int,
    mode: str,
    cost: int,
    at_least: int | None = None,
    holder: str = "",
    *,
    step: int = 1,
    shadows: Sequence[int] = (),
) -> Call:
    """The script that decides a list, and its arguments; ``shadows`` are the places in shadow mode."""
    words = listed(blocks, mode, [cost] * len(blocks), shadows, holder)
    return "several", [now_us, mode, at_least or 0, step, *words]


def reservation(
    blocks: Sequence[Block],
    now_us: int,
    mode: str,
    costs: Sequence[int],
    life_ms: int,
    *,
    shadows: Collection[int] = (),
) -> Call:
    """The script that reserves and settles, and its arguments; the record is the last key of the call."""
    return "reservation", [now_us, mode, life_ms, *listed(blocks, mode, costs, shadows)]


def listed(
    blocks: Sequence[Block],
    mode: str,
    costs: Sequence[int],
    shadows: Collection[int] = (),
    holder: str = "",
) -> list[Any]:
    """The arguments of a list of policies."""
    words: list[Any] = []
    for place, (model, key_number, field) in enumerate(blocks):
        script, own = single(model, 0, mode, costs[place], field=field, holder=holder)
        words += [script, key_number, int(place in shadows), *own[2:]]
    return words


def fit_few(blocks: Sequence[Block]) -> bool:
    """Whether ``few`` decides these policies: two or three fields of one hash."""
    one_hash = all(model.key_type == "hash" and number == 1 for model, number, _ in blocks)
    return one_hash and 2 <= len(blocks) <= 3


def few(
    blocks: Sequence[Block], now_us: int, cost: int, at_least: int | None = None, *, step: int = 1
) -> Call:
    """The script that decides two or three fields of one hash, and its arguments."""
    numbers = [now_us, cost, cost if at_least is None else at_least, step]
    for model, _, _ in blocks:
        own = model.numbers()
        names = argument_names(model.script)
        numbers.append(IN_FEW[model.script])
        numbers += [own[name] for name in names[names.index("limit") : names.index("at_least")]]
    return "few", [pack(numbers), *(field for _, _, field in blocks)]


def integers(reply: list[int] | bytes) -> list[int]:
    """The integers of a reply; to a packed call it is one string of doubles."""
    if isinstance(reply, list):
        return reply
    numbers = struct.unpack(f"<{len(reply) // 8}d", reply)
    assert all(number % 1 == 0 for number in numbers), numbers
    return list(map(int, numbers))


class Caller:
    """One connection that runs scripts, and reads the state that they left."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        #: Whether a script has run; a test that has read the state may clear it.
        self.ran = False

    def run(self, keys: Sequence[str], script: str, words: Sequence[Any]) -> list[int]:
        """Run a script by its digest, or by its text if the server does not have it."""
        self.ran = True
        try:
            reply = self.client.evalsha(sha1(script), len(keys), *keys, *words)
        except redis.exceptions.NoScriptError:
            reply = self.client.eval(source(script), len(keys), *keys, *words)
        return integers(reply)

    def dumps(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value of every key, without its expiry."""
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            pipe.dump(key)
        return pipe.execute()

    def lives_ms(self, keys: Sequence[str]) -> list[int]:
        """The remaining life of each key; -2: no key, -1: no expiry."""
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            pipe.pttl(key)
        return pipe.execute()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

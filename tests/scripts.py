"""Call the Lua scripts as a program in another language would: by their headers alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis

from tests.model.base import Model

V1 = Path(__file__).parent.parent / "lua" / "v1"
#: How much longer a key lives under a caller's own time, and how much longer any key lives.
GIVEN_TIME_MS, SLACK_MS = 3_600_000, 1_000


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
    """The names of the script's arguments, in order, from its header."""
    header = source(name).split("]]")[0]
    return re.findall(r"^ARGV\[\d+\] (\w+)", header, re.M)


def field_of(model: Model, name: str = "") -> str:
    """The policy's field in the subject's hash."""
    return model.field + (f":{name}" if name else "")


def single(
    model: Model,
    now_us: int,
    mode: str,
    cost: int,
    at_least: int | None = None,
    field: str | None = None,
    holder: str = "",
) -> tuple[str, list[Any]]:
    """The script that decides the model's policy alone, and its arguments."""
    given = {"now_us": now_us, "mode": mode, "cost": cost, "id": holder, "at_least": at_least}
    given |= {"field": field or field_of(model)} | model.numbers()
    words = [given[name] for name in argument_names(model.script)]
    return model.script, words if at_least is not None else words[:-1]


def several(
    blocks: Sequence[tuple[Model, int, str]],
    now_us: int,
    mode: str,
    cost: int,
    at_least: int | None = None,
    holder: str = "",
) -> tuple[str, list[Any]]:
    """The script that decides a list, and its arguments; a block is model, key number, field."""
    words: list[Any] = [now_us, mode, at_least or 0]
    for model, key_number, field in blocks:
        script, own = single(model, now_us, mode, cost, field=field, holder=holder)
        words += [script, key_number, 0, *own[2:]]
    return "several", words


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
            return self.client.evalsha(sha1(script), len(keys), *keys, *words)
        except redis.exceptions.NoScriptError:
            return self.client.eval(source(script), len(keys), *keys, *words)

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

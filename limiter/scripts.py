"""The only place that reads ``lua/``."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent


class Script(NamedTuple):
    """One complete script, and the id by which EVALSHA calls it."""

    name: str
    source: bytes
    sha: str


def folder() -> Path:
    """``limiter/lua/v1`` of an installed wheel, ``lua/v1`` beside the package in a checkout.

    Raises:
        FileNotFoundError: Neither is there.

    """
    for root in (_HERE / "lua", _HERE.parent / "lua"):
        if (root / "v1" / "SHA1SUMS").is_file():
            return root / "v1"
    raise FileNotFoundError(f"no lua/v1 in or beside {_HERE}: install the distribution again")


def names() -> list[str]:
    """Every complete script, without its ending."""
    return sorted(path.stem for path in folder().glob("*.lua"))


@cache
def script(name: str) -> Script:
    """The script of that name, without its ending."""
    source = (folder() / f"{name}.lua").read_bytes()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


#: Every command that a script calls; an ACL user needs these and EVALSHA, EVAL, SCRIPT LOAD.
COMMANDS = (
    "del",
    "hget",
    "hset",
    "lindex",
    "llen",
    "ltrim",
    "pexpire",
    "pttl",
    "rpush",
    "time",
    "type",
    "zadd",
    "zcard",
    "zcount",
    "zrange",
    "zrem",
    "zremrangebyscore",
    "zscore",
)

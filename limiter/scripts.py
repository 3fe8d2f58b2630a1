"""The only module that reads ``lua/``."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from limiter.keys import VERSION

_HERE = Path(__file__).parent


class Script(NamedTuple):
    """One complete script, and its SHA-1, by which EVALSHA calls it."""

    name: str
    source: bytes
    sha: str


def folder() -> Path:
    """Find the scripts: ``limiter/lua/v1`` of a wheel, or ``lua/v1`` beside the package in a checkout.

    ``v1`` is the version of the scripts, ``keys.VERSION``.

    Raises:
        FileNotFoundError: Neither folder exists.

    """
    for root in (_HERE / "lua", _HERE.parent / "lua"):
        if (root / VERSION / "SHA1SUMS").is_file():
            return root / VERSION
    raise FileNotFoundError(
        f"no lua/{VERSION} in or beside {_HERE}: install the distribution again"
    )


def names() -> list[str]:
    """List the names of the complete scripts, without the suffix."""
    return sorted(path.stem for path in folder().glob("*.lua"))


@cache
def script(name: str) -> Script:
    """Read the script of that name, without the suffix."""
    source = (folder() / f"{name}.lua").read_bytes()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


#: The commands of ``reservation`` alone. It calls both before it changes a limit's state, so a user without
#: the right to one of them cannot reserve, and is not charged.
OF_RECORDS = ("get", "set")

#: The commands that scripts call. An ACL user needs these, and EVALSHA, EVAL and SCRIPT LOAD.
COMMANDS = (
    "del",
    "get",
    "hget",
    "hmget",
    "hset",
    "lindex",
    "llen",
    "ltrim",
    "pexpire",
    "rpush",
    "set",
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

"""An ACL rule of Redis or Valkey with the commands that the limiter needs, and no others."""

from __future__ import annotations

from collections.abc import Iterable

from limiter import scripts
from limiter.keys import NAME

#: Commands of a connection, beside those of the scripts; redis-py sends HELLO and its own name.
_CONNECTION = (
    "evalsha",
    "eval",
    "script|load",
    "hello",
    "auth",
    "ping",
    "select",
    "client|setinfo",
    "client|setname",
    "cluster|slots",
    "asking",
)

#: Every command that a user of the limiter may run, and no other.
COMMANDS = (*_CONNECTION, *scripts.COMMANDS)

#: The same for Redis 7.0, which does not know CLIENT SETINFO, and would refuse the whole rule.
COMMANDS_OF_7_0 = tuple(name for name in COMMANDS if name != "client|setinfo")


def is_safe(word: str) -> bool:
    """Whether a word is only a name to Redis, and cannot add to the rule."""
    return NAME.fullmatch(word) is not None


def rule(user: str, prefix: str = "rl", commands: Iterable[str] = COMMANDS) -> str:
    """An ``ACL SETUSER`` line that permits these commands on keys that begin with the prefix.

    It sets no password: until one is set, Redis accepts no connection of the user.
    """
    rights = " ".join(f"+{name}" for name in commands)
    return f"ACL SETUSER {user} reset on ~{prefix}:* resetchannels -@all {rights}"

"""An ACL rule of Redis or Valkey with the commands that the limiter needs, and no others."""

from __future__ import annotations

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


def is_safe(word: str) -> bool:
    """Whether a word is only a name to Redis, and cannot add to the rule."""
    return NAME.fullmatch(word) is not None


def rule(user: str, prefix: str = "rl") -> str:
    """An ``ACL SETUSER`` line that permits these commands on keys that begin with the prefix.

    It sets no password: until one is set, Redis accepts no connection of the user.
    """
    commands = " ".join(f"+{name}" for name in COMMANDS)
    return f"ACL SETUSER {user} reset on ~{prefix}:* resetchannels -@all {commands}"

"""The least rights that a store must give us, as an ACL rule of Redis or Valkey."""

from __future__ import annotations

from limiter import scripts
from limiter.keys import NAME

#: What a connection needs besides the scripts' own commands; redis-py says hello and its name.
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
    """Whether it would say no more to Redis than a name."""
    return NAME.fullmatch(word) is not None


def rule(user: str, prefix: str = "rl") -> str:
    """An ``ACL SETUSER`` line that gives these commands, on keys that begin with the prefix.

    It sets no password: until one is set, Redis lets nobody in as the user.
    """
    commands = " ".join(f"+{name}" for name in COMMANDS)
    return f"ACL SETUSER {user} reset on ~{prefix}:* resetchannels -@all {commands}"

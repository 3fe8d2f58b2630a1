"""The least rights that a store must give us, as an ACL rule of Redis or Valkey."""

from __future__ import annotations

from limiter.scripts import COMMANDS

#: What a connection needs besides the scripts' own commands; redis-py says hello and names itself.
CONNECTION_COMMANDS = (
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


def rule(user: str, prefix: str = "rl", password: str | None = None) -> str:
    """An ``ACL SETUSER`` line: the scripts' commands, on keys that begin with the prefix.

    Without a password the line says ``nopass`` nowhere: Redis then lets nobody in as the user until
    one is set.
    """
    commands = " ".join(f"+{name}" for name in (*CONNECTION_COMMANDS, *COMMANDS))
    secret = "" if password is None else f" >{password}"
    return f"ACL SETUSER {user} reset on{secret} ~{prefix}:* resetchannels -@all {commands}"

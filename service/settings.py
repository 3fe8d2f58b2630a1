"""What the service makes of the environment; the library reads it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

from limiter import InvalidSetting, Limiter
from limiter.policyfile import Policies, hand_on
from limiter.settings import (
    admin_token,
    api_token,
    is_in_process,
    policies_path,
    trusted_proxies,
)
from service.one_policy import OnePolicy

#: While the store is away, each process decides for its share of the quota (LIMITER_LOCAL_SHARE).
_DEFAULTS: dict[str, Any] = {"on_error": "local"}


class Settings(NamedTuple):
    """The policies, the networks that are trusted, and what operators and callers show."""

    policies: Policies | OnePolicy
    trusted: tuple[IPv4Network | IPv6Network, ...]
    admin_token: str | None
    api_token: str | None


def check_workers(workers: int) -> None:
    """Raise InvalidSetting where so many workers would not count together."""
    if workers > 1 and is_in_process():
        raise InvalidSetting(
            f"LIMITER_STORE is memory://, in which each of the {workers} workers would count by itself: "
            f"accepted is a store that they share, or --workers 1"
        )


def from_env() -> Settings:
    """Read LIMITER_*; raise InvalidSetting, which names the variable, for a wrong one."""
    trusted = trusted_proxies()
    tokens = admin_token(), api_token()
    policies: Policies | OnePolicy
    if policies_path():
        policies = Policies.from_env(trusted=trusted, **_DEFAULTS)
    else:
        policies = OnePolicy(Limiter.from_env(limits="100/minute", **_DEFAULTS), trusted)
    return Settings(policies, trusted, *tokens)


def hand_on_policies() -> None:
    """Before workers are forked: those that start while the policy file is broken get the last good one.

    Raises:
        InvalidPolicyFile: There is no good one yet.

    """
    path = policies_path()
    if path:
        hand_on(path)

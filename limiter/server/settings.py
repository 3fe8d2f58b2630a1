"""The service's settings, from the environment; the library reads and checks the variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from limiter import AsyncLimiter, InvalidSetting
from limiter.policyfile import AsyncPolicies, hand_on
from limiter.server.one_policy import AnyPolicies, OnePolicy
from limiter.settings import is_in_process, policies_path, tokens, trusted_proxies
from limiter.web.identity import TrustedNetworks
from limiter.web.wiring import DENIAL_CACHE

#: While the store does not answer, each process grants its local share (LIMITER_LOCAL_SHARE).
_DEFAULTS: dict[str, Any] = {"on_error": "local", "denial_cache": DENIAL_CACHE}


class Settings(NamedTuple):
    """The policies, the trusted networks, and the tokens of operators and of callers."""

    policies: AnyPolicies
    trusted: TrustedNetworks
    admin_token: str | None
    api_token: str | None


def check_workers(workers: int) -> None:
    """Raise InvalidSetting if several workers would each count by themselves."""
    if workers > 1 and is_in_process():
        raise InvalidSetting(
            f"LIMITER_STORE is memory://, in which each of the {workers} workers would count by itself: "
            f"expected a store that they share, or --workers 1"
        )


def from_env(environ: Mapping[str, str] | None = None) -> Settings:
    """Read LIMITER_*; raise InvalidSetting, which names the variable, for an invalid one."""
    trusted = TrustedNetworks(trusted_proxies(environ))
    admin_token, api_token = tokens(environ)
    policies: AnyPolicies
    if policies_path(environ):
        policies = AsyncPolicies.from_env(environ, trusted=trusted, for_proxies=True, **_DEFAULTS)
    else:
        limiter = AsyncLimiter.from_env(environ, limits="100/minute", **_DEFAULTS)
        policies = OnePolicy(limiter, trusted)
    return Settings(policies, trusted, admin_token, api_token)


def hand_on_policies() -> None:
    """Read the policy file before workers are forked; one that starts with an invalid file uses this one.

    Raises:
        InvalidPolicyFile: The policy file is invalid.

    """
    path = policies_path()
    if path:
        hand_on(path)

"""The Flask application's settings, from the environment; the library reads and checks the variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from limiter import InvalidSetting, Limiter
from limiter.policyfile import Policies
from limiter.settings import policies_path, trusted_proxies
from limiter.web.wiring import DENIAL_CACHE
from service.one_policy import AnyPolicies, OnePolicy

#: While the store does not answer, each process grants its local share (LIMITER_LOCAL_SHARE).
_DEFAULTS: dict[str, Any] = {"on_error": "local", "denial_cache": DENIAL_CACHE}


def from_env(environ: Mapping[str, str] | None = None) -> AnyPolicies:
    """Read LIMITER_*; raise InvalidSetting, which names the variable, for an invalid one."""
    trusted = trusted_proxies(environ)
    if policies_path(environ):
        return Policies.from_env(environ, trusted=trusted, **_DEFAULTS)
    return OnePolicy(Limiter.from_env(environ, limits="100/minute", **_DEFAULTS), trusted)


def drain_seconds() -> float:
    """Return for how many seconds a process that must stop answers requests, but is not ready.

    Raises:
        InvalidSetting: DRAIN_SECONDS is no number from 0 to 300.

    """
    text = os.environ.get("DRAIN_SECONDS") or "5"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 300:
        raise InvalidSetting(f"DRAIN_SECONDS is {text!r}: expected 0 to 300")
    return seconds

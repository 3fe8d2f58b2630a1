"""Answer as Flask-Limiter does: its header fields, its exception for a breach, and its log line."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from flask import Response, request

from limiter.compat.flask_limiter import config
from limiter.compat.flask_limiter.errors import Breached, RateLimitExceeded
from limiter.compat.flask_limiter.limits import ByKeyFunc
from limiter.compat.flask_limiter.request_limit import RequestLimit, deciding
from limiter.compat.flask_limiter.util import get_remote_address
from limiter.flask.refusals import denying, refusal
from limiter.web.guard import Verdict


def write_fields(response: Response, limit: RequestLimit | None, names: Mapping[str, str]) -> None:
    """Write what a limit has left; Retry-After only if the limit denied."""
    if limit is None:
        return
    headers = response.headers
    headers[names["RATELIMIT_HEADER_LIMIT"]] = str(limit.limit.amount)
    headers[names["RATELIMIT_HEADER_REMAINING"]] = str(limit.remaining)
    headers[names["RATELIMIT_HEADER_RESET"]] = str(limit.reset_at)
    if limit.breached:
        headers[names["RATELIMIT_HEADER_RETRY_AFTER"]] = str(max(1, math.ceil(limit.retry_after)))


def exceeded(verdict: Verdict, on_breach: Callable[..., Any] | None) -> Exception:
    """The exception for a refusal; calls the ``on_breach`` functions."""
    if verdict.status == 413:  # a retry cannot pass; Flask-Limiter answers 429 all the same
        return RateLimitExceeded(Breached(str(verdict.error)))
    breached = deciding(verdict) if verdict.status == 429 and denying(verdict) else None
    if breached is None:
        return refusal(verdict)
    _log_breach(breached)
    limit = breached.rule.limit
    response = None
    for function in dict.fromkeys((on_breach, limit.on_denied)):
        answer = None if function is None else function(breached)  # type: ignore[arg-type]  # these take a RequestLimit
        response = answer if isinstance(answer, Response) else response
    return RateLimitExceeded(Breached(breached.limit, limit.message), response)


def _log_breach(breached: RequestLimit) -> None:
    """Log the line that Flask-Limiter logs."""
    if not config.log.isEnabledFor(logging.INFO):
        return
    identity = breached.rule.identity
    key = identity.key() if isinstance(identity, ByKeyFunc) else get_remote_address()
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(key))
    config.log.info(
        "ratelimit %s (%s) exceeded at endpoint: %s", breached.limit, shown, _scope(breached)
    )


def _scope(breached: RequestLimit) -> str:
    """The scope of a limit, as Flask-Limiter writes it: what its count is for, beside the key."""
    limit, endpoint = breached.rule.limit, request.endpoint or ""
    scope = limit.scope(endpoint) if callable(limit.scope) else limit.scope
    if scope is None and breached.shared:
        scope = "global"
    return f"{scope or endpoint}:{request.method}" if limit.per_method else scope or endpoint

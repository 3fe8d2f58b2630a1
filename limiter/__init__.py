"""Exact distributed rate limits, decided by versioned Lua scripts inside Redis or Valkey."""

from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.decision import Decision, RateLimited
from limiter.errors import (
    Invalid,
    InvalidCost,
    InvalidKey,
    InvalidPolicy,
    InvalidSetting,
    LimiterError,
    StoreRefused,
    StoreUnavailable,
)
from limiter.grammar import parse_limits
from limiter.policies import (
    GCRA,
    Concurrency,
    FixedWindow,
    LeakyBucket,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.version import __version__

__all__ = [
    "GCRA",
    "AsyncLimiter",
    "Concurrency",
    "Decision",
    "FixedWindow",
    "Invalid",
    "InvalidCost",
    "InvalidKey",
    "InvalidPolicy",
    "InvalidSetting",
    "LeakyBucket",
    "Limiter",
    "LimiterError",
    "RateLimited",
    "SlidingLog",
    "SlidingWindow",
    "StoreRefused",
    "StoreUnavailable",
    "TokenBucket",
    "__version__",
    "parse_limits",
]

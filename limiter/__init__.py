"""Exact distributed rate limits, decided by versioned Lua scripts inside Redis or Valkey."""

from limiter.aio import AsyncLease, AsyncLimiter, AsyncReservation
from limiter.client import Lease, Limiter, Reservation
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
    Policy,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.version import __version__

__all__ = [
    "GCRA",
    "AsyncLease",
    "AsyncLimiter",
    "AsyncReservation",
    "Concurrency",
    "Decision",
    "FixedWindow",
    "Invalid",
    "InvalidCost",
    "InvalidKey",
    "InvalidPolicy",
    "InvalidSetting",
    "LeakyBucket",
    "Lease",
    "Limiter",
    "LimiterError",
    "Policy",
    "RateLimited",
    "Reservation",
    "SlidingLog",
    "SlidingWindow",
    "StoreRefused",
    "StoreUnavailable",
    "TokenBucket",
    "__version__",
    "parse_limits",
]

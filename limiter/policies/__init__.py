"""The algorithms: a module for each, and the list of all."""

from limiter.policies.base import Policy
from limiter.policies.concurrency import Concurrency
from limiter.policies.fixed_window import FixedWindow
from limiter.policies.sliding_log import SlidingLog
from limiter.policies.sliding_window import SlidingWindow
from limiter.policies.token_bucket import GCRA, LeakyBucket, TokenBucket

#: Every algorithm that a user may choose, by its name in settings.
ALGORITHMS: dict[str, type[Policy]] = {
    policy.algorithm: policy
    for policy in (FixedWindow, SlidingLog, SlidingWindow, TokenBucket, GCRA, LeakyBucket)
}

__all__ = [
    "ALGORITHMS",
    "GCRA",
    "Concurrency",
    "FixedWindow",
    "LeakyBucket",
    "Policy",
    "SlidingLog",
    "SlidingWindow",
    "TokenBucket",
]

"""The algorithms: one module each, and their list."""

from limiter.policies.base import Policy
from limiter.policies.fixed_window import FixedWindow
from limiter.policies.sliding_log import SlidingLog
from limiter.policies.token_bucket import TokenBucket

#: Every algorithm that a user may choose, by the name that chooses it.
ALGORITHMS: dict[str, type[Policy]] = {
    policy.algorithm: policy for policy in (FixedWindow, SlidingLog, TokenBucket)
}

__all__ = ["ALGORITHMS", "FixedWindow", "Policy", "SlidingLog", "TokenBucket"]

"""Writes decisions as JSON."""

from __future__ import annotations

import json
from functools import lru_cache

from limiter.decision import Decision
from limiter.policies import Policy


def as_json(decision: Decision) -> str:
    """Return the JSON of ``Decision.to_dict``, for a single limit at a third of the cost."""
    numbers = decision.numbers
    if len(numbers) != 1:
        return json.dumps(decision.to_dict())
    ((policy, remaining, retry_us, reset_us),) = numbers
    row = (
        f'"allowed": {"false" if retry_us else "true"}, "granted": {decision.granted}, '
        f'"remaining": {remaining}, "retry_after": {retry_us / 1e6}, "reset_after": {reset_us / 1e6}, '
        f'"delay": {decision.delay if policy.queues else 0.0}, {_of_policy(policy)}, '
        f'"degraded": {"true" if decision.degraded else "false"}, '
        f'"cached": {"true" if decision.cached else "false"}'
    )
    return f'{{{row}, "each": [{{{row}}}]}}'


@lru_cache(maxsize=1024)
def _of_policy(policy: Policy) -> str:
    return f'"policy": {json.dumps(policy.to_dict())}, "limit": {policy.capacity}'

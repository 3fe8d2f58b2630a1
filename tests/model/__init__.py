"""The slow, exact meaning of every algorithm: whole histories, counted by definition."""

from __future__ import annotations

from typing import Any

from tests.model.base import Model, Rate
from tests.model.concurrency import Concurrency
from tests.model.fixed_window import FixedWindow
from tests.model.sliding_log import SlidingLog
from tests.model.sliding_window import SlidingWindow
from tests.model.token_bucket import GCRA, LeakyBucket, TokenBucket

#: Every algorithm that a user may choose; all tests of every algorithm take them from here.
MODELS: dict[str, type[Rate]] = {
    model.algorithm: model
    for model in (FixedWindow, SlidingLog, SlidingWindow, TokenBucket, GCRA, LeakyBucket)
}
#: What counts what is held, and not what passes: nobody can hit it.
LEASES: dict[str, type[Concurrency]] = {Concurrency.algorithm: Concurrency}


def model_of(policy: Any) -> Model:
    """The slow, exact meaning of a policy of the library."""
    return (MODELS | LEASES)[policy.algorithm].of_policy(policy)

"""A model of every algorithm: its definition, computed slowly and exactly from the whole history."""

from __future__ import annotations

from typing import Any

from tests.model.base import Model, Rate
from tests.model.concurrency import Concurrency
from tests.model.fixed_window import FixedWindow
from tests.model.sliding_log import SlidingLog
from tests.model.sliding_window import SlidingWindow
from tests.model.token_bucket import GCRA, LeakyBucket, TokenBucket

#: Every algorithm that a user may choose; tests that run for each algorithm use this list.
MODELS: dict[str, type[Rate]] = {
    model.algorithm: model
    for model in (FixedWindow, SlidingLog, SlidingWindow, TokenBucket, GCRA, LeakyBucket)
}
#: Algorithms that count held units: they have ``acquire`` in place of ``hit``.
LEASES: dict[str, type[Concurrency]] = {Concurrency.algorithm: Concurrency}


def model_of(policy: Any) -> Model:
    """Return the model of a policy of the library."""
    return (MODELS | LEASES)[policy.algorithm].of_policy(policy)

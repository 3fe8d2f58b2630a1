"""The slow, exact meaning of every algorithm: whole histories, counted by definition."""

from __future__ import annotations

from typing import Any

from tests.model.base import Model
from tests.model.fixed_window import FixedWindow
from tests.model.sliding_log import SlidingLog
from tests.model.token_bucket import TokenBucket

#: Every algorithm that a user may choose; all tests of every algorithm take them from here.
MODELS: dict[str, type[Model]] = {
    model.algorithm: model for model in (FixedWindow, SlidingLog, TokenBucket)
}


def model_of(policy: Any) -> Model:
    """The slow, exact meaning of a policy of the library."""
    return MODELS[policy.algorithm].of_policy(policy)

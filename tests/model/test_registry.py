"""Every algorithm has a model, and by it takes part in all tests of every algorithm."""

from __future__ import annotations

from limiter.policies import ALGORITHMS
from tests.model import MODELS


def test_every_algorithm_has_a_model():
    """And every model is that of an algorithm, decided by the same script under the same key."""
    for name in ALGORITHMS:
        assert name in MODELS, f"tests/model has no entry for {name}"
    assert set(MODELS) == set(ALGORITHMS)
    for name, policy in ALGORITHMS.items():
        model = MODELS[name]
        assert (model.algorithm, model.script, model.key_type) == (
            name,
            policy.script,
            policy.key_type,
        )

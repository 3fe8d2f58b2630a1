"""Every algorithm has a model, by which it is in all tests that run for each algorithm."""

from __future__ import annotations

from limiter.policies import ALGORITHMS, Concurrency
from tests.model import LEASES, MODELS, model_of


def test_every_algorithm_has_a_model():
    """Each model belongs to an algorithm, with the same script and the same kind of key."""
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


def test_leases_have_a_model_of_their_own():
    """Leases have no hit, so they are not in the list of tests that hit."""
    assert set(LEASES) == {Concurrency.algorithm}
    assert not set(LEASES) & set(MODELS)
    policy, model = Concurrency(3, lease=2), model_of(Concurrency(3, lease=2))
    assert (model.script, model.key_type, model.field, model.limit, model.period_us) == (
        policy.script,
        policy.key_type,
        policy.field,
        3,
        2_000_000,
    )

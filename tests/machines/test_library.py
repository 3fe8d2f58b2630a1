"""A Limiter's decisions equal the models' answers, field by field."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from limiter import Decision, Limiter, RateLimited
from limiter.policies import Policy
from limiter.testing import set_time
from tests.concurrency.hammer import drawn_policies
from tests.machines.support import DEPTH, NOW_US, new_key
from tests.model import MODELS, model_of
from tests.model.base import Answer
from tests.model.several import Several, Verdict
from tests.waiting import PATIENCE

periods = st.sampled_from([0.001, 0.00333, 1, 60, 86_400])
policies = st.lists(
    drawn_policies(9, periods),
    min_size=1,
    max_size=3,
    unique_by=lambda policy: policy.field,
)
steps = st.lists(
    st.tuples(
        st.sampled_from([-70_000_000, -500, -1, 0, 0, 0, 1, 500, 1_000, 333_333, 60_000_000]),
        st.sampled_from(["hit", "hit", "hit", "part", "peek", "refund", "reserve", "reset"]),
        st.integers(0, 9),
    ),
    min_size=3,
    max_size=12,
)


def numbers(decision: Decision) -> tuple[object, ...]:
    """Return the numbers of a decision in the order of an answer, without the delay."""
    times = (round(decision.retry_after * 1e6), round(decision.reset_after * 1e6))
    return (decision.allowed, decision.granted, decision.remaining, *times)


def agree(decision: Decision, expected: Verdict, limits: list[Policy]) -> None:
    """Compare every field of a decision with the verdict of the models."""
    # Only leaky buckets have a delay; with several, the longest one counts.
    delays = [
        answer.delay_us if MODELS[policy.algorithm].queues else 0
        for policy, answer in zip(limits, expected.each, strict=True)
    ]
    assert numbers(decision) == expected[:5]
    assert bool(decision) is decision.allowed
    assert decision.policy == limits[expected.policy]
    assert decision.limit == expected.limit
    assert round(decision.delay * 1e6) == (max(delays) if expected.allowed else 0)
    assert decision.degraded is False
    assert [numbers(part) for part in decision.each] == [answer[:5] for answer in expected.each]
    assert [round(part.delay * 1e6) for part in decision.each] == delays
    assert [part.policy for part in decision.each] == limits
    assert all(part.each == () for part in decision.each)


def reserve(
    limiter: Limiter,
    models: Several,
    now_us: int,
    subject: str,
    cost: int,
    actuals: tuple[int, ...],
    limits: list[Policy],
) -> None:
    """Reserve ``cost`` and settle ``actuals``: the difference is refunded or charged, by policy."""
    expected = models.hit(now_us, cost)
    try:
        with limiter.reserve(subject, (cost,) * len(limits)) as reserved:
            agree(reserved.decision, expected, limits)
            reserved.settle(actuals)
    except RateLimited as denied:
        agree(denied.decision, expected, limits)
        return
    for model, actual in zip(models.rates, actuals, strict=True):
        if actual < cost:
            model.refund(now_us, cost - actual)
        else:
            model.settle(now_us, actual - cost)


@settings(max_examples=60 * DEPTH)
@given(policies, steps)
def test_every_field_of_a_decision(store, limits, steps):
    """The fields are right for one policy and several, in each mode, with steps of the clock back."""
    models, subject = Several([model_of(policy) for policy in limits]), new_key()
    most = min(policy.most_cost for policy in limits)
    limiter = Limiter(limits, store=store, timeout=PATIENCE)
    now_us = NOW_US
    for move_us, mode, wanted in steps:
        now_us, cost = now_us + move_us, min(wanted, most)
        set_time(limiter, now_us)
        if mode == "reset":
            agree(limiter.reset(subject), models.reset(now_us), limits)
        elif mode == "peek":
            agree(limiter.peek(subject, cost), models.peek(now_us, cost), limits)
        elif mode == "refund" and cost:
            limiter.refund(subject, cost)
            models.refund(now_us, cost)
        elif mode == "reserve" and cost:
            actuals = tuple(
                (3 * cost + place + move_us) % (most + 1) for place in range(len(limits))
            )
            reserve(limiter, models, now_us, subject, cost, actuals, limits)
        elif mode == "part" and cost:
            decision = limiter.hit(subject, cost, at_least=1)
            agree(decision, models.hit(now_us, cost, at_least=1), limits)
        else:
            agree(limiter.hit(subject, cost), models.hit(now_us, cost), limits)
    limiter.reset(subject)
    limiter.close()


@settings(max_examples=40 * DEPTH)
@given(policies, steps)
def test_a_peek_predicts_the_hit(store, limits, steps):
    """Allowed, retry_after and policy are those of the hit; remaining is the number before it."""
    subject = new_key()
    most = min(policy.most_cost for policy in limits)
    limiter = Limiter(limits, store=store, timeout=PATIENCE)
    now_us = NOW_US
    for move_us, _, wanted in steps:
        now_us, cost = now_us + move_us, min(wanted, most)
        set_time(limiter, now_us)
        peek = limiter.peek(subject, cost)
        largest = limiter.peek(subject, most)
        hit = limiter.hit(subject, cost)
        assert (peek.allowed, peek.retry_after, peek.policy) == (
            hit.allowed,
            hit.retry_after,
            hit.policy,
        )
        assert peek.granted == 0
        assert peek.remaining == largest.remaining
        assert peek.remaining - hit.granted == hit.remaining or len(limits) > 1
    limiter.reset(subject)
    limiter.close()


def test_an_answer_has_the_fields_of_a_decision():
    """The models use the names of a decision's fields."""
    for field in Answer._fields:
        assert hasattr(Decision, field.removesuffix("_us"))

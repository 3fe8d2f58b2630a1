"""Many threads and processes at once: every window keeps its bound, and no wait is in vain."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter import Limiter, SlidingLog
from limiter.policies import Policy
from tests.concurrency.hammer import (
    PATIENCE,
    DecidedCall,
    Planned,
    admitted,
    drawn_policies,
    hammer,
    policy_of,
    replay,
)
from tests.histories import assert_bound
from tests.machines.support import DEPTH, new_key
from tests.model import MODELS, model_of

#: So short that a run sees many windows, in seconds.
periods = st.sampled_from([0.001, 0.003, 0.01, 0.0333, 0.1, 3.0])
policies = drawn_policies(20, periods)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Policy, list[list[list[Planned]]]]:
    """A policy; and for some threads of some processes, their calls and pauses, on one key."""
    policy = draw(policies)
    calls = st.builds(
        Planned,
        gap_us=st.sampled_from([0, 0, 0, 100, 1_000, 7_000]),
        key=st.just("one"),
        cost=st.integers(1, min(3, policy.most_cost)),
    )
    # Draw few different threads, and let several do the same: the load needs no variety.
    kinds = draw(st.lists(st.lists(calls, min_size=1, max_size=12), min_size=1, max_size=3))
    threads = draw(st.integers(1, 4))
    return policy, [
        [kinds[(process + thread) % len(kinds)] for thread in range(threads)]
        for process in range(draw(st.integers(1, 4)))
    ]


def check(store: str, policy: Policy, plan: list[list[list[Planned]]]) -> None:
    """Run a plan on a fresh subject; compare it with the bound, and with the replies to a single caller."""
    key = new_key("hammer")
    plan = [[[call._replace(key=key) for call in calls] for calls in each] for each in plan]

    decided = hammer(store, [policy], plan)

    assert len(decided) == sum(len(calls) for threads in plan for calls in threads)
    assert_bound(model_of(policy), admitted(decided))
    replay(policy, decided)


@pytest.mark.slow(7)
@settings(max_examples=30 * DEPTH)
@given(plans())
def test_a_concurrent_history_is_one_that_a_single_caller_could_have_had(store, plan):
    """No window admits too much, and each denial was necessary."""
    check(store, *plan)


@settings(max_examples=8 * DEPTH)
@given(plans())
def test_a_concurrent_history_on_redis(redis_store, plan):
    """The same against Redis's own server."""
    check(redis_store, *plan)


@settings(max_examples=8 * DEPTH)
@given(plans())
def test_a_concurrent_history_on_a_cluster(cluster, plan):
    """The same against a cluster."""
    check(cluster.url, *plan)


@pytest.mark.parametrize(
    "policy",
    [policy_of(sample) for model in MODELS.values() for sample in model.samples(3, 10_000)],
    ids=lambda policy: policy.identity,
)
def test_a_caller_that_waits_for_retry_after_is_admitted(store, subject, policy):
    """By the store's clock: a call that waited for ``retry_after`` is never denied."""
    with Limiter(policy, store=store, timeout=PATIENCE) as limiter:
        waits = 0
        while waits < 20:
            denied = limiter.hit(subject, cost=2)
            if denied.allowed:
                continue
            time.sleep(denied.retry_after)  # the promise is about real time
            again = limiter.hit(subject, cost=2)
            # Local and server clocks may differ by a hair: then this was no test, and the next is.
            if again._reply[-1] >= denied._reply[-1] + round(denied.retry_after * 1e6):
                assert again.allowed
                waits += 1


def test_an_impossible_history_is_found():
    """The check itself finds one unit too many, and one denial too many."""
    policy = SlidingLog(1, 1)
    first = DecidedCall(10**15, "k", 1, (1, 0, 0, 1_000_000, 0))

    replay(policy, [first, DecidedCall(10**15, "k", 1, (0, 0, 1_000_000, 1_000_000, 0))])
    for reply in [(1, 0, 0, 1_000_000, 0), (0, 0, 1_000_001, 1_000_000, 0)]:
        with pytest.raises(AssertionError, match="cannot have decided so"):
            replay(policy, [first, DecidedCall(10**15 + 1, "k", 1, reply)])

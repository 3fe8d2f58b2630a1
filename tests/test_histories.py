"""The judge of concurrent histories is itself compared with counting by brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.histories import Admitted, assert_bound, most_in_any_window, own_windows
from tests.model import MODELS
from tests.model.token_bucket import TokenBucket

histories = st.lists(st.builds(Admitted, st.integers(0, 60), st.integers(0, 5)), max_size=25)
policies = st.one_of(
    *(
        st.builds(model, st.integers(1, 9), st.integers(1, 20), **model.options(9))
        for model in MODELS.values()
    )
)


@given(histories, st.integers(1, 70))
def test_the_fullest_window_is_the_one_that_counting_finds(history, period_us):
    """Two pointers agree with looking at every window that starts at any microsecond."""
    counted = max(
        sum(cost for at, cost in history if start <= at < start + period_us)
        for start in range(-period_us, 61)
    )

    assert most_in_any_window(history, period_us) == counted


@given(policies, st.lists(st.tuples(st.integers(0, 15), st.integers(0, 9)), max_size=25))
def test_a_model_keeps_its_bound(policy, calls):
    """The bounds hold for the definitions, for any calls at any times."""
    now_us, history = 1_000, []
    for gap_us, cost in calls:
        now_us += gap_us
        history.append(Admitted(now_us, policy.hit(now_us, min(cost, policy.most)).granted))

    assert_bound(policy, [hit for hit in history if hit.cost])


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 3)), max_size=12),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_a_bucket_is_overdrawn_exactly_where_some_window_holds_too_much(
    hits, limit, period_us, burst
):
    """The running debt agrees with the bound burst + W x rate held to every window there is."""
    history = sorted(Admitted(*hit) for hit in hits)
    fits = all(
        sum(hit.cost for hit in history[first : last + 1]) * period_us
        <= burst * period_us + (history[last].decided_us - history[first].decided_us) * limit
        for first in range(len(history))
        for last in range(first, len(history))
    )

    if fits:
        assert_bound(TokenBucket(limit, period_us, burst), history)
    else:
        with pytest.raises(AssertionError, match="under"):
            assert_bound(TokenBucket(limit, period_us, burst), history)


def test_a_window_is_half_open():
    """Two hits exactly one period apart are in no window together."""
    history = [Admitted(100, 1), Admitted(110, 1)]

    assert most_in_any_window(history, 10) == 1
    assert most_in_any_window(history, 11) == 2
    assert most_in_any_window([], 10) == 0


def test_fixed_windows_are_found_again_from_what_they_admitted():
    """The first hit after a window's end opens the next one; on the clock, at its multiple."""
    history = [Admitted(104, 1), Admitted(113, 2), Admitted(114, 3), Admitted(131, 1)]

    assert own_windows(history, 10) == {104: 3, 114: 3, 131: 1}
    assert own_windows(history, 10, align=True) == {100: 1, 110: 5, 130: 1}


@pytest.mark.parametrize(
    "policy",
    [sample for model in MODELS.values() for sample in model.samples(3, 10)],
    ids=lambda policy: policy.identity,
)
def test_one_too_many_is_seen(policy):
    """Four at once under a limit of three is an error for every algorithm."""
    with pytest.raises(AssertionError, match="under"):
        assert_bound(policy, [Admitted(5, 3), Admitted(5, 1)])

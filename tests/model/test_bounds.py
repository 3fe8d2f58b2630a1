"""The bounds are true of the models, also with refunds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machines.support import DEPTH
from tests.model import MODELS
from tests.model.concurrency import Concurrency

SAMPLES = [
    sample for model in MODELS.values() for sample in (model.samples(3, 6) + model.samples(5, 9))
]
steps = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["hit", "hit", "refund"]), st.integers(1, 5)),
    max_size=20,
)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda model: f"{model.identity}-{model.most}")
@settings(max_examples=30 * DEPTH)
@given(steps=steps)
def test_admitted_less_refunded_units_keep_the_bound(sample, steps):
    """They keep it in every window of one period, for calls at any times."""
    sample.forget()
    now_us, moved = 1_000, []
    for gap_us, mode, wanted in steps:
        now_us += gap_us
        cost = min(wanted, sample.most)
        answer = getattr(sample, mode)(now_us, cost)
        moved.append((now_us, answer.granted if mode == "hit" else -answer.granted))

    for start_us in range(990, now_us + 1):
        inside = sum(units for at, units in moved if start_us <= at < start_us + sample.period_us)
        assert inside <= sample.bound, f"{inside} from {start_us} under {sample}"


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcde"), st.integers(1, 3))))
def test_no_instant_holds_more_leases_than_the_limit(calls):
    """Any holders take them at any times, and no holder releases any."""
    places, now_us, held = Concurrency(3, 5), 1_000, []
    for gap_us, holder, cost in calls:
        now_us += gap_us
        before = len(places.live(now_us))
        places.acquire(now_us, cost, holder)
        held += [now_us] * (len(places.live(now_us)) - before)
        assert sum(since > now_us - 5 for since in held) <= 3

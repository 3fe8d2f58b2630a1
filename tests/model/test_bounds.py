"""The bounds are true of the models, also with refunds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machines.support import DEPTH
from tests.model import MODELS
from tests.model.concurrency import Concurrency
from tests.model.sliding_log import SlidingLog

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


charges = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 8), st.integers(1, 4), st.booleans()), max_size=20
)


@given(calls=charges, limit=st.integers(1, 4))
def test_held_units_keep_the_bound_whenever_they_are_used(calls, limit):
    """A unit charged at c and held for h may be used at any time from c to c + h.

    An attacker uses each unit in the window that is attacked, if it can be used there at all.
    """
    period_us, now_us, usable = 9, 1_000, []
    log = SlidingLog(limit, period_us)
    for gap_us, hold_us, cost, part in calls:
        now_us += gap_us
        log.change(hold_us=hold_us)
        granted = log.hit(now_us, min(cost, limit), 1 if part else None).granted
        usable.append((now_us, now_us + hold_us, granted))

    for start_us in range(990, now_us + 10):
        end_us = start_us + period_us
        inside = sum(units for first, last, units in usable if first < end_us and last >= start_us)
        assert inside <= limit, f"{inside} from {start_us} under {log}"


def test_without_a_hold_prepaid_units_would_exceed_the_bound():
    """Units charged at 0 and used at 4 share a window with those that are charged when the former leave."""
    used = {}
    for hold_us in (0, 4):
        log = SlidingLog(3, 9, hold_us)
        early, late = log.hit(1_000, 3).granted, log.hit(1_009, 3).granted
        used[hold_us] = early + late  # the early ones at 1004, the late ones at 1009

    assert used == {0: 6, 4: 3}

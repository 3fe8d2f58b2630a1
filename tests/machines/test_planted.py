"""State that no script wrote: a call never crashes on it, and it is forgotten within bounded time."""

from __future__ import annotations

import struct

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.histories import Admitted, most_in_any_window
from tests.machines.support import DEPTH, NOW_US, new_key
from tests.model import MODELS
from tests.model.base import Model
from tests.model.fixed_window import FixedWindow
from tests.model.several import Several
from tests.model.sliding_log import SlidingLog
from tests.model.token_bucket import TokenBucket
from tests.scripts import GIVEN_TIME_MS, SLACK_MS, Caller, field_of, several, single

POLICIES = [policy for model in MODELS.values() for policy in model.samples(5, 1_000)]
LOG = SlidingLog(5, 1_000)

#: Numbers that could stand where a time, a count or a fraction should.
wrong_numbers = st.one_of(
    st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 0.5, -1.0, 2.0**53, 1e300]),
    st.floats(),
    st.integers(-5, 10).map(float),
    st.integers(-3_000, 3_000).map(lambda off: float(NOW_US + off)),
    st.integers(-3_000, 3_000).map(lambda off: NOW_US + off + 0.5),
    st.just(float(NOW_US + 10**12)),
)
wrong_fields = st.one_of(
    st.binary(max_size=40),
    st.lists(wrong_numbers, min_size=1, max_size=4).map(
        lambda numbers: struct.pack(f"<{len(numbers)}d", *numbers)
    ),
)
wrong_entries = st.lists(
    st.one_of(
        st.sampled_from([b"", b"nan", b"inf", b"-inf", b"1e300", b"0x10", b" 7 ", b"seven"]),
        st.binary(max_size=8),
        st.integers(-3_000, 3_000).map(lambda off: str(NOW_US + off).encode()),
        st.just(str(NOW_US + 10**12).encode()),
    ),
    min_size=1,
    max_size=9,
)
NOW_ENTRY = str(NOW_US).encode()
calls = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 5)), min_size=1, max_size=20)


def plant(
    caller: Caller, model: Model, key: str, field: bytes, entries: list[bytes], expires: bool
) -> None:
    """Put wrong state where the model's script keeps its own."""
    if model.key_type == "list":
        caller.client.rpush(key, *entries)
    else:
        caller.client.hset(key, field_of(model, "p"), field)
    if expires:
        caller.client.pexpire(key, GIVEN_TIME_MS)


def check_reply(model: Model, reply: list[int], cost: int) -> None:
    """Hold five integers to what they can be whatever stands in the store."""
    granted, remaining, retry_us, reset_us, delay_us = reply
    assert granted in (0, cost)
    assert 0 <= remaining <= model.most
    assert 0 <= retry_us <= model.believed_us
    assert 0 <= reset_us <= model.believed_us
    assert 0 <= delay_us <= model.believed_us


@st.composite
def plans(draw: st.DrawFn) -> tuple[Model, bytes, list[bytes], bool]:
    """A policy, and what is planted for it."""
    return (
        draw(st.sampled_from(POLICIES)),
        draw(wrong_fields),
        draw(wrong_entries),
        draw(st.booleans()),
    )


def live(url: str, plan, steps, script_for) -> None:
    """Plant, call for a while, and see that it heals, with at most one more bound admitted."""
    model, field, entries, expires = plan
    key, caller, now_us, admitted = new_key(), Caller(url), NOW_US, []
    plant(caller, model, key, field, entries, expires)
    try:
        for gap_us, cost in steps:
            now_us += gap_us
            *reply, _ = caller.run([key], *script_for(model, now_us, "hit", cost))
            check_reply(model, reply[:5], cost)
            admitted.append(Admitted(now_us, reply[0]))
            if cost:
                # However it was found, and whatever was decided: it will go.
                most_ms = GIVEN_TIME_MS + SLACK_MS + model.believed_us // 1000 + 1
                assert 0 < caller.client.pttl(key) <= most_ms
        assert most_in_any_window(admitted, model.period_us) <= 2 * model.bound

        # The last of these calls may have brought a wrong time into reach: it counts from here on.
        *reply, _ = caller.run([key], *script_for(model, now_us, "hit", 1))
        now_us += model.believed_us + 1
        *reply, _ = caller.run([key], *script_for(model, now_us, "peek", model.most))
        assert reply[:5] == [0, model.most, 0, 0, 0]
    finally:
        caller.client.delete(key)
        caller.close()


@settings(max_examples=150 * DEPTH)
@given(plan=plans(), steps=calls)
@example(plan=(LOG, b"", [b"inf", NOW_ENTRY], True), steps=[(0, 4)])
@example(plan=(LOG, b"", [NOW_ENTRY, b"7", NOW_ENTRY], True), steps=[(0, 4)])
@example(plan=(LOG, b"", [NOW_ENTRY] * 9, False), steps=[(0, 5)])
def test_wrong_state_heals(any_store, plan, steps):
    """Each algorithm's own script, on garbage, far times, halves and keys without expiry."""
    live(
        any_store,
        plan,
        steps,
        lambda model, now_us, mode, cost: single(
            model, now_us, mode, cost, field=field_of(model, "p")
        ),
    )


@settings(max_examples=150 * DEPTH)
@given(plan=plans(), steps=calls)
def test_wrong_state_heals_among_several(store, plan, steps):
    """The script for several policies, on the same."""
    live(
        store,
        plan,
        steps,
        lambda model, now_us, mode, cost: several(
            [(model, 1, field_of(model, "p"))], now_us, mode, cost
        ),
    )


def test_one_policy_s_wrong_state_leaves_the_others_alone(store):
    """A field that cannot be read counts as unused, and its neighbours of the hash still count."""
    models = [FixedWindow(5, 1_000), TokenBucket(5, 1_000)]
    blocks = [(model, 1, field_of(model)) for model in models]
    key, caller, policies = new_key(), Caller(store), Several(models)
    try:
        caller.run([key], *several(blocks, NOW_US, "hit", 3))
        policies.hit(NOW_US, 3)
        caller.client.hset(key, blocks[0][2], b"garbage")
        models[0].forget()

        reply = caller.run([key], *several(blocks, NOW_US + 1, "hit", 1))

        expected = policies.hit(NOW_US + 1, 1)
        assert reply[:-1] == [number for one in expected.each for number in one[1:]]
    finally:
        caller.client.delete(key)
        caller.close()

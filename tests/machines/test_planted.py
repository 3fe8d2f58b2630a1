"""State that no script wrote: no call fails on it, and it stops to count within a bounded time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.histories import Admitted, most_in_any_window
from tests.machines.support import DEPTH, NOW_US, new_key
from tests.model import LEASES, MODELS
from tests.model.base import Model
from tests.model.concurrency import LONGEST_US, Concurrency
from tests.model.fixed_window import FixedWindow
from tests.model.several import Several
from tests.model.sliding_log import SlidingLog
from tests.model.sliding_window import SlidingWindow
from tests.model.token_bucket import TokenBucket
from tests.scripts import (
    GIVEN_TIME_MS,
    SLACK_MS,
    Caller,
    few,
    field_of,
    fit_few,
    several,
    single,
)

pytestmark = pytest.mark.usefixtures("unmeasured")

POLICIES = [policy for model in MODELS.values() for policy in model.samples(5, 1_000)]
POLICIES += [policy for model in LEASES.values() for policy in model.samples(5, 1_000)]
LOG, WINDOW, LEASE = SlidingLog(5, 1_000), SlidingWindow(5, 1_000), Concurrency(5, 1_000)

#: Numbers in the place of a time, a count or a fraction.
wrong_numbers = st.one_of(
    st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 0.5, -1.0, 2.0**53, 1e300]),
    st.floats(),
    st.integers(-5, 10).map(float),
    st.integers(-3_000, 3_000).map(lambda off: float(NOW_US + off)),
    st.integers(-3_000, 3_000).map(lambda off: NOW_US + off + 0.5),
    st.just(float(NOW_US + 10**12)),
)
wrong_reaches = st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1))
wrong_fields = st.one_of(
    st.binary(max_size=40),
    st.lists(wrong_numbers, min_size=1, max_size=4).map(
        lambda numbers: struct.pack(f"<{len(numbers)}d", *numbers)
    ),
    # A bucket's field: full_us, reach_s, and a fraction.
    st.builds(lambda full, reach: struct.pack("<dI", full, reach), wrong_numbers, wrong_reaches),
    st.builds(
        lambda full, reach, part, parts: struct.pack("<dI2d", full, reach, part, parts),
        *(wrong_numbers, wrong_reaches, wrong_numbers, wrong_numbers),
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
#: Members without an id, or with an end that is no whole microsecond or no possible time.
CENTURY_US = 36_525 * 86_400_000_000
wrong_members = st.dictionaries(
    st.one_of(
        st.sampled_from(["a:1", "a:2", "a", ":", "a:1:1", "a:01", "a:-1", "a:1e0"]),
        st.binary(max_size=4),
    ),
    st.one_of(
        st.sampled_from(
            [float("inf"), -float("inf"), 0.0, -1.0, 1e300, float(NOW_US + CENTURY_US)]
        ),
        st.integers(-3_000, 3_000).map(lambda off: float(NOW_US + off)),
        st.integers(-3_000, 3_000).map(lambda off: NOW_US + off + 0.5),
        st.integers(-3, 0).map(lambda off: float(NOW_US + LONGEST_US + off)),
    ),
    min_size=1,
    max_size=9,
)
NOW_ENTRY = str(NOW_US).encode()
MANY_BEFORE = struct.pack("<3d", NOW_US, 5, 2.0**52)
LEASE_STEPS = [(0, 5), (499, 1), (1, 5)]
FULL = {f"{holder}:1": float(NOW_US + 500) for holder in "abcde"}
STRANGER = b"a field of another program"
#: The time before each call, and its cost.
calls = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 5)), min_size=1, max_size=20)
RATE_MODES, LEASE_MODES = ["hit", "refund", "settle"], ["acquire", "renew", "release"]


class Plan(NamedTuple):
    """A policy, and wrong state for it; the type of its key decides which of these is stored."""

    model: Model
    field: bytes = b""
    entries: Sequence[bytes] = ()
    members: dict[str | bytes, float] = {}  # noqa: RUF012 (no test changes it)
    expires: bool = True


plans = st.builds(
    Plan, st.sampled_from(POLICIES), wrong_fields, wrong_entries, wrong_members, st.booleans()
)
#: Makes a call of a policy's own script, or of several, from now_us, mode, cost and holder.
ScriptFor = Callable[[Model, int, str, int, str], tuple[str, list[Any]]]


def plant(caller: Caller, key: str, plan: Plan) -> None:
    """Store wrong state under the key of the model's script."""
    if plan.model.key_type == "list":
        caller.client.rpush(key, *plan.entries)
    elif plan.model.key_type == "zset":
        caller.client.zadd(key, plan.members)
    else:
        caller.client.hset(key, mapping={field_of(plan.model, "p"): plan.field, STRANGER: b"stays"})
    if plan.expires:
        caller.client.pexpire(key, GIVEN_TIME_MS)


def check_reply(model: Model, reply: list[int], mode: str, cost: int) -> None:
    """Check that five integers are possible for any stored state."""
    granted, remaining, retry_us, reset_us, delay_us = reply
    assert granted in ((0, cost) if mode in ("hit", "acquire", "renew") else range(cost + 1))
    assert 0 <= remaining <= model.most
    assert 0 <= retry_us <= model.believed_us
    assert 0 <= reset_us <= model.believed_us
    assert 0 <= delay_us <= model.believed_us


def takes(model: Model) -> str:
    """Return the mode that takes units of the policy."""
    return "acquire" if isinstance(model, Concurrency) else "hit"


def live(
    url: str, plan: Plan, steps: list[tuple[int, int]], modes: list[str], script_for: ScriptFor
) -> list[Admitted]:
    """Store wrong state, call repeatedly, check that it is repaired; return the admitted calls."""
    model, caller, now_us, admitted = plan.model, Caller(url), NOW_US, []
    key, endless = new_key(), not plan.expires
    plant(caller, key, plan)
    try:
        for number, (gap_us, cost) in enumerate(steps):
            now_us += gap_us
            mode = modes[number % len(modes)]
            # Each call has a new holder; renew and release name the holder of the planted state.
            holder = "a" if mode in ("renew", "release") else f"caller {number}"
            *reply, _ = caller.run([key], *script_for(model, now_us, mode, cost, holder))
            check_reply(model, reply[:5], mode, cost)
            if mode == takes(model):
                admitted.append(Admitted(now_us, reply[0]))
            if cost:
                life_ms = check_life(caller, key, model, endless)
                endless = endless and life_ms == -1
                assert life_ms != -2 or mode != takes(model)

        # The last call may have reached a wrong stored time, which counts from then on.
        caller.run([key], *script_for(model, now_us, takes(model), 1, "the last holder"))
        if model.key_type == "hash":
            assert caller.client.hget(key, STRANGER) == b"stays"
        now_us += model.believed_us + 1
        *reply, _ = caller.run([key], *script_for(model, now_us, "peek", model.most, "a"))
        assert reply[:5] == [0, model.most, 0, 0, 0]
        # The next hit gives an expiry also to a key that had none.
        caller.run([key], *script_for(model, now_us, takes(model), 1, "a later holder"))
        check_life(caller, key, model, endless=False)
    finally:
        caller.client.delete(key)
        caller.close()
    return admitted


def check_life(caller: Caller, key: str, model: Model, endless: bool) -> int:
    """Check that the key has an expiry, and none too late; an ``endless`` key had none before."""
    most_ms = GIVEN_TIME_MS + SLACK_MS + model.believed_us // 1000 + 1
    life_ms = caller.client.pttl(key)
    assert life_ms == -2 or 0 < life_ms <= most_ms or (endless and life_ms == -1)
    return int(life_ms)


def check_bound(model: Model, admitted: list[Admitted]) -> None:
    """Check that wrong state admits at most one more bound, and for leases no more than the limit."""
    most = most_in_any_window(admitted, model.period_us)
    assert most <= (model.limit if isinstance(model, Concurrency) else 2 * model.bound)


def alone(model: Model, now_us: int, mode: str, cost: int, holder: str) -> tuple[str, list[Any]]:
    """Make a call of the algorithm's own script."""
    return single(model, now_us, mode, cost, field=field_of(model, "p"), holder=holder)


def packed(model: Model, now_us: int, mode: str, cost: int, holder: str) -> tuple[str, list[Any]]:
    """Make a packed call of the algorithm's own script."""
    return single(model, now_us, mode, cost, field=field_of(model, "p"), holder=holder, packed=True)


def among_few(
    model: Model, now_us: int, mode: str, cost: int, holder: str
) -> tuple[str, list[Any]]:
    """Make a call of the script for few policies, where it decides this one; else a packed call."""
    blocks = [(model, 1, field_of(model, "p")), (FixedWindow(10**12, 1), 1, "another")]
    if mode == "hit" and fit_few(blocks):
        return few(blocks, now_us, cost)
    return packed(model, now_us, mode, cost, holder)


def among_several(
    model: Model, now_us: int, mode: str, cost: int, holder: str
) -> tuple[str, list[Any]]:
    """Make a call of the script for several policies."""
    return several([(model, 1, field_of(model, "p"))], now_us, mode, cost, holder=holder)


@settings(max_examples=100 * DEPTH)
@given(plan=plans, steps=calls, script_for=st.sampled_from([alone, packed]))
@example(plan=Plan(LOG, entries=[b"inf", NOW_ENTRY]), steps=[(0, 4)], script_for=alone)
@example(plan=Plan(LOG, entries=[NOW_ENTRY, b"7", NOW_ENTRY]), steps=[(0, 4)], script_for=packed)
@example(plan=Plan(LOG, entries=[NOW_ENTRY] * 9, expires=False), steps=[(0, 5)], script_for=alone)
@example(plan=Plan(WINDOW, MANY_BEFORE), steps=[(0, 1)], script_for=packed)
@example(plan=Plan(LEASE, members=FULL, expires=False), steps=LEASE_STEPS, script_for=alone)
@example(plan=Plan(LEASE, members={"a:1": float("inf")}), steps=[(0, 5)], script_for=packed)
def test_wrong_state_is_repaired(any_store, plan, steps, script_for):
    """Each script repairs unreadable values, times too far ahead, fractions, and keys without expiry."""
    check_bound(plan.model, live(any_store, plan, steps, [takes(plan.model)], script_for))


@settings(max_examples=80 * DEPTH)
@given(plan=plans, steps=calls, script_for=st.sampled_from([among_several, among_few]))
def test_wrong_state_is_repaired_by_several(store, plan, steps, script_for):
    """The scripts for few and for several policies repair the same."""
    check_bound(plan.model, live(store, plan, steps, [takes(plan.model)], script_for))


@settings(max_examples=100 * DEPTH)
@given(plan=plans, steps=calls, data=st.data())
@example(plan=Plan(LOG, entries=[NOW_ENTRY, b"junk", NOW_ENTRY]), steps=[(0, 3)] * 3, data=None)
def test_no_correction_fails_on_wrong_state(store, plan, steps, data):
    """Refund, settle, renew and release do not fail either."""
    modes = LEASE_MODES if isinstance(plan.model, Concurrency) else RATE_MODES
    script_for = alone
    if data:
        modes = data.draw(st.lists(st.sampled_from(modes), min_size=1, max_size=4))
        script_for = data.draw(st.sampled_from([alone, packed, among_several]))
    live(store, plan, steps, modes, script_for)


@pytest.mark.parametrize("script_for", [alone, packed, among_several, among_few])
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        pytest.param(model, kind, id=f"{model.identity}-{kind}")
        for model in POLICIES
        for kind in ("string", "hash", "list", "set", "zset")
        if kind != model.key_type
    ],
)
def test_a_key_of_another_type_is_unchanged_until_a_reset(store, model, script_for, kind):
    """Every mode but reset returns an error."""
    caller, key = Caller(store), new_key()
    plants: dict[str, Callable[[], object]] = {
        "string": lambda: caller.client.set(key, "ours"),
        "hash": lambda: caller.client.hset(key, "a", "ours"),
        "list": lambda: caller.client.rpush(key, NOW_US),
        "set": lambda: caller.client.sadd(key, "a:1"),
        "zset": lambda: caller.client.zadd(key, {"a:1": NOW_US + 500}),
    }
    try:
        plants[kind]()
        before = caller.dumps([key])
        modes = LEASE_MODES if isinstance(model, Concurrency) else RATE_MODES
        for mode in [*modes, "peek"]:
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                caller.run([key], *script_for(model, NOW_US, mode, 1, "a"))
        assert caller.dumps([key]) == before
        assert caller.lives_ms([key]) == [-1]

        *reply, _ = caller.run([key], *script_for(model, NOW_US, "reset", 1, "a"))
        assert reply == [0, model.most, 0, 0, 0]
        *reply, _ = caller.run([key], *script_for(model, NOW_US, takes(model), 1, "a"))
        assert reply[:3] == [1, model.most - 1, 0]
    finally:
        caller.client.delete(key)
        caller.close()


def test_one_policy_s_wrong_state_does_not_change_the_others(store):
    """An unreadable field counts as unused, and the other fields of the hash still count."""
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
        assert reply[:-1] == [number for answer in expected.each for number in answer[1:]]
    finally:
        caller.client.delete(key)
        caller.close()

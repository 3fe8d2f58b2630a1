"""The state and expiry that calls leave on a server, and that calls without a charge write nothing."""

from __future__ import annotations

import struct

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.utils import str_if_bytes

from limiter import FixedWindow, Limiter, SlidingLog, TokenBucket
from tests.contract import calls
from tests.machines.support import NOW_US
from tests.scripts import Caller, sha1

SCRIPTS = calls.FORMS
MODES = ["hit", "hit", "hit", "peek", "refund", "settle", "renew", "release", "reset"]

#: Texts that a wrong caller may send as a number.
HOSTILE = [
    *(
        "nan",
        "-nan",
        "inf",
        "-inf",
        "0x10",
        "1e3",
        "1e300",
        "-1",
        "-0",
        "0.5",
        "1_000",
        "two",
        "nil",
    ),
    *("", " ", " 1", "1 ", "1;", "\0", "\u0663", str(2**53), str(2**53 - 1), str(2**63)),
]
#: Numbers that a wrong caller may pack.
HOSTILE_NUMBERS = [
    *(float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 0.0, 0.5, 1.5, 1e300, 5e-324),
    *(float(2**53), float(2**53 - 1), float(2**63)),
]
hostile_numbers = st.one_of(
    st.sampled_from(HOSTILE_NUMBERS), st.integers(-3, 10).map(float), st.floats()
)
hostile = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(-3, 10).map(str),
    st.floats().map(repr),
)


@pytest.fixture
def caller(any_store):
    """Connect to each kind of server."""
    caller = Caller(any_store)
    yield caller
    caller.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_hit_sets_the_expiry_of_every_key(any_store, script):
    """The expiry is right after every step, by the server's clock and with a given time."""
    calls.check_charge_gives_life(any_store, script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_call_that_takes_nothing_writes_nothing(any_store, script):
    """After a denied hit, a peek or cost 0, state, expiry and the server's count of writes are the same."""
    calls.check_nothing_written(any_store, script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_server_s_clock_decides(any_store, script):
    """The time of the decision is that of the server which owns the key."""
    calls.check_server_clock(any_store, script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_expiries_are_right_after_any_calls(store, script):
    """After any calls, a key lives for as long as its state counts, and it always expires."""

    @settings(max_examples=30)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(MODES),
                st.integers(0, 5),
                st.booleans(),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def run(steps):
        tested = calls.subject(caller, script)
        for mode, cost, partly in steps:
            if not tested.blocks_of(mode):
                continue
            at_least = 1 if partly and cost > 1 and mode == "hit" else None
            *reply, _ = tested.run(mode, cost, at_least=at_least)
            for number, (state, life_ms) in enumerate(
                zip(tested.state(), tested.lives_ms(), strict=True), 1
            ):
                longest_us = max(calls.resets_us(tested, mode, reply, number), default=0)
                if state is None:
                    assert life_ms == -2
                    assert mode == "reset" or longest_us == 0
                else:
                    # Another policy of the hash may have set a later expiry, but at most an hour.
                    assert longest_us // 1000 - 1000 <= life_ms <= 3_600_000
        calls.check_stored_numbers(tested)

    caller = Caller(store)
    run()
    caller.close()


def spoil(packed: bytes, data: st.DataObject) -> bytes:
    """Change some of the packed numbers, or the length."""
    numbers = list(struct.unpack(f"<{len(packed) // 8}d", packed))
    for _ in range(data.draw(st.integers(0, 3))):
        numbers[data.draw(st.integers(0, len(numbers) - 1))] = data.draw(hostile_numbers)
    spoiled = struct.pack(f"<{len(numbers)}d", *numbers)
    end = data.draw(st.one_of(st.just(len(spoiled)), st.integers(0, len(spoiled))))
    return spoiled[:end] + data.draw(st.one_of(st.just(b""), st.binary(max_size=16)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_hostile_arguments_are_refused_or_leave_valid_state(store, script):
    """An error leaves the state unchanged; an accepted call leaves whole numbers and an expiry."""

    @settings(max_examples=150)
    @given(st.data())
    def run(data):
        tested = calls.subject(caller, script)
        tested.run("hit", 2, NOW_US)
        modes = [mode for mode in MODES if tested.blocks_of(mode)]
        mode, at_least = data.draw(st.sampled_from(modes)), data.draw(st.sampled_from([None, 1]))
        words = tested.words(mode, 1, NOW_US, at_least)
        if isinstance(words[0], bytes):
            words[0] = spoil(words[0], data)
        for _ in range(data.draw(st.integers(1, 3))):
            if isinstance(words[0], bytes) and data.draw(st.booleans()):
                continue
            words[data.draw(st.integers(0, len(words) - 1))] = data.draw(hostile)
        if data.draw(st.booleans()):
            words = words[: data.draw(st.integers(0, len(words)))]
        before, lives = tested.state(), tested.lives_ms()
        try:
            reply = tested.send(words)
        except redis.ResponseError:
            assert tested.state() == before
            assert all(now <= then for now, then in zip(tested.lives_ms(), lives, strict=True))
        else:
            assert all(type(number) is int for number in reply)
            assert reply[0] >= 0
            calls.check_stored_numbers(tested)
        assert all(life_ms != -1 for life_ms in tested.lives_ms())
        caller.client.delete(*tested.keys)

    caller = Caller(store)
    run()
    caller.close()


@pytest.mark.parametrize(
    "numbers",
    [
        [0, 1, 1, 1],
        [0, 1, 1, 1, 1, 5, 60, 0],
        [0, 1, 1, 1, *[1, 5, 60, 0] * 4],
        [0, 1, 1, 1, 1, 5, 60, 0, 4, 5, 60, 0],
        [0, 1, 1, 1, 0, 5, 60, 0, 1, 5, 60, 0],
        [0, 1, 1, 1, 1.5, 5, 60, 0, 1, 5, 60, 0],
        [0, 1, 1, 1, *[1, 5, 60, 0] * 2, 9, 5, 60, 0],
    ],
    ids=["none", "one", "four", "4", "0", "1.5", "the third"],
)
def test_few_takes_two_or_three_policies_of_known_algorithms(caller, subject, numbers):
    """Another number of policies, or an unknown algorithm, is an error, and writes nothing."""
    key = f"rl:{{{subject}}}:few:v1"
    packed = struct.pack(f"<{len(numbers)}d", *numbers)

    with pytest.raises(
        redis.ResponseError, match=r"of few v1 is out of range|data string too short"
    ):
        caller.run([key], "few", [packed, "a", "b", "c"])
    assert not caller.client.exists(key)


def test_one_policy_and_several_keep_the_same_state(store, subject):
    """If a limiter gets a second policy, or loses it, the counts stay."""
    one = [TokenBucket(7, per=60)]
    two = [*one, SlidingLog(9, per=60)]
    three = [*two, FixedWindow(8, per=60)]
    left = []
    for policies in (one, two, three, two, one, two[1:], three[2:]):
        with Limiter(policies, store=store, name="grows", timeout=5.0) as limiter:
            left.append([decision.remaining for decision in limiter.hit(subject).each])

    assert left == [[6], [5, 8], [4, 7, 7], [3, 6], [2], [5], [6]]


def test_the_server_finds_exactly_the_keys_that_are_passed(caller):
    """COMMAND GETKEYS, by which clusters and proxies route, returns the call's keys and nothing else."""
    for script in SCRIPTS:
        tested = calls.subject(caller, script)
        words = [
            "EVALSHA",
            sha1(tested.script),
            len(tested.keys),
            *tested.keys,
            *tested.words("hit", 1),
        ]
        named = caller.client.execute_command("COMMAND GETKEYS", *words)
        assert [str_if_bytes(key) for key in named] == tested.keys


def test_the_library_passes_every_key_and_only_those(store, subject):
    """After a hit of the library, the keys with the subject are those of the call."""
    policies = [TokenBucket(7, per=60), SlidingLog(9, per=60), SlidingLog(99, per=3600)]
    with Limiter(policies, store=store, name="keys", timeout=5.0) as limiter:
        call = limiter._core.plan.call("hit", subject, 1)
        limiter.hit(subject)
    with redis.Redis.from_url(store) as client:
        stored = list(client.scan_iter(match=f"rl:{{{subject}}}*", count=10_000))

    assert len(stored) == 3
    assert set(stored) == set(call.keys)

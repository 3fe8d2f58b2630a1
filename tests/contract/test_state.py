"""What calls leave behind on a server: state, lives, and nothing where nothing was taken."""

from __future__ import annotations

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.utils import str_if_bytes

from limiter import FixedWindow, Limiter, SlidingLog, TokenBucket
from tests.contract import calls
from tests.machines.support import NOW_US
from tests.scripts import Caller, sha1

SCRIPTS = list(calls.MODELS)
MODES = ["hit", "hit", "hit", "peek", "refund", "settle", "renew", "release", "reset"]

#: What somebody might send in the place of a number.
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
hostile = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(-3, 10).map(str),
    st.floats().map(repr),
)


@pytest.fixture
def caller(any_store):
    """A connection to each kind of server."""
    caller = Caller(any_store)
    yield caller
    caller.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_hit_gives_every_key_its_life(any_store, script):
    """At the server's clock and at a given one, after every step."""
    calls.check_charge_gives_life(any_store, script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_who_takes_nothing_writes_nothing(any_store, script):
    """Denied, peeked or of cost 0: the state, its life and the server's count of changes stay."""
    calls.check_nothing_written(any_store, script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_server_s_clock_decides(any_store, script):
    """Nobody's clock but that of the server which owns the key."""
    calls.check_server_clock(any_store, script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_lives_hold_through_any_calls(store, script):
    """Whatever is called: a key that exists lives for as long as it counts, and it always ends."""

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
        asked = calls.subject(caller, script)
        for mode, cost, partly in steps:
            if not asked.asked(mode):
                continue
            at_least = 1 if partly and cost > 1 and mode == "hit" else None
            *reply, _ = asked.run(mode, cost, at_least=at_least)
            for number, (state, life_ms) in enumerate(
                zip(asked.state(), asked.lives_ms(), strict=True), 1
            ):
                longest_us = max(calls.resets_us(asked, mode, reply, number), default=0)
                if state is None:
                    assert life_ms == -2
                    assert mode == "reset" or longest_us == 0
                else:
                    # Another of the hash may have asked for more, but never for more than an hour.
                    assert longest_us // 1000 - 1000 <= life_ms <= 3_600_000
        calls.check_stored_numbers(asked)

    caller = Caller(store)
    run()
    caller.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_hostile_arguments_change_nothing_or_what_they_say(store, script):
    """An error leaves the state as it was; what is accepted leaves whole numbers and a life."""

    @settings(max_examples=150)
    @given(st.data())
    def run(data):
        asked = calls.subject(caller, script)
        asked.run("hit", 2, NOW_US)
        modes = [mode for mode in MODES if asked.asked(mode)]
        mode, at_least = data.draw(st.sampled_from(modes)), data.draw(st.sampled_from([None, 1]))
        words = asked.words(mode, 1, NOW_US, at_least)
        for _ in range(data.draw(st.integers(1, 3))):
            words[data.draw(st.integers(0, len(words) - 1))] = data.draw(hostile)
        if data.draw(st.booleans()):
            words = words[: data.draw(st.integers(0, len(words)))]
        before, lives = asked.state(), asked.lives_ms()
        try:
            reply = asked.send(words)
        except redis.ResponseError:
            assert asked.state() == before
            assert all(now <= then for now, then in zip(asked.lives_ms(), lives, strict=True))
        else:
            assert all(type(number) is int for number in reply)
            assert reply[0] >= 0
            calls.check_stored_numbers(asked)
        assert all(life_ms != -1 for life_ms in asked.lives_ms())
        caller.client.delete(*asked.keys)

    caller = Caller(store)
    run()
    caller.close()


def test_one_policy_and_several_keep_the_same_state(store, subject):
    """A limiter that goes from one policy to two, and back, keeps what was used."""
    one = [TokenBucket(7, per=60)]
    two = [*one, SlidingLog(9, per=60)]
    three = [*two, FixedWindow(8, per=60)]
    left = []
    for policies in (one, two, three, two, one, two[1:], three[2:]):
        with Limiter(policies, store=store, name="grows", timeout=5.0) as limiter:
            left.append([decision.remaining for decision in limiter.hit(subject).each])

    assert left == [[6], [5, 8], [4, 7, 7], [3, 6], [2], [5], [6]]


def test_the_server_finds_exactly_the_keys_that_are_passed(caller):
    """COMMAND GETKEYS, by which clusters and proxies route, names each key and nothing else."""
    for script in SCRIPTS:
        asked = calls.subject(caller, script)
        words = ["EVALSHA", sha1(script), len(asked.keys), *asked.keys, *asked.words("hit", 1)]
        found = caller.client.execute_command("COMMAND GETKEYS", *words)
        assert [str_if_bytes(key) for key in found] == asked.keys


def test_the_library_passes_every_key_and_only_those(store, subject):
    """After a hit of the library no other key holds the subject, and all share one slot."""
    policies = [TokenBucket(7, per=60), SlidingLog(9, per=60), SlidingLog(99, per=3600)]
    with Limiter(policies, store=store, name="keys", timeout=5.0) as limiter:
        call = limiter._core.plan.call("hit", subject, 1)
        limiter.hit(subject)
    with redis.Redis.from_url(store) as client:
        found = list(client.scan_iter(match=f"rl:{{{subject}}}*", count=10_000))

    assert len(found) == 3
    assert set(found) == set(call.keys)

"""What the vectors do not show of ``reservation``: large logs, refused writes, wrong arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.utils import str_if_bytes

from service.demo.servers import Server
from tests.contract.calls import changes
from tests.contract.test_state import hostile
from tests.machines.support import NOW_US, new_key
from tests.model.fixed_window import FixedWindow
from tests.model.sliding_log import SlidingLog
from tests.model.token_bucket import TokenBucket
from tests.scripts import GIVEN_TIME_MS, SLACK_MS, Block, Caller, field_of, reservation, sha1

PERIOD_US = 60_000_000
LIFE_MS = 600_000


class Subject:
    """An unused subject under a window, a log and a bucket, and one reservation of it."""

    def __init__(self, url: str, limit: int = 5) -> None:
        self.caller = Caller(url)
        key = new_key("reservation")
        models = [kind(limit, PERIOD_US) for kind in (FixedWindow, SlidingLog, TokenBucket)]
        log = f"{key}:{field_of(models[1])}"
        self.keys = [key, log, f"{key}:reservation:a1"]
        self.blocks: list[Block] = [
            (model, number, field_of(model))
            for model, number in zip(models, (1, 2, 1), strict=True)
        ]

    def words(self, mode: str, *costs: int, life_ms: int = LIFE_MS, now_us: int = 0) -> list[Any]:
        """The arguments of a call; one cost is for all policies."""
        each = costs if len(costs) > 1 else costs * len(self.blocks)
        return reservation(self.blocks, now_us, mode, each, life_ms)[1]

    def run(self, mode: str, *costs: int, **more: int) -> tuple[int, list[int]]:
        """Call the script; return the state, and the units that each policy granted."""
        *numbers, state, _ = self.send(self.words(mode, *costs, **more))
        return state, numbers[::5]

    def send(self, words: list[Any]) -> list[int]:
        """Call the script with any arguments."""
        return self.caller.run(self.keys, "reservation", words)

    def everything(self) -> tuple[list[bytes | None], int]:
        """The content of every key, and the server's number of writes."""
        return self.caller.dumps(self.keys), changes(self.caller.client)


@pytest.fixture
def subject(any_store: str) -> Iterator[Subject]:
    """A subject on each kind of server."""
    subject = Subject(any_store)
    yield subject
    subject.caller.client.delete(*subject.keys)
    subject.caller.close()


def test_the_expiry_of_every_key(subject: Subject) -> None:
    """By the server's clock, and an hour later under a given time; a repeated call does not move it."""
    for given_us, slack_ms in ((0, 0), (NOW_US, GIVEN_TIME_MS)):
        for mode, life_ms in (("reserve", LIFE_MS), ("settle", 5_000)):
            for _ in range(2):
                subject.run(mode, 3, life_ms=life_ms, now_us=given_us)
                window_ms, log_ms, record_ms = subject.caller.lives_ms(subject.keys)
                # A few seconds may pass between the call and this check on a busy machine.
                assert 0 <= life_ms + slack_ms - record_ms < 4_000
                for state_ms in (window_ms, log_ms):
                    assert 0 <= PERIOD_US / 1_000 + SLACK_MS + slack_ms - state_ms < 5_000
        subject.caller.client.delete(*subject.keys)


def test_a_call_that_moves_nothing_writes_nothing(subject: Subject) -> None:
    """A denied or repeated call, and a settlement of what was never reserved."""

    def writes_nothing(mode: str, cost: int, life_ms: int, state: int) -> None:
        before = subject.everything()
        assert subject.run(mode, cost, life_ms=life_ms)[0] == state
        assert subject.everything() == before

    writes_nothing("settle", 0, 0, 0)
    assert subject.run("reserve", 4) == (1, [4, 4, 4])
    assert subject.run("reserve", 4, life_ms=1)[0] == 2  # it notes that it has found the record
    writes_nothing("reserve", 4, 1, 2)
    writes_nothing("reserve", 5, 1, 2)
    writes_nothing("settle", 0, 0, 0)
    assert subject.run("settle", 2) == (1, [2, 2, 2])
    writes_nothing("settle", 0, 1, 3)
    writes_nothing("settle", 0, 0, 3)
    writes_nothing("reserve", 1, 1, 3)
    subject.caller.client.delete(subject.keys[2])
    writes_nothing("reserve", 4, 1, 0)


def test_a_log_moves_4000_units_at_a_time(any_store: str) -> None:
    """The record keeps the rest, and its expiry; the other policies are settled by the first call."""
    subject = Subject(any_store, limit=30_000)
    client, record = subject.caller.client, subject.keys[2]
    assert subject.run("reserve", 1_000, 500, 1_000) == (1, [1_000, 500, 1_000])
    costs = (200, 9_000, 2_500)
    for expected, text in [
        ((2, [800, 4_000, 1_500]), b"200 4500 2500"),
        ((2, [0, 4_000, 0]), b"200 8500 2500"),
    ]:
        assert subject.run("settle", *costs, life_ms=1_000) == expected
        assert client.get(record) == text
        assert 1_000 < client.pttl(record) <= LIFE_MS
    # Another caller, who knows another cost, goes on from there.
    assert subject.run("reserve", 1)[0] == 2
    assert subject.run("settle", 200, 0, 2_500) == (2, [0, 4_000, 0])
    assert client.get(record) == b"200 4500 2500 +"
    assert subject.run("settle", 200, 500, 2_500) == (1, [0, 4_000, 0])
    assert client.get(record) == b"-1"
    assert client.llen(subject.keys[1]) == 500
    client.delete(*subject.keys)
    subject.caller.close()


@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [("maxmemory", "1", "OOM"), ("min-replicas-to-write", "1", "NOREPLICAS")],
)
def test_a_store_that_refuses_writes(own: Server, setting: str, value: str, error: str) -> None:
    """Nothing is changed, in neither mode; afterwards the same calls work."""
    subject = Subject(own.url)
    client = subject.caller.client
    usual = client.config_get(setting)[setting]

    def refused(mode: str, cost: int, life_ms: int = LIFE_MS) -> None:
        before = subject.caller.dumps(subject.keys)
        client.config_set(setting, value)
        with pytest.raises(redis.ResponseError, match=f"(?i){error}|maxmemory|replicas"):
            subject.run(mode, cost, life_ms=life_ms)
        client.config_set(setting, usual)
        assert subject.caller.dumps(subject.keys) == before

    refused("reserve", 3)
    assert subject.run("reserve", 3) == (1, [3, 3, 3])
    for cost in (1, 3, 7):
        refused("settle", cost)
    assert subject.run("settle", 1) == (1, [2, 2, 2])
    subject.caller.close()


def test_hostile_arguments(store: str) -> None:
    """An error leaves everything unchanged; after an accepted call, every key has an expiry."""
    subject = Subject(store)

    @settings(max_examples=80)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        # Not at the end: hypothesis may end an example anywhere.
        subject.caller.client.delete(*subject.keys)
        subject.run("reserve", 2, now_us=NOW_US)
        mode = data.draw(st.sampled_from(["reserve", "settle"]))
        if data.draw(st.booleans()):
            subject.caller.client.set(subject.keys[2], data.draw(hostile), px=LIFE_MS)
        words = subject.words(mode, 1, now_us=NOW_US)
        for _ in range(data.draw(st.integers(1, 3))):
            words[data.draw(st.integers(0, len(words) - 1))] = data.draw(hostile)
        words = words[: data.draw(st.one_of(st.just(len(words)), st.integers(0, len(words))))]
        before = subject.caller.dumps(subject.keys)
        try:
            reply = subject.send(words)
        except redis.ResponseError:
            assert subject.caller.dumps(subject.keys) == before
        else:
            assert reply[-2] in (0, 1, 2, 3)
        assert all(life_ms != -1 for life_ms in subject.caller.lives_ms(subject.keys))

    run()
    subject.caller.client.delete(*subject.keys)
    subject.caller.close()


def test_a_record_is_small(redis_store: str) -> None:
    """Without its name; the mark, of which there are most, is smaller still."""
    subject = Subject(redis_store)
    record = subject.keys[2]
    for mode, most_bytes in (("reserve", 88), ("settle", 72)):
        subject.run(mode, 3)
        used = subject.caller.client.memory_usage(record, samples=0) - len(record)
        assert used <= most_bytes, f"{used} bytes after {mode}"
    subject.caller.client.delete(*subject.keys)
    subject.caller.close()


def test_the_server_finds_the_keys(subject: Subject) -> None:
    """COMMAND GETKEYS, by which clusters route, returns the record, too; the time is the server's."""
    words = ["EVALSHA", sha1("reservation"), 3, *subject.keys, *subject.words("reserve", 1)]
    named = subject.caller.client.execute_command("COMMAND GETKEYS", *words)
    assert [str_if_bytes(key) for key in named] == subject.keys

    seconds, micros = subject.caller.client.time()
    *_, now_us = subject.send(subject.words("reserve", 1))
    later_seconds, later_micros = subject.caller.client.time()
    assert seconds * 1_000_000 + micros <= now_us <= later_seconds * 1_000_000 + later_micros

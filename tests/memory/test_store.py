"""The store's own promises beyond the scripts' rules: threads, forks, a clock, a bound on memory."""

from __future__ import annotations

import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from inspect import signature
from typing import Any

import pytest

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    InvalidSetting,
    LeakyBucket,
    SlidingLog,
    SlidingWindow,
    StoreRefused,
    TokenBucket,
)
from limiter.call import Block
from limiter.memory import MemoryStore
from limiter.memory import store as module
from limiter.policies import Policy
from limiter.testing import Clock
from tests.memory.support import call_of, clock_us, look, plant
from tests.parallel import in_threads

LIMIT = 100
POLICIES: list[Policy] = [
    FixedWindow(LIMIT, "day"),
    SlidingLog(LIMIT, "day"),
    SlidingWindow(LIMIT, "day"),
    TokenBucket(LIMIT, "day"),
    GCRA(LIMIT, "day"),
    LeakyBucket(LIMIT, "day"),
    Concurrency(LIMIT, "day"),
]


def hit(
    store: MemoryStore,
    policy: Policy,
    name: str = "subject",
    cost: int = 1,
    now_us: int = 0,
    lease: str = "one",
) -> list[int]:
    """Take from one policy."""
    mode = "acquire" if policy.leases else "hit"
    block = Block(policy, 0, cost, lease=lease if policy.leases else "")
    return store.run(call_of(mode, 0, now_us, (name.encode(),), (block,)))


@pytest.fixture
def fast_switches() -> Iterator[None]:
    """Interrupt threads so often that some are in the middle of a call."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_threads_get_exactly_the_limit(policy: Policy, fast_switches: None) -> None:
    """64 threads on one key, each with more calls than its share."""
    store, granted = MemoryStore(), [0] * 64

    def work(number: int) -> None:
        for turn in range(5):
            granted[number] += hit(store, policy, lease=f"{number}-{turn}")[0]

    in_threads(64, work)
    assert sum(granted) == LIMIT


def test_threads_on_many_keys_lose_nothing(fast_switches: None) -> None:
    """Keys are added, removed and reset while other threads count."""
    policy, store, granted = SlidingLog(10**5, "day"), MemoryStore(most_subjects=1_000), [0] * 64

    def work(number: int) -> None:
        for turn in range(60):
            granted[number] += hit(store, policy, "shared")[0]
            hit(store, policy, f"own-{number}-{turn}")
            if turn % 7 == 0:
                name = f"own-{number}-{turn}".encode()
                store.run(call_of("reset", 0, 0, (name,), (Block(policy, 0, 1),)))

    in_threads(64, work)
    assert sum(granted) == 64 * 60
    assert hit(store, policy, "shared")[1] == 10**5 - 64 * 60 - 1
    assert len(store) <= 1_000


@pytest.mark.slow
def test_a_fork_has_free_locks_and_complete_state() -> None:
    """While threads are in the middle of calls."""
    policy, store, ends = SlidingLog(10**5, "day"), MemoryStore(), threading.Event()
    both = [FixedWindow(10**9, "day", name="a"), FixedWindow(10**9, "day", name="b")]
    blocks = tuple(Block(policy, 0, 3) for policy in both)

    def busy() -> None:
        while not ends.is_set():
            store.run(call_of("hit", 0, 0, (b"both",), blocks))
            hit(store, policy, cost=100)

    threads = [threading.Thread(target=busy, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                reply = store.run(call_of("hit", 0, 0, (b"both",), blocks))
                # Both policies were charged alike, to the last call before the fork.
                os._exit(0 if reply[1] == reply[6] else 1)
            assert _status(child) == 0
    finally:
        ends.set()
        for thread in threads:
            thread.join(30)
    assert hit(store, FixedWindow(10**9, "day"), "after")[0] == 1


def _status(child: int) -> int:
    """The child's exit code, within ten seconds."""
    for _ in range(1_000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


def test_a_child_counts_for_itself() -> None:
    """After a fork there are two stores, with the same counts from before."""
    policy, store = FixedWindow(5, "day"), MemoryStore()
    hit(store, policy, cost=3)
    child = os.fork()
    if child == 0:
        os._exit(hit(store, policy, cost=2)[0])
    assert _status(child) == 2
    assert hit(store, policy, cost=2)[:2] == [2, 0]


def test_a_call_that_is_interrupted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call is decided."""
    policy, store, decide = FixedWindow(5, "day"), MemoryStore(), module.ask

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "ask", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hit(store, policy)
    monkeypatch.setattr(module, "ask", decide)
    assert hit(store, policy)[:2] == [1, 4]


def test_the_clock_is_the_walls_and_never_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the wall's clock changes after the store was made."""
    store = MemoryStore()
    assert abs(clock_us(store) - time.time_ns() // 1_000) < 1_000_000
    began = clock_us(store)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    times = [clock_us(store) for _ in range(1_000)]
    assert times == sorted(times)
    assert began <= times[0]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_an_expired_key_is_unused(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key lives for a second longer than its state counts; then the subject is unused."""
    store = MemoryStore()
    reset_us = hit(store, policy, cost=3)[3]
    life_us = -(-reset_us // 1_000) * 1_000 + 1_000_000
    began = time.monotonic_ns

    monkeypatch.setattr(time, "monotonic_ns", lambda: began() + (life_us - 100_000) * 1_000)
    assert set(look(store, ["subject"])) == {"subject"}
    monkeypatch.setattr(time, "monotonic_ns", lambda: began() + life_us * 1_000)
    assert not look(store, ["subject"])
    assert hit(store, policy, cost=0)[1:5] == [LIMIT, 0, 0, 0]
    assert len(store) == 0


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None, "9"])
def test_the_bound_is_a_whole_number_from_1(most: Any) -> None:
    """The message says what is accepted."""
    with pytest.raises(InvalidSetting, match="expected a whole number from 1"):
        MemoryStore(most_subjects=most)


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    """Ten times as many subjects as may be kept, and as many again: nothing grows."""
    assert signature(MemoryStore).parameters["most_subjects"].default == 100_000
    store, policy = MemoryStore(most_subjects=500), FixedWindow(5, "hour")
    for number in range(5_000):
        hit(store, policy, f"first-{number}")
    tracemalloc.start()
    try:
        sizes = []
        for turn in range(3):
            for number in range(2_500):
                hit(store, policy, f"then-{turn}-{number}")
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(store) == 500
    assert len(store._heap) <= 2 * 500 + 65
    assert max(sizes) < 1.1 * sizes[0]


def test_the_subject_that_expires_soonest_is_removed_first() -> None:
    """Not the oldest subject, and not the one that was not used for longest."""
    store, long, short = MemoryStore(most_subjects=3), FixedWindow(5, 600), FixedWindow(5, 60)
    hit(store, long, "long")
    hit(store, short, "short")
    hit(store, long, "other")
    hit(store, long, "new")
    assert set(look(store, ["long", "short", "other", "new"])) == {"long", "other", "new"}
    # A later hit moves a bucket's expiry, and with it its place in the order.
    store, bucket = MemoryStore(most_subjects=3), TokenBucket(100, 100)
    for name, cost in [("a", 10), ("b", 20), ("c", 30), ("a", 50)]:
        hit(store, bucket, name, cost)
    hit(store, bucket, "d", 5)
    assert set(look(store, ["a", "b", "c", "d"])) == {"a", "c", "d"}


def test_expired_subjects_are_removed_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while there is room, a few with each new key."""
    store, long, short = MemoryStore(most_subjects=10), FixedWindow(5, 600), FixedWindow(5, 1)
    for number in range(5):
        hit(store, short, f"short-{number}")
        hit(store, long, f"long-{number}")
    began = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: began() + 3 * 10**9)
    hit(store, long, "new")
    hit(store, long, "newer")
    assert len(store) == 8
    assert len(look(store, [f"long-{number}" for number in range(5)])) == 5


def test_a_call_never_removes_its_own_keys() -> None:
    """Even if they expire soonest, or are more than the store may keep."""
    store, long, short = MemoryStore(most_subjects=2), FixedWindow(5, 600), FixedWindow(5, 60)
    hit(store, long, "long")
    hit(store, long, "other")
    assert [hit(store, short, "short")[1] for _ in range(3)] == [4, 3, 2]
    logs = [SlidingLog(5, 60, name=name) for name in "abc"]
    names = tuple(policy.field.encode() for policy in logs)
    call = call_of("hit", 0, 0, names, tuple(Block(p, at, 1) for at, p in enumerate(logs)))
    assert store.run(call)[1::5] == [4, 4, 4]
    assert store.run(call)[1::5] == [3, 3, 3]
    assert len(store) == 3


def test_no_call_looks_at_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the expiry of all keys has moved, several calls share the work of finding the soonest."""
    monkeypatch.setattr("limiter.memory.store._MOST_CORRECTIONS", 10)
    store, short, long = MemoryStore(most_subjects=100), FixedWindow(5, 60), FixedWindow(5, 600)
    for number in range(100):
        hit(store, short, str(number))
    for number in range(100):
        hit(store, long, str(number))
    sizes = []
    for number in range(12):
        hit(store, FixedWindow(5, 6_000), f"new-{number}")
        sizes.append(len(store))
    assert sizes == [101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 100, 100]
    assert len(look(store, [f"new-{number}" for number in range(12)])) == 12


def test_resets_leave_nothing_behind() -> None:
    """Not even an entry in the heap."""
    store, policy = MemoryStore(), FixedWindow(5, 600)
    block = (Block(policy, 0, 1),)
    for _ in range(1_000):
        hit(store, policy)
        store.run(call_of("reset", 0, 0, (b"subject",), block))
    assert len(store) == 0
    assert len(store._heap) < 100


def test_a_key_of_another_kind_is_refused() -> None:
    """Nothing is charged, not even the key before it."""
    store, log = MemoryStore(), SlidingLog(5, 60)
    plant(store, "log", "string", "not ours", 10_000)
    blocks = (Block(FixedWindow(5, 60), 0, 1), Block(log, 1, 1))
    with pytest.raises(StoreRefused, match="b'log' holds a string: expected a list"):
        store.run(call_of("hit", 0, 0, (b"hash", b"log"), blocks))
    assert len(store) == 1
    store.run(call_of("reset", 0, 0, (b"hash", b"log"), blocks))
    assert hit(store, log, "log")[:2] == [1, 4]


def test_a_cost_beyond_a_local_share_is_denied_for_a_second() -> None:
    """It never fits into the share; the store may be back after a second."""
    for policy in POLICIES:
        part = policy.shared(50)
        reply = hit(MemoryStore(), part, cost=3)
        assert reply[:5] == [0, 2, 1_000_000, 0, 0]


@pytest.mark.parametrize("bucket", [TokenBucket, GCRA, LeakyBucket])
def test_a_share_that_fills_slowly_is_used_up(bucket: Any) -> None:
    """A rate that is rounded down makes the longest time to fill no longer: it is read as written."""
    for whole, share, burst in (
        (bucket(3, per="day", burst=10_000), 2, 3_650),
        (bucket(199, per=1, burst=10**9), 100, 10**7),
        (bucket(19, per=366 * 86_400, burst=10), 10, 1),
        (bucket(19, per=366 * 86_400, burst=189), 10, 9),
    ):
        store, part = MemoryStore(), whole.shared(share)
        assert part.burst == burst
        assert hit(store, part, cost=burst)[0] == burst
        assert hit(store, part)[:2] == [0, 0]


def test_a_log_of_many_entries_is_still_quick() -> None:
    """No step of a hit reads every entry."""
    store, policy = MemoryStore(), SlidingLog(100_000, "day")
    for _ in range(25):
        hit(store, policy, cost=4_000)
    began = time.thread_time()
    for _ in range(1_000):
        assert hit(store, policy)[0] == 0
    # 10 us each; a hundred times that is for a slow machine.
    assert time.thread_time() - began < 1.0


def test_the_record_of_a_reservation_lives_as_long_as_it_should() -> None:
    """The mark of a settled one expires earlier than the record would have, and leaves memory."""
    store, window = MemoryStore(), FixedWindow(9, per=10)

    def ask(mode: str, cost: int, record_ms: int) -> tuple[int, int]:
        names = (b"subject", b"subject:reservation:a1")
        block = (Block(window, 0, cost),)
        granted, *_, state, _ = store.run(call_of(mode, 0, 0, names, block, record_ms=record_ms))
        return state, granted

    with Clock() as clock:
        assert ask("reserve", 5, 3_600_000) == (1, 5)
        clock.advance(3_599)
        assert ask("reserve", 5, 1) == (2, 5)
        assert ask("settle", 1, 60_000) == (1, 0)  # the window has ended
        clock.advance(59)
        assert ask("settle", 1, 60_000) == (3, 0)
        clock.advance(2)
        assert ask("settle", 1, 0) == (0, 0)
        assert ask("reserve", 5, 1_000) == (1, 5)
        assert ask("settle", 1, 60_000) == (1, 4)
        for number in range(3):
            clock.advance(100)
            hit(store, window, f"other-{number}")
        assert len(store) == 1

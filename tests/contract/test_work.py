"""The most time and memory that a call takes on the server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from limiter import FixedWindow, Limiter, SlidingLog, TokenBucket
from limiter.policies import Policy
from tests.machines.support import NOW_US
from tests.scripts import Caller

#: The fastest of these tries counts: other work on the machine only makes a call slower.
TRIES = 15
MOST_US = 5_000


def server_us(client: redis.Redis, call: Callable[[], object]) -> float:
    """Return the microseconds that the server was busy with one call, by its own statistics."""

    def busy() -> float:
        stats = client.info("commandstats")
        return sum(
            stats[name]["usec"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats
        )

    began = busy()
    call()
    return busy() - began


@pytest.fixture
def caller(any_store):
    """Connect to each kind of server."""
    caller = Caller(any_store)
    yield caller
    caller.close()


def log(caller: Caller, key: str, now_us: int, cost: int, limit: int = 100_000) -> list[int]:
    """Hit a log with a period of a minute."""
    words = [now_us, "hit", cost, "sliding_log:60000000", limit, 60_000_000, 0]
    return caller.run([key], "sliding_log", words)


def test_the_largest_cost_takes_no_longer_than_allowed(caller, new_subject):
    """One call writes 4,000 entries."""
    times = []
    for _ in range(TRIES):
        key = f"rl:{{{new_subject()}}}:work:v1"
        times.append(server_us(caller.client, lambda key=key: log(caller, key, NOW_US, 4_000)))
        caller.client.delete(key)

    assert min(times) < MOST_US


def test_a_log_of_100_000_old_entries_takes_no_longer_than_allowed(caller, new_subject):
    """All entries leave at once, and the next hit that passes removes them."""
    times = []
    for _ in range(TRIES):
        key = f"rl:{{{new_subject()}}}:work:v1"
        caller.client.rpush(key, *[NOW_US] * 100_000)
        times.append(
            server_us(caller.client, lambda key=key: log(caller, key, NOW_US + 60_000_000, 4_000))
        )
        assert caller.client.llen(key) == 4_000
        caller.client.delete(key)

    assert min(times) < MOST_US


def test_a_denied_hit_on_a_full_log_takes_no_longer_than_allowed(caller, new_subject):
    """The script searches for the oldest entry without reading all; denials add no entry."""
    key = f"rl:{{{new_subject()}}}:work:v1"
    caller.client.rpush(key, *[NOW_US] * 50_000, *[NOW_US + 30_000_000] * 50_000)
    now_us, times = NOW_US + 60_000_000, []
    for _ in range(TRIES):
        times.append(
            server_us(caller.client, lambda: log(caller, key, now_us, 4_000, limit=50_001))
        )

    assert min(times) < MOST_US
    assert caller.client.llen(key) == 100_000
    caller.client.delete(key)


@pytest.mark.parametrize(
    ("policies", "most_bytes"),
    [
        ([FixedWindow(100, per=60)], 112),
        ([TokenBucket(100, per=60)], 112),
        ([TokenBucket(7, per=60)], 128),  # an interval that is no whole microsecond
        ([FixedWindow(100, per=60), TokenBucket(10, per=1), TokenBucket(100, per=60)], 190),
    ],
    ids=["fixed_window", "token_bucket", "token_bucket in parts", "three"],
)
def test_a_subject_s_memory(redis_store, policies: list[Policy], most_bytes):
    """It is measured without the key's name, by Redis's statistics, for names of every length."""
    with (
        Limiter(policies, store=redis_store, name="memory", timeout=5.0) as limiter,
        redis.Redis.from_url(redis_store) as client,
    ):
        for length in range(1, 41):
            subject = "m" * length
            limiter.hit(subject)
            key = f"rl:{{{subject}}}:memory:v1"
            used = client.memory_usage(key, samples=0) - len(key)
            client.delete(key)
            assert used <= most_bytes, f"{used} bytes for a name of {len(key)}"


@pytest.mark.parametrize("entries", [1_000, 10_000, 100_000])
def test_a_log_s_memory(redis_store, new_subject, entries):
    """A log of any size takes at most twelve bytes an entry."""
    caller, key = Caller(redis_store), f"rl:{{{new_subject()}}}:memory:v1"
    for at in range(0, entries, 1_000):
        log(caller, key, NOW_US + at, 1_000)
    used = caller.client.memory_usage(key, samples=0) - len(key)
    caller.client.delete(key)
    caller.close()

    assert used <= 12 * entries


def test_a_log_holds_no_more_than_its_limit(store, subject):
    """Denied hits add no entry."""
    with Limiter([SlidingLog(7, per=60)], store=store, name="memory", timeout=5.0) as limiter:
        for _ in range(200):
            limiter.hit(subject)
    with redis.Redis.from_url(store) as client:
        assert client.llen(f"rl:{{{subject}}}:memory:v1:sliding_log:60000000") == 7

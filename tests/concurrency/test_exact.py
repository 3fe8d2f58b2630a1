"""Eight processes of eight threads: exactly the limit is admitted on every key, never one more."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from limiter import GCRA, FixedWindow, LeakyBucket, SlidingLog, SlidingWindow, TokenBucket
from limiter.policies import ALGORITHMS, Policy
from tests.concurrency.hammer import Planned, hammer
from tests.machines.support import new_key

PROCESSES = THREADS = 8

# A period so long that nothing is refilled, or leaves a window, during a run.
DAY = 86_400
CASES: list[tuple[int, int, int, list[Policy]]] = [
    # keys, calls on each key, limit, policies
    *((1, 640, 100, [policy(100, 10 * DAY)]) for policy in ALGORITHMS.values()),
    (1, 640, 100, [SlidingLog(100, DAY), FixedWindow(150, DAY), TokenBucket(200, 10 * DAY)]),
    (1, 640, 100, [GCRA(100, 10 * DAY), SlidingWindow(100, DAY), LeakyBucket(150, 10 * DAY)]),
    (64, 64, 10, [SlidingLog(10, DAY)]),
    (64, 64, 10, [TokenBucket(10, DAY), SlidingLog(20, DAY)]),
    (1_000, 8, 3, [FixedWindow(3, DAY)]),
]


@pytest.mark.parametrize("where", ["standalone", "cluster"])
@pytest.mark.parametrize(
    ("keys", "calls", "limit", "policies"),
    CASES,
    ids=[f"{case[0]}-keys-{'+'.join(policy.algorithm for policy in case[3])}" for case in CASES],
)
def test_exactly_the_limit_is_admitted(request, where, keys, calls, limit, policies):
    """On one key that all threads hit, and on a thousand keys that a few threads hit each."""
    if where == "standalone":
        store = request.getfixturevalue("store")
    else:
        store = request.getfixturevalue("cluster").url
    names = [new_key("exact") for _ in range(keys)]
    every_call = [Planned(0, name, 1) for name in names for _ in range(calls)]
    random.shuffle(every_call)
    threads = [every_call[n :: PROCESSES * THREADS] for n in range(PROCESSES * THREADS)]

    told = hammer(store, policies, [threads[n::PROCESSES] for n in range(PROCESSES)])

    assert len(told) == keys * calls
    taken = Counter(one.key for one in told if one.granted)
    assert taken == dict.fromkeys(names, limit)
    # Granted or not, every reply counts what was granted before it.
    remaining = {(one.key, one.reply[1]) for one in told if one.granted}
    assert len(remaining) == keys * limit

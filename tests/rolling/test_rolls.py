"""Old and new workers share one store while they replace each other, forward and back."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import limiter
from limiter import Limiter
from limiter.call import STRIDE
from limiter.testing import set_time
from tests.rolling.roll import Hit, Record, library, roll

pytestmark = [pytest.mark.slow(10), pytest.mark.timeout(180)]

#: The last commit before the scripts got their final form, with other arguments, replies and expiries;
#: and the last one before the proofs of survival.
BEFORE_THE_CONTRACT = "a3055d82388652917e58a8bfdc15276d8a81d772"
WITH_THE_CONTRACT = "e513c2201fb52cd29b8168dd5b4328808fd9a528"

DAY, SECOND_US, HALF_SECOND_US = 86_400, 1_000_000, 500_000
#: More units than all rolls together take.
MANY = 10**9
TAGGED, PLACES, BURST = 100, 3, 30

#: Equal hits that a loop joins have each the ``reset_after`` of all, where there is a bucket.
ALONE = {"join": False}
#: Cases whose replies must each be exact. Buckets take seconds to fill: a key that old and new processes
#: write may expire half a second early, but only while no call comes for that long.
EXACT: dict[str, dict[str, Any]] = {
    "fixed window": {"policies": [("FixedWindow", 30, 1)]},
    "sliding window": {"policies": [("SlidingWindow", 30, 1)]},
    "long log": {"policies": [("SlidingLog", 400, DAY)]},
    "bucket": {"policies": [("TokenBucket", 70, 10, BURST)], "options": ALONE},
    "gcra": {"policies": [("GCRA", 7, 1, BURST)], "options": ALONE},
    "leaky bucket": {"policies": [("LeakyBucket", 60, 10)], "options": ALONE},
    "hash of three": {
        "policies": [
            ("FixedWindow", 40, 1),
            ("SlidingWindow", 90, 3),
            ("TokenBucket", 6, 1, BURST),
        ],
        "options": ALONE,
    },
    "log and bucket": {
        "policies": [("SlidingLog", 500, DAY), ("TokenBucket", 6, 1, BURST)],
        "options": ALONE,
    },
}
#: Logs so short that keys expire; the second one has entries that are stamped ahead.
SHORT: dict[str, dict[str, Any]] = {
    "short log": {"policies": [("SlidingLog", BURST, 1)]},
    "prepaid log": {"policies": [("SlidingLog", 60, 1)], "options": {"prepaid": 20}},
}
OTHERS: dict[str, dict[str, Any]] = {
    "tagged": {"policies": [("SlidingLog", TAGGED, DAY)], "tag": "org"},
    "changes": {"policies": [("FixedWindow", MANY, DAY)], "kind": "changes"},
    "leases": {"policies": [("Concurrency", PLACES, 30)], "kind": "leases"},
}


@pytest.fixture
def cases(new_subject: Callable[[], str]) -> dict[str, dict[str, Any]]:
    """All cases, each with a subject of its own."""
    every = EXACT | SHORT | OTHERS
    return {name: {"kind": "hits", "key": new_subject()} | case for name, case in every.items()}


def policies_of(case: dict[str, Any]) -> list[Any]:
    """The policies of a case."""
    return [getattr(limiter, name)(*numbers) for name, *numbers in case["policies"]]


def order(hit: Hit) -> tuple[int, int, bool]:
    """The order of decisions: by time; within a microsecond by what remains, and denials last."""
    return hit.decided_us, -sum(hit.reply[1::STRIDE]), not hit.granted


def replay(case: dict[str, Any], hits: list[Hit]) -> None:
    """Fail unless a single caller of a store in this process would have got the same replies.

    Other tests hold that store to the models, which would need minutes here.
    """
    with Limiter(policies_of(case), store="memory://") as alone:
        for hit in sorted(hits, key=order):
            set_time(alone, hit.decided_us)
            assert tuple(alone.hit("one", hit.cost)._reply[:-1]) == hit.reply, hit


def most_received(hits: list[Hit], period_ns: int) -> int:
    """The most units whose calls began and ended within one period, by the callers' clock."""
    most = inside = 0
    begun: list[tuple[int, int]] = []
    for hit in sorted(hits, key=lambda hit: hit.received):
        heapq.heappush(begun, (hit.sent, hit.granted))
        inside += hit.granted
        while begun and begun[0][0] <= hit.received - period_ns:
            inside -= heapq.heappop(begun)[1]
        most = max(most, inside)
    return most


def check(record: Record, cases: dict[str, dict[str, Any]], store: str, looser: bool) -> None:
    """Fail unless all was decided as by one caller; ``looser`` permits what documents say of the change."""
    assert record.errors == []
    for name in cases.keys() - {"changes", "leases"}:
        outcomes = Counter((hit.side, hit.granted > 0) for hit in record.of(name))
        # Hits of both sides were admitted, and hits of both were denied. (A long limit is used up earlier.)
        assert {side for side, _ in outcomes} == {"before", "now"}, name
        assert {was for _, was in outcomes} == {True, False}, name
    for name in EXACT:
        replay(cases[name], record.of(name))
    for name in SHORT:
        (policy,) = policies_of(cases[name])
        hits = record.of(name)
        early = most_received(hits, HALF_SECOND_US * 1000) if looser else 0
        assert most_received(hits, SECOND_US * 1000) <= policy.limit + early
    taken = Counter[str]()
    for hit in record.of("tagged"):
        taken[hit.side] += hit.granted
    if looser:  # the key of a tagged subject is another one, so its counts begin anew
        assert taken == {"before": TAGGED, "now": TAGGED}
    else:
        assert taken.total() == TAGGED
    moves = sorted([(end, -1) for _, end in record.held] + [(begin, 1) for begin, _ in record.held])
    held = most = 0
    for _, one in moves:
        held += one
        most = max(most, held)
    assert most == PLACES
    (policy,) = policies_of(cases["changes"])
    with Limiter(policy, store=store, name="roll", timeout=30) as ours:
        assert ours.peek(cases["changes"]["key"]).remaining == MANY - record.charged


@pytest.fixture(scope="module")
def before_the_contract() -> Iterator[Path]:
    """The library before the scripts got their final form."""
    with library(BEFORE_THE_CONTRACT) as folder:
        yield folder


@pytest.fixture(scope="module")
def with_the_contract() -> Iterator[Path]:
    """An earlier library with the same contract."""
    with library(WITH_THE_CONTRACT) as folder:
        yield folder


def test_old_scripts_and_new_ones_share_counts(any_store, before_the_contract, cases):
    """Arguments, replies and expiries of all scripts changed; state did not."""
    check(roll(any_store, cases, before_the_contract), cases, any_store, looser=True)


def test_releases_of_one_contract_share_counts_exactly(store, with_the_contract, cases):
    """Every reply is the one of a single caller, whichever release asked."""
    check(roll(store, cases, with_the_contract), cases, store, looser=False)


@pytest.mark.parametrize("reply", [(1, 1, 0, 1_000_000, 0), (0, 0, 400_001, 400_000, 0)])
def test_a_misread_state_is_found(reply):
    """A second worker that counts for itself, and one that waits a microsecond too long."""
    case = {"policies": [("FixedWindow", 1, 1)]}
    hits = [
        Hit(1_790_000_000_000_000, "one", 1, (1, 0, 0, 1_000_000, 0), 0, 0, "before"),
        Hit(1_790_000_000_600_000, "one", 1, reply, 0, 0, "now"),
    ]
    with pytest.raises(AssertionError):
        replay(case, hits)

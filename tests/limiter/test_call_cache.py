"""The calls of ``hit`` are kept for the subjects that were hit last, and never for another call."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from limiter import FixedWindow, InvalidCost, InvalidKey, Limiter
from limiter.call_cache import CallCache
from limiter.keys import KeySpeller
from limiter.plan import Plan
from limiter.testing import set_time

POLICIES = (FixedWindow(100, "day"),)
PLAN = Plan(POLICIES, KeySpeller("rl", "api"))


def test_a_call_is_made_once() -> None:
    """The second time it is the same object, with all that a transport has put into it."""
    cache = CallCache(PLAN, 8)
    first = cache["u", 1, 0]
    assert cache["u", 1, 0] is first
    assert first.keys == PLAN.call("hit", "u").keys
    assert cache["v", 1, 0] is not first
    assert cache["u", 2, 0].template is not first.template


def test_two_generations_bound_what_is_kept() -> None:
    """Many subjects in turn: at most twice the size is kept, and those used in between stay."""
    cache = CallCache(PLAN, 8)
    hot = cache["hot", 1, 0]
    for number in range(1_000):
        assert cache["hot", 1, 0] is hot
        assert cache[f"u{number}", 1, 0].keys == PLAN.call("hit", f"u{number}").keys
        assert len(cache) <= 8
        assert len(set(chain(cache, cache._older))) <= 16
    assert cache["u999", 1, 0] is cache["u999", 1, 0]


@pytest.mark.parametrize(("size", "key"), [(0, "u"), (8, "u" * 257)], ids=["off", "a long key"])
def test_a_call_that_is_not_kept(size: int, key: str) -> None:
    """With size 0 none is; a long key would let a client choose how much memory it takes."""
    cache = CallCache(PLAN, size)
    assert cache[key, 1, 0].keys == cache[key, 1, 0].keys == PLAN.call("hit", key).keys
    assert not cache
    assert not cache._older


@pytest.mark.parametrize("cost", [1.0, True, "1", None])
def test_a_wrong_cost_that_equals_a_kept_one(cost: Any) -> None:
    """1 == 1.0 == True: what was kept for one of them must not answer for the others."""
    limiter = Limiter("100/day", store="memory://")
    limiter.hit("u", 1)
    with pytest.raises(InvalidCost):
        limiter.hit("u", cost)
    assert limiter.peek("u").remaining == 99


def test_an_error_is_raised_each_time() -> None:
    """No call is kept for a wrong key or a cost that can never pass."""
    limiter = Limiter("100/day", store="memory://")
    for _ in range(2):
        with pytest.raises(InvalidKey):
            limiter.hit("")
        with pytest.raises(InvalidCost):
            limiter.hit("u", 101)
    assert not limiter._core.calls


def test_other_calls_for_a_kept_key() -> None:
    """A tag, other limits and ``at_least`` each make another call."""
    limiter = Limiter("100/day", store="memory://")
    assert [limiter.hit("u").remaining for _ in range(2)] == [99, 98]
    assert limiter.hit("u", tag="t").remaining == 99
    assert limiter.hit("u", limits="10/day").remaining == 7
    assert limiter.hit("u", 98, at_least=1).granted == 97
    assert limiter.hit("u").granted == 0
    assert len(limiter._core.calls) == 1


def test_a_key_is_kept_for_its_own_limiter() -> None:
    """Secrets and names decide the key in the store."""
    alone = Limiter("100/day", store="memory://")
    named = Limiter("100/day", store=alone, name="other")
    secret = Limiter("100/day", store=alone, key_secret="s" * 16)
    for _ in range(2):
        remaining = [limiter.hit("u").remaining for limiter in (alone, named, secret)]
    assert remaining == [98, 98, 98]


def test_a_kept_call_has_no_time() -> None:
    """A simulation sets another time for each call."""
    limiter = Limiter(FixedWindow(1, "hour"), store="memory://")
    hour_us = 3_600_000_000
    for hour in (500_000, 500_001, 500_002):
        set_time(limiter, hour * hour_us)
        assert [limiter.hit("u").allowed for _ in range(2)] == [True, False]

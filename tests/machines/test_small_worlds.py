"""Policies of a few units and microseconds, on which thousands of short histories reach every case."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.machines.support import DEPTH, NOW_US, new_key
from tests.model import LEASES, MODELS
from tests.model.base import Answer, Model, Rate
from tests.model.concurrency import Concurrency
from tests.scripts import Caller, sha1, single, source

pytestmark = pytest.mark.usefixtures("unmeasured")

WORLDS = [world for model in MODELS.values() for world in model.small_worlds()]
LEASE_WORLDS = [world for model in LEASES.values() for world in model.small_worlds()]
#: Steps of the clock of about one period.
MOVES_US = [-9, -5, -4, -3, -1, 0, 0, 1, 1, 2, 3, 4, 5]
COSTS = [(1, None), (1, None), (2, None), (3, None), (3, 1), (3, 2)]
HITS, WITH_CORRECTIONS = ["hit"], ["hit", "hit", "refund", "settle"]
LEASE_CALLS = ["acquire", "acquire", "renew", "release"]
HISTORIES, CALLS_EACH = 500, 6

#: Draws a call: takes the model and a time, returns the model's answer and the script's arguments.
Draw = Callable[[Any, int], tuple[Answer, tuple[str, list[Any]]]]


def play(url: str, world: Model, draw: Draw, moves_us: random.Random) -> None:
    """Send whole histories at once: with given times no call depends on a reply."""
    caller, sent, expected = Caller(url), [], []
    caller.client.script_load(source(world.script))
    pipe = caller.client.pipeline(transaction=False)
    for _ in range(HISTORIES * DEPTH):
        model, key, clock_us = copy.deepcopy(world), new_key(), NOW_US
        for _ in range(CALLS_EACH):
            clock_us += moves_us.choice(MOVES_US)
            answer, (script, words) = draw(model, clock_us)
            pipe.evalsha(sha1(script), 1, key, *words)
            sent.append((key, words))
            expected.append([*answer[1:], clock_us])
        pipe.delete(key)
        sent.append((key,))
        expected.append(None)

    replies = pipe.execute()

    for call, reply, wanted in zip(sent, replies, expected, strict=True):
        assert wanted is None or reply == wanted, [c for c in sent if c[0] == call[0]]
    caller.close()


def name(world: Model) -> str:
    """Return a policy's name for the test's name."""
    return f"{type(world).__name__}-{world.limit}"


@pytest.mark.parametrize("modes", [HITS, WITH_CORRECTIONS], ids=["hits", "corrected"])
@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_script_and_model_agree_on_every_short_history(store, world, modes):
    """Histories are of hits alone, and of hits with refunds and settlements."""
    rng = random.Random(repr((vars(world), modes)))

    def draw(model: Rate, clock_us: int) -> tuple[Answer, tuple[str, list[Any]]]:
        mode, (cost, at_least) = rng.choice(modes), rng.choice(COSTS)
        words = single(model, clock_us, mode, cost, at_least)
        if mode == "hit":
            return model.hit(clock_us, cost, at_least), words
        return getattr(model, mode)(clock_us, cost), words

    play(store, world, draw, rng)


@pytest.mark.parametrize("world", LEASE_WORLDS, ids=name)
def test_script_and_model_agree_on_every_short_history_of_leases(store, world):
    """Two holders call, sometimes too late, and with different costs."""
    rng = random.Random(repr(vars(world)))

    def draw(model: Concurrency, clock_us: int) -> tuple[Answer, tuple[str, list[Any]]]:
        mode, holder, (cost, at_least) = (
            rng.choice(LEASE_CALLS),
            rng.choice("ab"),
            rng.choice(COSTS),
        )
        words = single(model, clock_us, mode, cost, at_least, holder=holder)
        if mode == "acquire":
            return model.acquire(clock_us, cost, holder, at_least), words
        return getattr(model, mode)(clock_us, cost, holder), words

    play(store, world, draw, rng)

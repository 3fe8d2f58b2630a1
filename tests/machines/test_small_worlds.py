"""Worlds of a few units and microseconds, where thousands of short histories meet every edge."""

from __future__ import annotations

import copy
import random

import pytest

from tests.machines.support import DEPTH, NOW_US, new_key
from tests.model import MODELS
from tests.scripts import Caller, sha1, single, source

WORLDS = [world for model in MODELS.values() for world in model.small_worlds()]
#: Around one period, where everything lives or ends.
MOVES_US = [-9, -5, -4, -3, -1, 0, 0, 1, 1, 2, 3, 4, 5]
CALLS = [(1, None), (1, None), (2, None), (3, None), (3, 1), (3, 2)]
HISTORIES, CALLS_EACH = 1_500, 6


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"{type(world).__name__}-{world.limit}")
def test_script_and_model_agree_on_every_short_history(store, world):
    """Whole histories are sent at once, since with given times no call depends on a reply."""
    rng = random.Random(repr(vars(world)))
    caller, asked, expected = Caller(store), [], []
    caller.client.script_load(source(single(world, 1, "hit", 1)[0]))
    pipe = caller.client.pipeline(transaction=False)
    for _ in range(HISTORIES * DEPTH):
        model, key, clock_us = copy.deepcopy(world), new_key(), NOW_US
        for _ in range(CALLS_EACH):
            clock_us += rng.choice(MOVES_US)
            cost, at_least = rng.choice(CALLS)
            script, words = single(model, clock_us, "hit", cost, at_least)
            pipe.evalsha(sha1(script), 1, key, *words)
            asked.append((key, clock_us, cost, at_least))
            expected.append([*model.hit(clock_us, cost, at_least)[1:], clock_us])
        pipe.delete(key)
        asked.append((key,))
        expected.append(None)

    replies = pipe.execute()

    for call, reply, wanted in zip(asked, replies, expected, strict=True):
        assert wanted is None or reply == wanted, [c for c in asked if c[0] == call[0]]
    caller.close()

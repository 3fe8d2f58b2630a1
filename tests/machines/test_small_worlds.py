"""Policies of a few units and microseconds, on which thousands of short histories reach every case."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.machines.support import DEPTH, NOW_US, new_key
from tests.model import LEASES, MODELS
from tests.model.base import Model, Rate
from tests.model.concurrency import Concurrency
from tests.model.fixed_window import FixedWindow
from tests.model.several import Several
from tests.model.sliding_window import SlidingWindow
from tests.model.token_bucket import TokenBucket
from tests.scripts import Call, Caller, few, integers, sha1, single, source

pytestmark = pytest.mark.usefixtures("unmeasured")

WORLDS = [world for model in MODELS.values() for world in model.small_worlds()]
LEASE_WORLDS = [world for model in LEASES.values() for world in model.small_worlds()]
#: For ``few``: every pair of these policies, and three of them.
HASH_WORLDS: list[Rate] = [FixedWindow(3, 4), FixedWindow(3, 5, align=True), SlidingWindow(4, 7)]
HASH_WORLDS += [TokenBucket(3, 4), TokenBucket(5, 3, burst=4)]
FEW_WORLDS: list[tuple[Rate, ...]] = list(itertools.combinations(HASH_WORLDS, 2))
FEW_WORLDS += zip(HASH_WORLDS, HASH_WORLDS[1:], HASH_WORLDS[2:], strict=False)
#: Steps of the clock of about one period.
MOVES_US = [-9, -5, -4, -3, -1, 0, 0, 1, 1, 2, 3, 4, 5]
#: Cost, at_least and step.
COSTS = [(1, None, 1), (1, None, 1), (2, None, 1), (3, None, 1), (3, 1, 1), (3, 2, 1), (2, 0, 2)]
HITS, WITH_CORRECTIONS = ["hit"], ["hit", "hit", "refund", "settle"]
LEASE_CALLS = ["acquire", "acquire", "renew", "release"]
HISTORIES, CALLS_EACH = 500, 6

#: Draws a call: takes the model and a time, returns the numbers of the model's answer, and the call.
Draw = Callable[[Any, int], tuple[Sequence[int], Call]]


def play(url: str, world: Any, draw: Draw, moves_us: random.Random) -> None:
    """Send whole histories at once: with given times no call depends on a reply."""
    caller, sent, expected = Caller(url), [], []
    for script in ("few", *{model.script for model in (*WORLDS, *LEASE_WORLDS)}):
        caller.client.script_load(source(script))
    pipe = caller.client.pipeline(transaction=False)
    for _ in range(HISTORIES * DEPTH):
        model, key, clock_us = copy.deepcopy(world), new_key(), NOW_US
        for _ in range(CALLS_EACH):
            clock_us += moves_us.choice(MOVES_US)
            answer, (script, words) = draw(model, clock_us)
            pipe.evalsha(sha1(script), 1, key, *words)
            sent.append((key, words))
            expected.append([*answer, clock_us])
        pipe.delete(key)
        sent.append((key,))
        expected.append(None)

    replies = pipe.execute()

    for call, reply, wanted in zip(sent, replies, expected, strict=True):
        assert wanted is None or integers(reply) == wanted, [c for c in sent if c[0] == call[0]]
    caller.close()


def name(world: Model) -> str:
    """Return a policy's name for the test's name."""
    return f"{type(world).__name__}-{world.limit}"


@pytest.mark.parametrize("modes", [HITS, WITH_CORRECTIONS], ids=["hits", "corrected"])
@pytest.mark.parametrize("world", WORLDS, ids=name)
def test_script_and_model_agree_on_every_short_history(store, world, modes):
    """Histories are of hits alone, and of hits with refunds and settlements."""
    rng = random.Random(repr((vars(world), modes)))

    def draw(model: Rate, clock_us: int) -> tuple[Sequence[int], Call]:
        mode, (cost, at_least, step) = rng.choice(modes), rng.choice(COSTS)
        packed = rng.choice([True, False])
        call = single(model, clock_us, mode, cost, at_least, step=step, packed=packed)
        if mode == "hit":
            return model.hit(clock_us, cost, at_least, step)[1:], call
        return getattr(model, mode)(clock_us, cost)[1:], call

    play(store, world, draw, rng)


@pytest.mark.parametrize("worlds", FEW_WORLDS, ids=lambda worlds: "-".join(map(name, worlds)))
def test_few_and_the_models_agree_on_every_short_history(store, worlds):
    """Histories of hits of two or three policies on one hash; each call charges all, or none."""
    rng = random.Random(repr([vars(world) for world in worlds]))
    fields = [f"p{number}" for number in range(len(worlds))]

    def draw(models: Several, clock_us: int) -> tuple[Sequence[int], Call]:
        cost, at_least, step = rng.choice(COSTS)
        blocks = [(model, 1, field) for model, field in zip(models.models, fields, strict=True)]
        call = few(blocks, clock_us, cost, at_least, step=step)
        verdict = models.hit(clock_us, cost, at_least, step)
        return [number for answer in verdict.each for number in answer[1:]], call

    play(store, Several(worlds), draw, rng)


@pytest.mark.parametrize("world", LEASE_WORLDS, ids=name)
def test_script_and_model_agree_on_every_short_history_of_leases(store, world):
    """Two holders call, sometimes too late, and with different costs."""
    rng = random.Random(repr(vars(world)))

    def draw(model: Concurrency, clock_us: int) -> tuple[Sequence[int], Call]:
        mode, holder, (cost, at_least, _) = (
            rng.choice(LEASE_CALLS),
            rng.choice("ab"),
            rng.choice(COSTS),
        )
        packed = rng.choice([True, False])
        call = single(model, clock_us, mode, cost, at_least, holder=holder, packed=packed)
        if mode == "acquire":
            return model.acquire(clock_us, cost, holder, at_least)[1:], call
        return getattr(model, mode)(clock_us, cost, holder)[1:], call

    play(store, world, draw, rng)

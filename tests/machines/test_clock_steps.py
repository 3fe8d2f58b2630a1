"""A clock that steps back by more than a period: no count is lost, and no denial lasts long."""

from __future__ import annotations

import pytest

from tests.machines.support import HOUR_US, NOW_US, new_key
from tests.model import MODELS
from tests.model.base import Rate
from tests.model.token_bucket import TokenBucket
from tests.scripts import Caller, few, several, single

LIMIT, PERIOD_US = 5, 60_000_000
SAMPLES = [sample for model in MODELS.values() for sample in model.samples(LIMIT, PERIOD_US)]
STEPS_US = [2 * PERIOD_US + 1, 10 * PERIOD_US, 9_000 * HOUR_US]


def longest_us(policy: Rate) -> int:
    """Return the longest time for which a step back may deny."""
    if isinstance(policy, TokenBucket):
        seconds = -(-policy.capacity_us // 1_000_000)
        return int(2 * (seconds + 1)) * 1_000_000
    return policy.full_us


@pytest.mark.parametrize("step_us", STEPS_US)
@pytest.mark.parametrize("form", ["text", "packed", "several", "few"])
@pytest.mark.parametrize("policy", SAMPLES, ids=lambda policy: f"{policy.identity}-{policy.limit}")
def test_a_step_back_keeps_the_count_and_denies_for_a_bounded_time(store, policy, form, step_us):
    """What was taken counts on, until the time that the denial names, and no longer."""
    caller, key = Caller(store), new_key("steps")
    many, now_us = MODELS["fixed_window"](10**12, PERIOD_US), NOW_US - step_us

    def hit(at_us: int, cost: int) -> list[int]:
        blocks = [(policy, 1, "field")]
        if form == "several":
            call = several(blocks, at_us, "hit", cost)
        elif form == "few" and policy.key_type == "hash":
            call = few([*blocks, (many, 1, "other")], at_us, cost)
        else:
            packed = form != "text"
            call = single(policy, at_us, "hit", cost, field="field", packed=packed)
        return caller.run([key], *call)[:5]

    try:
        assert hit(NOW_US, LIMIT)[0] == LIMIT
        granted, remaining, retry_us, reset_us, _ = hit(now_us, 1)
        assert (granted, remaining) == (0, 0)
        assert 0 < retry_us <= reset_us <= longest_us(policy)
        # The denial has repaired the state, so that it counts as taken now.
        assert hit(now_us + retry_us - 1, 1)[:3] == [0, 0, 1]
        assert hit(now_us + retry_us, 1)[:3:2] == [1, 0]
        whole = single(policy, now_us + retry_us + longest_us(policy), "peek", 0, field="field")
        assert caller.run([key], *whole)[1] == LIMIT
    finally:
        caller.client.delete(key)
        caller.close()


@pytest.mark.parametrize("size", [1, LIMIT - 1, 4_001])
@pytest.mark.parametrize("packed", [False, True])
def test_a_log_keeps_all_of_its_units_when_the_clock_steps_back(store, packed, size):
    """They count as taken now; a held charge beside them has its own time."""
    caller, key, limit, hold_us = Caller(store), new_key("steps"), size + 2, 1_000
    log = MODELS["sliding_log"](limit, PERIOD_US)
    now_us = NOW_US - 3 * PERIOD_US
    try:
        caller.client.rpush(key, *[NOW_US] * size)
        log.change(hold_us=hold_us)
        call = single(log, now_us, "hit", 1, packed=packed)
        assert caller.run([key], *call)[:4] == [1, 1, 0, PERIOD_US + hold_us]
        entries = [int(entry) for entry in caller.client.lrange(key, 0, -1)]
        assert entries == [now_us] * size + [now_us + hold_us]
    finally:
        caller.client.delete(key)
        caller.close()

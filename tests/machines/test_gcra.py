"""GCRA as in a textbook and the token bucket decide the same, step by step, in the store."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machines.support import DEPTH, NOW_US, POLICIES, costs, new_key
from tests.model.base import Model, ceil
from tests.model.token_bucket import GCRA, LeakyBucket, TokenBucket
from tests.scripts import Caller, single


class Textbook:
    """GCRA's virtual scheduling algorithm (ITU-T I.371).

    A cell conforms unless it is earlier than its theoretical arrival time less the tolerance. The units of
    a call are consecutive cells. The tolerance is that of a burst without the cell itself.
    """

    def __init__(self, limit: int, period_us: int, burst: int) -> None:
        self.increment_us = Fraction(period_us, limit)
        self.tolerance_us = (burst - 1) * self.increment_us
        self.arrival_us: Fraction | int = 0

    def hit(self, now_us: int, cost: int) -> list[int]:
        """Return the granted units, and the time until the last of the cells conforms."""
        arrival_us = max(self.arrival_us, now_us)
        last_us = arrival_us + (cost - 1) * self.increment_us
        early_us = last_us - self.tolerance_us - now_us
        if cost and early_us > 0:
            return [0, ceil(early_us)]
        self.arrival_us = arrival_us + cost * self.increment_us
        return [cost, 0]


@settings(max_examples=80 * DEPTH)
@given(st.data())
def test_gcra_decides_as_a_textbook_and_as_a_token_bucket(store, data):
    """So does a leaky bucket; each has its own field of one hash."""
    gcra = data.draw(POLICIES["gcra"])
    numbers = (gcra.limit, gcra.period_us, gcra.burst)
    models: list[Model] = [kind(*numbers) for kind in (GCRA, TokenBucket, LeakyBucket)]
    textbook, caller, key, now_us = Textbook(*numbers), Caller(store), new_key(), NOW_US
    gaps_us = st.one_of(
        st.integers(0, 3),
        st.integers(0, ceil(gcra.interval_us)),
        st.integers(0, ceil(gcra.capacity_us)),
    )
    wait_us = 0
    try:
        for _ in range(data.draw(st.integers(1, 12))):
            # At retry_after, a microsecond before it, or at any time.
            now_us += data.draw(st.one_of(st.sampled_from([wait_us, max(0, wait_us - 1)]), gaps_us))
            cost = data.draw(costs(gcra))
            expected = textbook.hit(now_us, cost)
            replies = [caller.run([key], *single(model, now_us, "hit", cost)) for model in models]
            assert replies[0] == replies[1] == replies[2]
            granted, _, wait_us, *_ = replies[0]
            assert [granted, wait_us] == expected
        assert len(caller.client.hkeys(key)) in (0, len(models))
    finally:
        caller.client.delete(key)
        caller.close()

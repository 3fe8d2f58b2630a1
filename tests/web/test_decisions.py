"""Decisions as JSON."""

from __future__ import annotations

import json

import pytest

from limiter import GCRA, Concurrency, Decision, FixedWindow, LeakyBucket, Limiter, TokenBucket
from limiter.decision import CachedDecision, MarkedDecision
from limiter.web.decisions import as_json

ONE = (FixedWindow(100, 60),)
BUCKET = (TokenBucket(10, 1, burst=20, name="b"),)
ALLOWED = (1.0, 99.0, 0.0, 59_999_999.0, 0.0, 1.79e15)
DENIED = (0, 3, 1_234_567, 59_000_001, 0, 1_790_000_000_123_456)


@pytest.mark.parametrize(
    "decision",
    [
        Decision(ONE, ALLOWED),
        Decision(ONE, DENIED),
        Decision(BUCKET, DENIED),
        Decision((LeakyBucket(10, 1),), (1, 5, 0, 400_000, 100_001, 1_790_000_000_123_456)),
        Decision((Concurrency(3, max_hold=90),), ALLOWED),
        CachedDecision(ONE, DENIED),
        MarkedDecision(ONE, ALLOWED, degraded=True),
        Decision.without_store(ONE, allowed=True),
        Decision.without_store((*ONE, *BUCKET), allowed=False),
        Decision((*ONE, GCRA(5, 1)), (*ALLOWED[:5], *DENIED)),
    ],
    ids=str,
)
def test_the_text_is_that_of_the_dictionary(decision: Decision) -> None:
    assert as_json(decision) == json.dumps(decision.to_dict())


def test_a_real_decision() -> None:
    limiter = Limiter("3/minute; 5/hour", store="memory://")
    for limits in (None, "9/minute; 20/hour"):
        decision = limiter.hit("u", limits=limits)
        assert json.loads(as_json(decision)) == decision.to_dict()

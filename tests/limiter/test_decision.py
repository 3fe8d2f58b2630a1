"""A decision has the fields of the reply, and one policy that stands for all."""

from __future__ import annotations

import copy
import json
import pickle
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import Decision, FixedWindow, SlidingLog, TokenBucket
from limiter.decision import STRIDE, CachedDecision, MarkedDecision, PrepaidDecision
from limiter.policies import Policy
from limiter.prepaid import PrepaidUnits

LOG, WINDOW, BUCKET = SlidingLog(100, 60), FixedWindow(9, 1), TokenBucket(50, 60, burst=5)
NOW_US = 1_790_000_000_123_456


class Queue(TokenBucket):
    """A bucket whose calls have a delay."""

    queues: ClassVar[bool] = True


def decided(*answers: tuple[Policy, tuple[int, ...]]) -> Decision:
    """The decision of a reply: for each policy granted, remaining, retry, reset and delay."""
    numbers = [number for _, answer in answers for number in answer]
    return Decision(tuple(policy for policy, _ in answers), [*numbers, NOW_US])


ALLOWED = decided((LOG, (3, 97, 0, 60_000_000, 1_500_000)))
DENIED = decided((LOG, (0, 0, 1_500_001, 59_999_999, 0)))


def test_an_allowed_call() -> None:
    """Every field of a call that was charged."""
    assert ALLOWED
    assert ALLOWED.allowed is True
    assert ALLOWED.granted == 3
    assert ALLOWED.remaining == 97
    assert ALLOWED.retry_after == 0.0
    assert ALLOWED.reset_after == 60.0
    assert ALLOWED.delay == 0.0
    assert ALLOWED.policy is LOG
    assert ALLOWED.limit == 100
    assert ALLOWED.degraded is False
    assert ALLOWED.cached is False


def test_a_denied_call() -> None:
    """Every field of a call that took nothing; times to the microsecond."""
    assert not DENIED
    assert DENIED.allowed is False
    assert DENIED.granted == DENIED.remaining == 0
    assert DENIED.retry_after == 1.500001
    assert DENIED.reset_after == 59.999999
    assert DENIED.delay == 0.0


def test_only_a_queue_delays() -> None:
    """Units in the bucket are a delay only if the policy queues calls."""
    queue = Queue(50, 60, burst=5)
    assert decided((queue, (1, 4, 0, 60, 2_500_000))).delay == 2.5
    assert decided((BUCKET, (1, 4, 0, 60, 2_500_000))).delay == 0.0
    both = ((BUCKET, (1, 4, 0, 60, 9_000_000)), (queue, (1, 4, 0, 60, 2_000_000)))
    assert decided(*both).delay == 2.0


def test_several_policies_show_their_worst() -> None:
    """The smallest remaining, and the longest times."""
    decision = decided(
        (LOG, (2, 60, 0, 60_000_000, 0)), (WINDOW, (2, 7, 0, 500_000, 0)), (BUCKET, (2, 3, 0, 7, 0))
    )
    assert decision.allowed
    assert decision.granted == 2
    assert decision.remaining == 3
    assert decision.reset_after == 60.0
    assert decision.policy is BUCKET
    assert decision.limit == 5  # its burst


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        # Allowed: the smallest remaining, the first of equals.
        ([(1, 5, 0, 1, 0), (1, 4, 0, 1, 0), (1, 4, 0, 9, 0)], 1),
        ([(1, 0, 0, 1, 0), (1, 0, 0, 1, 0), (1, 9, 0, 9, 0)], 0),
        # Denied: the longest retry_after, whatever remains; the first of equals.
        ([(0, 0, 5, 5, 0), (0, 2, 7, 7, 0), (0, 0, 6, 6, 0)], 1),
        ([(0, 0, 0, 5, 0), (0, 3, 7, 7, 0), (0, 0, 7, 6, 0)], 1),
        ([(0, 0, 0, 5, 0), (0, 8, 0, 7, 0), (0, 3, 1, 6, 0)], 2),
    ],
)
def test_which_policy_decided(answers: list[tuple[int, ...]], chosen: int) -> None:
    """The policy that a caller needs to know."""
    policies = [LOG, WINDOW, BUCKET]
    decision = decided(*zip(policies, answers, strict=True))
    assert decision.policy is policies[chosen]
    assert decision.limit == policies[chosen].capacity
    assert decision.allowed is not any(answer[2] for answer in answers)


def test_each_policy_alone() -> None:
    """One decision for each, in order; a policy that had room is allowed though another denied."""
    decision = decided((LOG, (0, 60, 0, 4, 0)), (WINDOW, (0, 0, 500_000, 600_000, 0)))
    log, window = decision.each
    assert not decision
    assert log.allowed
    assert log.remaining == 60
    assert not window.allowed
    assert (window.retry_after, window.reset_after) == (0.5, 0.6)
    assert [part.policy for part in decision.each] == [LOG, WINDOW]
    assert log.each == window.each == ()
    assert ALLOWED.each[0].granted == 3


def test_a_dictionary_for_json() -> None:
    """All fields by name; ``each`` has the same fields, without ``each``."""
    decision = decided((LOG, (0, 60, 0, 4_000_000, 0)), (BUCKET, (0, 0, 500_000, 600_000, 0)))
    log = {"name": None, "algorithm": "sliding_log", "limit": 100, "period": 60}
    bucket = {"name": None, "algorithm": "token_bucket", "limit": 50, "period": 60, "burst": 5}
    rest = {"granted": 0, "delay": 0.0, "degraded": False, "cached": False}
    of_bucket = {
        **rest,
        "allowed": False,
        "remaining": 0,
        "retry_after": 0.5,
        "reset_after": 0.6,
        "policy": bucket,
        "limit": 5,
    }
    of_log = {
        **rest,
        "allowed": True,
        "remaining": 60,
        "retry_after": 0.0,
        "reset_after": 4.0,
        "policy": log,
        "limit": 100,
    }
    assert decision.to_dict() == {**of_bucket, "reset_after": 4.0, "each": [of_log, of_bucket]}
    assert json.loads(json.dumps(decision.to_dict())) == decision.to_dict()
    assert decision.each[0].to_dict() == of_log


@pytest.mark.parametrize(("allowed", "retry_after"), [(True, 0.0), (False, 1.0)])
def test_without_a_store(allowed: bool, retry_after: float) -> None:
    """Degraded: nothing was granted, and the first policy stands for all."""
    decision = Decision.without_store((WINDOW, LOG), allowed)
    assert decision.degraded is True
    assert bool(decision) is decision.allowed is allowed
    assert decision.granted == decision.remaining == 0
    assert decision.retry_after == retry_after
    assert decision.reset_after == decision.delay == 0.0
    assert decision.policy is WINDOW
    assert decision.each == ()
    assert decision.to_dict()["each"] == []
    assert decision.to_dict()["degraded"] is True


answers = st.tuples(*[st.integers(0, 3)] * STRIDE)


@given(
    one=st.lists(answers, min_size=1, max_size=2), other=st.lists(answers, min_size=1, max_size=2)
)
def test_equal_by_value(one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> None:
    """Equal replies of equal policies, at whatever time, are equal and hash alike."""
    policies = (LOG, WINDOW)
    first = decided(*zip(policies, one, strict=False))
    second = decided(*zip(policies, other, strict=False))
    later = Decision(second._policies, [*second._reply[:-1], NOW_US + 1])
    assert (first == later) is (one == other)
    if one == other:
        assert hash(first) == hash(later)
    assert second == later
    assert first != one


def test_what_makes_decisions_differ() -> None:
    """The policy, degradation, whether it is a part, and whether it was cached."""
    reply = [0, 0, 0, 0, 0, NOW_US]
    values = {
        Decision((LOG,), reply),
        Decision((WINDOW,), reply),
        MarkedDecision((LOG,), reply, degraded=True),
        MarkedDecision((LOG,), reply, part=True),
        CachedDecision((LOG,), reply),
    }
    assert len(values) == 5
    assert MarkedDecision((LOG,), reply) == Decision((LOG,), tuple(reply))


DEGRADED = Decision.without_store((LOG,), allowed=False)
CACHED = CachedDecision((LOG,), (0, 0, 1_500_001, 2_000_000, 0, NOW_US))

PREPAID = PrepaidDecision(
    (LOG,), PrepaidUnits("u", (3, 60, 0, 9_000_000, 0, NOW_US), came=5.0), 2, 1, now=5.25
)


def test_a_cached_decision() -> None:
    """Its parts are cached, too, and it is if its units are refunded."""
    assert CACHED.cached is CACHED.each[0].cached is True
    assert not CACHED
    assert CACHED.retry_after == CACHED.each[0].retry_after == 1.500001
    assert "cached=True" in repr(CACHED)
    assert CACHED.refunded().cached


def test_a_hit_of_prepaid_units() -> None:
    """It has the numbers of the call that took them, later, and with the units that are left here."""
    fresh = copy.copy(PREPAID)
    assert fresh == CachedDecision((LOG,), (2, 61, 0, 8_750_000, 0, NOW_US + 250_000))
    assert fresh.allowed
    assert fresh
    assert PREPAID.left == 1
    assert fresh.decided_at == (NOW_US + 250_000) / 1e6
    with pytest.raises(AttributeError, match="a Decision has no field other"):
        PREPAID.other  # noqa: B018 (reads the field)


@pytest.mark.parametrize(
    "decision",
    [ALLOWED, DENIED, DENIED.each[0], DEGRADED, CACHED, CACHED.each[0], PREPAID],
    ids=["yes", "no", "part", "degraded", "cached", "part of a cached one", "prepaid"],
)
def test_copies_are_equal(decision: Decision) -> None:
    """A decision can be sent to another process."""
    sent = pickle.loads(pickle.dumps(decision))  # noqa: S301
    for same in (sent, copy.copy(decision), copy.deepcopy(decision)):
        assert same == decision
        assert hash(same) == hash(decision)
        assert same.to_dict() == decision.to_dict()


@pytest.mark.parametrize("name", ["allowed", "remaining", "degraded", "cached", "_reply", "other"])
@pytest.mark.parametrize(
    "decision", [DENIED, DEGRADED, CACHED, PREPAID], ids=["no", "degraded", "cached", "prepaid"]
)
def test_frozen(decision: Decision, name: str) -> None:
    """No caller can turn a denial into an admission."""
    if decision is not PREPAID:  # its copy is another class
        decision = copy.copy(decision)
    before = repr(decision)
    with pytest.raises(AttributeError, match=f"a Decision is frozen: {name} cannot be set"):
        setattr(decision, name, True)
    with pytest.raises(AttributeError, match=f"a Decision is frozen: {name} cannot be deleted"):
        delattr(decision, name)
    assert repr(decision) == before


def test_repr() -> None:
    """It has every field."""
    assert repr(DENIED) == (
        "Decision(allowed=False, granted=0, remaining=0, retry_after=1.500001, "
        "reset_after=59.999999, delay=0.0, policy=SlidingLog(100, per=60), limit=100, "
        "degraded=False, cached=False)"
    )


def test_numbers_of_each_policy() -> None:
    """In integers, for reports; empty for a decision of the fallback."""
    for decision in (
        ALLOWED,
        DENIED,
        decided((LOG, (2, 60, 0, 60_000_000, 0)), (WINDOW, (0, 7, 3, 500_000, 0))),
    ):
        for parts in (decision, *decision.each):
            of_each = decision.each if parts is decision else (parts,)
            assert parts.numbers == [
                (
                    one.policy,
                    one.remaining,
                    round(one.retry_after * 1e6),
                    round(one.reset_after * 1e6),
                )
                for one in of_each
            ]
            assert parts.grants == [one.granted for one in of_each]
    assert Decision.without_store((LOG, WINDOW), allowed=True).numbers == []
    assert Decision.without_store((LOG, WINDOW), allowed=True).grants == []

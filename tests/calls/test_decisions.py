"""Each field of the decisions of hit, peek, refund, reset and settle, and the errors of wrong calls."""

from __future__ import annotations

import random

import pytest

from limiter import Concurrency, InvalidCost, InvalidKey, InvalidPolicy, SlidingLog, StoreRefused
from limiter.policies import Policy
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, PLACES, RATES, by_algorithm, set_time
from tests.model import model_of
from tests.model.base import Answer

MOVES_US = [0, 0, 0, 1, 999_999, 6_000_000, 6_000_001, 31_000_000, 60_000_000, -2_000_000]


def told(decision: object) -> Answer:
    """A decision's numbers, in the order of a model's answer."""
    times = ("retry_after", "reset_after", "delay")
    return Answer(
        decision.allowed,
        decision.granted,
        decision.remaining,
        *(round(getattr(decision, name) * 1e6) for name in times),
    )


def said(policy: Policy, answer: Answer) -> Answer:
    """The fields of a decision for a model's answer: only a queue has delays, and only if it admits."""
    queues = policy.queues and answer.allowed
    return answer._replace(delay_us=answer.delay_us if queues else 0)


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_every_call_says_what_the_model_says(make: Make, subject: str, policy: Policy) -> None:
    """A hundred calls of all kinds, at critical times: every field agrees after each of them."""
    limiter, model, draw = make(policy), model_of(policy), random.Random(policy.algorithm)
    now_us = NOW_US
    for _ in range(100):
        now_us += draw.choice(MOVES_US)
        set_time(limiter, now_us)
        cost = draw.choice([0, 1, 1, 2, 3, 7, 10])
        call = draw.choice(["hit", "hit", "part", "peek", "refund", "settle", "reset"])
        if call == "hit":
            decision, answer = limiter.hit(subject, cost), model.hit(now_us, cost)
        elif call == "part" and cost:
            least = draw.randint(1, cost)
            decision = limiter.hit(subject, cost, at_least=least)
            answer = model.hit(now_us, cost, at_least=least)
        elif call == "refund" and cost:
            assert limiter.refund(subject, cost) is None
            model.refund(now_us, cost)
            decision, answer = limiter.peek(subject, cost), model.peek(now_us, cost)
        elif call == "settle" and model.peek(now_us, 1).allowed:
            model.hit(now_us, 1)
            with limiter.reserve(subject, 1) as reserved:
                reserved.settle(1 + cost)
            model.settle(now_us, cost)
            decision, answer = limiter.peek(subject, 0), model.peek(now_us, 0)
        elif call == "reset":
            decision, answer = limiter.reset(subject), model.reset(now_us, 1)
        else:
            decision, answer = limiter.peek(subject, cost), model.peek(now_us, cost)
        assert told(decision) == said(policy, answer), call
        assert bool(decision) is decision.allowed
        assert (decision.policy, decision.limit) == (policy, policy.capacity)
        assert decision.degraded is False
        (alone,) = decision.each
        assert told(alone) == told(decision)
        assert alone.each == ()
        assert decision.to_dict()["each"] == [alone._fields()]


def test_the_policy_that_decides(make: Make, subject: str) -> None:
    """If denied, the policy that denies longest, else the one with the least left; the first of equals."""
    short, long = SlidingLog(2, 10), SlidingLog(3, 100)
    limiter = make([long, short])
    set_time(limiter, NOW_US)

    assert limiter.hit(subject).policy == short
    assert limiter.hit(subject).policy == short
    denied = limiter.hit(subject)
    assert (denied.policy, denied.limit, denied.retry_after) == (short, 2, 10.0)
    assert [one.remaining for one in denied.each] == [1, 0]
    assert [one.allowed for one in denied.each] == [True, False]
    set_time(limiter, NOW_US + 10_000_000)
    # Both have room for one unit: the first of equals.
    first = limiter.hit(subject)
    assert (first.policy, first.remaining) == (long, 0)
    assert limiter.peek(subject, cost=2).policy == long


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_at_least(make: Make, subject: str, policy: Policy) -> None:
    """As many units as there are, from ``at_least`` up to the cost; with fewer, nothing is taken."""
    limiter = make(policy)
    set_time(limiter, NOW_US)

    assert limiter.hit(subject, 6, at_least=2).granted == 6
    part = limiter.hit(subject, 6, at_least=2)
    assert (part.allowed, part.granted, part.remaining) == (True, 4, 0)
    none = limiter.hit(subject, 6, at_least=2)
    assert (none.allowed, none.granted) == (False, 0)
    assert none.retry_after == limiter.peek(subject, 2).retry_after


def test_at_least_takes_the_same_from_all(make: Make, subject: str) -> None:
    """The units for which all policies have room."""
    limiter = make([SlidingLog(5, 60), SlidingLog(10, 600)])

    decision = limiter.hit(subject, 3)
    decision = limiter.hit(subject, 5, at_least=1)

    assert decision.granted == 2
    assert [(one.granted, one.remaining) for one in decision.each] == [(2, 0), (2, 5)]


def test_costs_that_cannot_pass(make: Make, subject: str) -> None:
    """The store is not called, and nothing is taken."""
    limiter, leases = make(SlidingLog(10, 60)), make(PLACES)
    calls = (limiter.hit, limiter.peek, limiter.wait, limiter.refund, limiter.reserve, leases.hold)
    for cost in (-1, 11, True, 1.0, "1", None, 10**5000):
        for call in calls:
            with pytest.raises(InvalidCost, match="cost is"):
                call(subject, cost)
        with pytest.raises(InvalidCost, match="cost is"):
            limiter.hit_all([(subject, cost)])
    assert limiter.peek(subject).remaining == 10


def test_costs_from_one(make: Make, subject: str) -> None:
    """Cost 0 is allowed in hit, peek and hit_all, but not in refund, reserve or hold."""
    limiter = make(SlidingLog(10, 60))
    assert limiter.hit(subject, 0).granted == 0
    assert limiter.wait(subject, 0)
    assert limiter.hit_all([(subject, 0)])[0].allowed
    for call in (limiter.refund, limiter.reserve, make(PLACES).hold):
        with pytest.raises(InvalidCost, match="from 1 to"):
            call(subject, 0)


def test_a_call_that_makes_no_sense_for_the_policies(make: Make, subject: str) -> None:
    """``hit`` refuses leases and ``hold`` refuses rates; the message says which call to use."""
    leases, rates = make([PLACES, SlidingLog(10, 60)]), make(SlidingLog(10, 60))
    for call in (
        lambda: leases.hit(subject),
        lambda: leases.hit(subject, 2, at_least=1),
        lambda: leases.wait(subject),
        lambda: leases.reserve(subject, 1),
        lambda: leases.refund(subject),
        lambda: leases.hit_all([(subject, 1)]),
    ):
        with pytest.raises(InvalidPolicy, match=r"Concurrency\(2.*use hold"):
            call()
    with pytest.raises(InvalidPolicy, match=r"hold needs a Concurrency.*use hit"):
        rates.hold(subject)
    assert leases.peek(subject).each[1].remaining == 10


def test_wrong_keys(make: Make, subject: str) -> None:
    """Every call refuses them, as a key and as a tag, before it calls the store."""
    limiter, leases = make(SlidingLog(10, 60)), make(PLACES)
    calls = (
        *(limiter.hit, limiter.peek, limiter.wait, limiter.refund, limiter.reset, leases.hold),
        lambda key, **more: limiter.reserve(key, 1, **more),
        lambda key, **more: limiter.hit_all([(key, 1)], **more),
        lambda key, **more: limiter.hit_all([("another", 1), (key, 1)], **more),
    )
    for key in ("", None, 1.5, True, (), ("a", ""), ("a", ("b",)), "\ud800"):
        for call in calls:
            with pytest.raises(InvalidKey, match="key is"):
                call(key)
            if key is not None:
                with pytest.raises(InvalidKey, match="tag is"):
                    call(subject, tag=key)


@pytest.mark.parametrize("kind", ["standalone", "cluster"])
def test_a_key_of_another_program(make: Make, place: str, subject: str, request: object) -> None:
    """Every call refuses it, but reset forgets it."""
    cluster = request.getfixturevalue("cluster") if "cluster" in place else None
    client = cluster.client() if cluster else request.getfixturevalue("server").client()
    limiter = make(SlidingLog(10, 60))
    leases = make([PLACES, SlidingLog(10, 60)])
    for key in (
        f"rl:{{{subject}}}:default:v1:sliding_log:60000000",
        f"rl:{{{subject}}}:default:v1:concurrency",
    ):
        client.set(key, "something else", ex=60)
    client.close()
    for call in (
        lambda: limiter.hit(subject),
        lambda: limiter.peek(subject),
        lambda: limiter.wait(subject, timeout=0),
        lambda: limiter.refund(subject),
        lambda: limiter.reserve(subject, 1).__enter__(),
        lambda: limiter.hit_all([(subject, 1)]),
        lambda: leases.hold(subject).__enter__(),
    ):
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            call()
    assert leases.reset(subject).remaining == 2
    assert limiter.hit(subject).remaining == 9


@pytest.mark.parametrize("policy", [*RATES, PLACES], ids=by_algorithm)
def test_reset(make: Make, subject: str, policy: Policy) -> None:
    """It returns what a peek would have decided before; afterwards the subject is unused."""
    limiter = make(policy)
    set_time(limiter, NOW_US)
    if policy.leases:
        lease = limiter.hold(subject)
        lease.__enter__()
    else:
        limiter.hit(subject, 4)
    before = limiter.peek(subject)
    assert before.remaining < policy.capacity

    assert limiter.reset(subject) == before
    after = limiter.peek(subject)
    assert (after.remaining, after.reset_after) == (policy.capacity, 0.0)
    if policy.leases:
        lease.release()
        assert limiter.peek(subject).remaining == policy.capacity


def test_reset_forgets_all_of_the_subject(make: Make, new_subject: object) -> None:
    """The hash, the logs and the leases of the subject; no other subject's keys."""
    subject, other = new_subject(), new_subject()
    limits = [PLACES, *RATES]
    limiter = make(limits)
    with limiter.hold(other), limiter.hold(subject):
        said = limiter.reset(subject)
        assert [one.remaining for one in said.each] == [1] + [9] * len(RATES)
        assert [one.remaining for one in limiter.peek(subject).each] == [2] + [10] * len(RATES)
        assert [one.remaining for one in limiter.peek(other).each] == [1] + [9] * len(RATES)


def test_leases_in_a_decision(make: Make, subject: str) -> None:
    """Leases are held, not spent: the fields of a decision count until the last lease expires."""
    limiter = make(Concurrency(3, lease=60))
    set_time(limiter, NOW_US)
    with limiter.hold(subject, 2) as lease:
        taken = lease.decision
        assert (taken.allowed, taken.granted, taken.remaining) == (True, 2, 1)
        assert (taken.reset_after, taken.delay, taken.limit) == (60.0, 0.0, 3)
        set_time(limiter, NOW_US + 10_000_000)
        denied = limiter.peek(subject, cost=2)
        assert (denied.allowed, denied.retry_after, denied.reset_after) == (False, 50.0, 50.0)
        assert denied.remaining == 1
        assert limiter.peek(subject).allowed
    assert limiter.peek(subject, cost=3).allowed

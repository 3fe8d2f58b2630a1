"""``limits=`` and ``tag=``: the same policies with other numbers, and another slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    InvalidCost,
    InvalidPolicy,
    LeakyBucket,
    Limiter,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    core,
)
from limiter.policies import Policy
from service.demo.servers import Cluster
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, RATES, by_algorithm, set_time


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_a_subject_of_its_own_numbers(make: Make, new_subject: Any, policy: Policy) -> None:
    """As a string, a policy or several: all calls accept them, and the subject keeps its state."""
    limiter = make(policy)
    for more in ("20/minute", type(policy)(20, 60), [type(policy)(20, 60)]):
        subject = new_subject()
        set_time(limiter, NOW_US)
        decision = limiter.hit(subject, 15, limits=more)
        assert (decision.granted, decision.remaining, decision.limit) == (15, 5, 20)
        assert decision.policy == type(policy)(20, 60)
        assert limiter.peek(subject, limits=more).remaining == 5
        # The limiter's own numbers on the same state: a bucket keeps its share, the others their count.
        ours = {"token_bucket": 2, "gcra": 2, "leaky_bucket": 2}.get(policy.algorithm, 0)
        assert limiter.peek(subject).remaining == ours
        limiter.refund(subject, 15, limits=more)
        assert limiter.peek(subject, limits=more).remaining == 20
        assert limiter.wait(subject, 20, timeout=0, limits=more)
        assert limiter.reset(subject, limits=more).limit == 20


def test_a_burst_of_its_own(make: Make, subject: str) -> None:
    """In a string and in a policy; without one the burst is the limit."""
    limiter = make(TokenBucket(10, 60, burst=5))
    assert limiter.peek(subject, limits="20/minute burst 40").remaining == 40
    assert limiter.peek(subject, limits=TokenBucket(20, 60, burst=7)).remaining == 7
    assert limiter.peek(subject, limits="20/minute").remaining == 20
    assert limiter.peek(subject).remaining == 5


def test_numbers_for_several_policies(make: Make, subject: str) -> None:
    """In the order of the policies; a string leaves names and alignment as they are."""
    own = [SlidingLog(5, 60, name="a"), SlidingLog(7, 60, name="b"), FixedWindow(9, 60, align=True)]
    limiter = make(own)
    decision = limiter.peek(subject, limits="50/minute; 70 per 60 s, 90/minute")
    assert [one.policy for one in decision.each] == [
        SlidingLog(50, 60, name="a"),
        SlidingLog(70, 60, name="b"),
        FixedWindow(90, 60, align=True),
    ]


@pytest.mark.parametrize(
    "others",
    [
        "20/hour",
        "20/minute; 20/hour",
        "20/minute burst 5",
        SlidingLog(20, 61),
        SlidingLog(20, 60, name="a"),
        SlidingWindow(20, 60),
        FixedWindow(20, 60),
        [SlidingLog(20, 60), SlidingLog(20, 60, name="a")],
        Concurrency(20, 60),
        [],
        "",
        "many/minute",
        "0/minute",
        20,
        [20],
    ],
    ids=repr,
)
def test_other_limits_are_refused(make: Make, subject: str, others: Any) -> None:
    """Algorithm, period, name and number of policies must agree, in every call that takes limits."""
    limiter = make(SlidingLog(10, 60))
    for call in (
        lambda: limiter.hit(subject, limits=others),
        lambda: limiter.peek(subject, limits=others),
        lambda: limiter.wait(subject, limits=others),
        lambda: limiter.refund(subject, limits=others),
        lambda: limiter.reset(subject, limits=others),
        lambda: limiter.reserve(subject, 1, limits=others),
        lambda: limiter.hold(subject, limits=others),
        lambda: limiter.hit_all([(subject, 1)], limits=others),
        lambda: limiter.hit_all([(subject, 1, others)]),
    ):
        with pytest.raises(InvalidPolicy):
            call()


def test_the_bucket_family_is_not_one_algorithm(make: Make, subject: str) -> None:
    """They share a script, but not their state."""
    kinds = [TokenBucket, GCRA, LeakyBucket]
    for kind in kinds:
        for other in set(kinds) - {kind}:
            with pytest.raises(InvalidPolicy, match="other numbers"):
                make(kind(10, 60)).hit(subject, limits=other(10, 60))


def test_the_cost_is_held_against_the_numbers_of_the_call(make: Make, subject: str) -> None:
    """Against the smallest limit among them, which may be larger than the limiter's own."""
    limiter = make([SlidingLog(10, 60), SlidingLog(100, "hour")])
    assert limiter.hit(subject, 50, limits="60/minute; 100/hour").granted == 50
    for call in (limiter.hit, limiter.peek, limiter.wait, limiter.refund, limiter.reserve):
        with pytest.raises(InvalidCost, match=r"from \d to 3,"):
            call(subject, 4, limits="5/minute; 3/hour")
    with pytest.raises(InvalidCost, match="from 0 to 3,"):
        limiter.hit_all([(subject, 4, "5/minute; 3/hour")])
    leases = make([Concurrency(10, 60), SlidingLog(10, 60)])
    with pytest.raises(InvalidCost, match="from 1 to 3,"):
        leases.hold(subject, 4, limits="5/minute; 3/minute")


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_a_reservation_settles_by_its_own_numbers(
    make: Make, new_subject: Any, policy: Policy
) -> None:
    """A lower cost, a higher cost, and debt of at most one of its own limits."""
    limiter = make(policy)
    for actual, left in ((5, 15), (18, 2), (40, 0), (1000, 0)):
        subject = new_subject()
        set_time(limiter, NOW_US)
        with limiter.reserve(subject, 15, limits="20/minute") as reserved:
            reserved.settle(actual)
        decision = limiter.peek(subject, limits="20/minute")
        assert decision.remaining == left
        if policy.has_burst:
            assert decision.reset_after == min(actual, 40) * 3.0


def test_places_of_its_own(make: Make, subject: str) -> None:
    """More and fewer places than the limiter has, over leases that are held."""
    limiter = make(Concurrency(2, lease=60))
    more = Concurrency(3, lease=60)
    with limiter.hold(subject, 2), limiter.hold(subject, limits=more) as third:
        assert third.decision.limit == 3
        assert limiter.peek(subject, limits=more).remaining == 0
        assert limiter.peek(subject).remaining == 0
        assert limiter.peek(subject, limits="9/minute").remaining == 6
    assert limiter.peek(subject, limits=more).remaining == 3


def test_many_sets_of_numbers(make: Make, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of prepared plans is bounded; one more is no mistake."""
    monkeypatch.setattr(core, "MOST_PLANS", 100)
    limiter = make(SlidingWindow(10, 60))
    for limit in range(1, 250):
        assert limiter.peek(subject, limits=f"{limit}/minute").limit == limit
    assert len(limiter._core._plans) <= 100


def test_many_costs_of_many_sets_of_numbers(make: Make, subject: str) -> None:
    """Each plan keeps few templates: with 4,096 plans, those of a limiter's own would take 500 MB."""
    limiter = make(SlidingWindow(1000, 60))
    for cost in range(1, 300):
        assert limiter.peek(subject, cost, limits="2000/minute").limit == 2000
        assert limiter.peek(subject, cost).limit == 1000
    (plan,) = limiter._core._plans.values()
    assert len(plan.templates) <= 32
    assert len(limiter._core.plan.templates) <= 256


def test_a_tag_has_a_state_of_its_own(make: Make, new_subject: Any) -> None:
    """In every call: the subject without a tag, or with another tag, is another subject."""
    subject, tag, other = new_subject(), new_subject(), new_subject()
    limiter, leases = make(SlidingLog(10, 60)), make(Concurrency(2, 60))

    limiter.hit(subject, 2, tag=tag)
    limiter.wait(subject, 2, tag=tag)
    limiter.hit_all([(subject, 2)], tag=tag)
    limiter.refund(subject, tag=tag)
    with limiter.reserve(subject, 3, tag=tag) as reserved:
        reserved.settle(2)
    with leases.hold(subject, tag=tag):
        assert leases.peek(subject, tag=tag).remaining == 1
        assert leases.peek(subject).remaining == leases.peek(subject, tag=other).remaining == 2
    assert leases.peek(subject, tag=tag).remaining == 2
    assert limiter.peek(subject, tag=tag).remaining == 3
    assert limiter.peek(subject).remaining == limiter.peek(subject, tag=other).remaining == 10
    assert limiter.peek(tag, tag=subject).remaining == 10
    assert limiter.reset(subject, tag=tag).remaining == 3
    assert limiter.peek(subject, tag=tag).remaining == 10


def test_a_tag_is_the_slot(cluster: Cluster, new_subject: Callable[[], str]) -> None:
    """As a server reads the braces of a key; for a string, a number, a tuple, and with a secret."""
    client, tag = cluster.client(), new_subject()
    with Limiter(SlidingLog(10, 60), store=cluster.url, timeout=5.0) as limiter:
        for subject in ("a", 7, b"c", ("d", 1)):
            limiter.hit(subject, tag=tag)
    prefix = f"rl:{{{tag}}}:"
    keys = list(client.scan_iter(f"{prefix}*", target_nodes="primaries"))
    assert sorted(keys) == [
        f"{prefix}{name}|default:v1:sliding_log:60000000" for name in ("7", "a", "c", "d,1")
    ]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(tag.encode())}
    client.delete(*keys)
    client.close()

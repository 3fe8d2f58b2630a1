"""Costs by policy, and costs above a limit that is capped."""

from __future__ import annotations

from typing import Any

import pytest

from limiter import (
    Concurrency,
    FixedWindow,
    InvalidCost,
    InvalidSetting,
    Limiter,
    SlidingLog,
    TokenBucket,
)
from limiter.policies import Policy
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, RATES, by_algorithm, lefts, set_time
from tests.proxy import Proxy, cut

#: Requests and tokens: limits of different sizes, in different kinds of keys.
BUDGET: list[Policy] = [SlidingLog(3, 60), TokenBucket(1_000, 60)]


@pytest.mark.parametrize("limits", [BUDGET, [FixedWindow(3, 60), TokenBucket(1_000, 60)]])
def test_a_cost_for_each_policy(make: Make, new_subject: Any, limits: list[Policy]) -> None:
    """Every call takes them; ``granted`` is the smallest, and ``each`` has all."""
    limiter, subject = make(limits), new_subject()
    set_time(limiter, NOW_US)
    hit = limiter.hit(subject, (1, 400))
    assert (hit.allowed, hit.granted, [one.granted for one in hit.each]) == (True, 1, [1, 400])
    assert limiter.peek(subject, (2, 600)).allowed
    assert limiter.wait(subject, (1, 500), timeout=0).allowed
    denied = limiter.hit(subject, (1, 101))
    assert (denied.allowed, denied.granted, denied.policy) == (False, 0, limits[1])
    assert [one.allowed for one in denied.each] == [True, False]
    limiter.refund(subject, (2, 300))
    assert lefts(limiter, subject) == [3, 400]
    other = new_subject()
    assert limiter.hit_all([(subject, (3, 400)), (other, (1, 1_000))])
    assert [lefts(limiter, each) for each in (subject, other)] == [[0, 0], [2, 0]]


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ((1,), r"cost is \(1,\): expected a whole number, or a tuple of 2 in the order of the"),
        ((1, 2, 3), r"cost is \(1, 2, 3\)"),
        ((), r"cost is \(\)"),
        ((1, True), r"cost\[1\] is True: expected a whole number from 0 to 1000"),
        (
            (4, 5),
            r"cost\[0\] is 4: expected a whole number from 0 to 3, the most that SlidingLog",
        ),
        ((1, "5"), r"cost\[1\] is '5'"),
        ((-1, 5), r"cost\[0\] is -1"),
        ([1, 5], r"cost is \[1, 5\]"),
    ],
)
def test_wrong_costs(wrong: Any, shown: str) -> None:
    """The message names the value; nothing is charged."""
    limiter = Limiter(BUDGET, store="memory://")
    for call in (
        lambda: limiter.hit("u", wrong),
        lambda: limiter.peek("u", wrong),
        lambda: limiter.hit_all([("other", 1), ("u", wrong)]),
    ):
        with pytest.raises(InvalidCost, match=shown):
            call()
    with pytest.raises(InvalidCost, match=r"cost is \(1, 5\)"):
        limiter.hit("u", (1, 5), at_least=1)
    assert lefts(limiter, "u") == lefts(limiter, "other") == [3, 1_000]


def test_a_lease_has_one_cost() -> None:
    """Also with ``cap``: a lease of fewer places would be another one."""
    limiter = Limiter(Concurrency(2, lease=60), store="memory://", cap=True)
    for wrong in (3, (1,)):
        with pytest.raises(InvalidCost, match="cost is"):
            limiter.hold("u", wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="cap is 1: expected True or False"):
        Limiter("1/second", store="memory://", cap=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_a_capped_cost(make: Make, subject: str, policy: Policy) -> None:
    """A cost above the limit takes all of it, in each call that takes; a cost below takes itself."""
    limiter = make(policy, cap=True)
    set_time(limiter, NOW_US)
    assert limiter.peek(subject, 11).allowed
    for call in (
        lambda: limiter.hit(subject, 11),
        lambda: limiter.hit(subject, 10**30),
        lambda: limiter.hit(subject, 50, at_least=11),
        lambda: limiter.wait(subject, 11, timeout=0),
        lambda: limiter.hit_all([(subject, 11)])[0],
    ):
        decision = call()
        assert (decision.allowed, decision.granted, decision.remaining) == (True, 10, 0)
        limiter.reset(subject)
    assert limiter.hit(subject, 1).granted == 1
    assert not limiter.hit(subject, 11)
    assert limiter.hit(subject, 50, at_least=3).granted == 9
    for wrong in (-1, True, 1.5):
        with pytest.raises(InvalidCost, match=r"expected a whole number from 0$"):
            limiter.hit(subject, wrong)


def test_each_limit_caps_its_own_cost(make: Make, new_subject: Any) -> None:
    """One number, a tuple, and the subject's own limits."""
    limiter = make(BUDGET, cap=True)
    for cost, granted in ((50, [3, 50]), ((1, 9_999), [1, 1_000]), ((9, 9), [3, 9])):
        decision = limiter.hit(new_subject(), cost)
        assert [one.granted for one in decision.each] == granted
    decision = limiter.hit(new_subject(), 100, limits="30/minute; 2000/minute")
    assert [one.granted for one in decision.each] == [30, 100]


def test_a_local_share_caps(make_on: Make, proxy: Proxy, new_subject: Any) -> None:
    """To the share of each limit; without ``cap`` a cost above the share is denied."""
    proxy.requests = cut
    for cap in (True, False):
        limiter = make_on(proxy.url, BUDGET, on_error="local", local_share=3, cap=cap)
        decisions = [
            limiter.hit(new_subject(), (2, 400)),
            *limiter.hit_all([(new_subject(), (2, 400)), (new_subject(), (1, 10))]),
        ]
        assert all(one.degraded for one in decisions)
        if cap:
            granted = [[each.granted for each in one.each] for one in decisions]
            assert granted == [[1, 333], [1, 333], [1, 10]]
        else:
            assert not any(decisions)

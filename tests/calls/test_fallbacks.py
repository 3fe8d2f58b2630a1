"""The effect of ``on_error`` on each call, if the store refuses, hangs, or disappears in the middle."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    InvalidCost,
    InvalidKey,
    InvalidPolicy,
    LeakyBucket,
    RateLimited,
    SlidingLog,
    SlidingWindow,
    StoreRefused,
    StoreUnavailable,
    TokenBucket,
)
from limiter.policies import Policy
from service.demo.servers import Server
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, RATES, by_algorithm, set_time
from tests.proxy import Proxy, cut, swallow
from tests.transport.support import within_deadline
from tests.waiting import STALL, until, until_renewed

LIMITS: list[Policy] = [SlidingLog(20, 60), TokenBucket(40, 60)]
LEASES: list[Policy] = [Concurrency(10, lease=60), SlidingLog(20, 60)]

#: A function that breaks the store of a test.
Fault = Callable[[], None]


def refuses(proxy: Proxy) -> None:
    """The server has stopped."""
    proxy.close()


def hangs(proxy: Proxy) -> None:
    """No request gets an answer."""
    proxy.requests = swallow


def goes(proxy: Proxy) -> None:
    """Each call runs, and its reply is lost with the connection."""
    proxy.replies = cut


@pytest.fixture(params=[refuses, hangs, goes], ids=lambda fault: fault.__name__)
def broken(request: pytest.FixtureRequest, proxy: Proxy) -> Fault:
    """How the store of the test breaks."""
    return lambda: request.param(proxy)


@pytest.fixture
def make_broken(make_on: Make, proxy: Proxy, broken: Fault, subject: str) -> Make:
    """Make limiters whose store worked, and then broke."""
    made: list[Any] = []

    def make(*sets: list[Policy], **settings: Any) -> list[Any]:
        made.extend(make_on(proxy.url, limits, timeout=0.15, **settings) for limits in sets)
        for limiter in made:
            until(lambda limiter=limiter: answers(limiter, subject))
        broken()
        return made

    return make


def answers(limiter: Any, subject: str) -> bool:
    """Whether the store decides: its first answers may be too late on a busy machine."""
    try:
        return not limiter.peek(subject).degraded
    except StoreUnavailable:
        return False


def entered(body: Any) -> Any:
    """Enter a body, and return its decision."""
    with body as inside:
        return inside.decision


def calls(limiter: Any, leases: Any, subject: str) -> dict[str, Callable[[], Any]]:
    """Every call to which on_error applies, as a function that returns a decision."""
    return {
        "hit": lambda: limiter.hit(subject, 2),
        "part": lambda: limiter.hit(subject, 2, at_least=1),
        "peek": lambda: limiter.peek(subject),
        "wait": lambda: limiter.wait(subject, timeout=30),
        "reserve": lambda: entered(limiter.reserve(subject, 1)),
        "hit_all": lambda: limiter.hit_all([(subject, 1)])[0],
        "hold": lambda: entered(leases.hold(subject, timeout=30)),
        "peek leases": lambda: leases.peek(subject),
    }


def test_raise(make_broken: Make, subject: str) -> None:
    """Every call raises StoreUnavailable within the deadline."""
    limiter, leases = make_broken(LIMITS, LEASES)
    for call in calls(limiter, leases, subject).values():
        with pytest.raises(StoreUnavailable):
            call()
        within_deadline(call, 0.15)


def test_allow(make_broken: Make, subject: str) -> None:
    """Every call passes without numbers, and says that the store did not decide."""
    for name, call in calls(*make_broken(LIMITS, LEASES, on_error="allow"), subject).items():
        decision = call()
        assert decision.allowed, name
        assert decision.degraded
        assert (decision.granted, decision.remaining) == (0, 0)
        assert (decision.retry_after, decision.reset_after, decision.delay) == (0.0, 0.0, 0.0)
        assert decision.policy == (LEASES if name in ("hold", "peek leases") else LIMITS)[0]
        assert decision.each == ()


def test_what_was_allowed_is_not_settled(make_on: Make, proxy: Proxy, subject: str) -> None:
    """Nothing was charged, so nothing is refunded, charged in addition, or counted."""
    proxy.requests = cut
    limiter = make_on(proxy.url, SlidingLog(10, 60), on_error="allow")
    for actual in (0, 1, 9, 99):
        with limiter.reserve(subject, 4) as reserved:
            proxy.mend()
            reserved.settle(actual)
        assert limiter.peek(subject).remaining == 10
        proxy.requests = cut
    assert limiter.unsettled == 0


def test_deny(make_broken: Make, subject: str) -> None:
    """No call passes; wait, reserve and hold raise the decision that the others return."""
    for name, call in calls(*make_broken(LIMITS, LEASES, on_error="deny"), subject).items():
        if name in ("wait", "reserve", "hold"):
            with pytest.raises(RateLimited) as denied:
                call()
            decision = denied.value.decision
        else:
            decision = call()
        assert not decision.allowed, name
        assert decision.degraded
        assert (decision.granted, decision.remaining) == (0, 0)
        assert (decision.retry_after, decision.reset_after, decision.delay) == (1.0, 0.0, 0.0)
        assert decision.policy == (LEASES if name in ("hold", "peek leases") else LIMITS)[0]
        assert decision.each == ()


def test_local(make_broken: Make, subject: str) -> None:
    """Half of each limit is decided in the process: all fields are those of the share, after each call."""
    limiter, leases = make_broken(LIMITS, LEASES, on_error="local", local_share=2)
    said = {name: call() for name, call in calls(limiter, leases, subject).items()}

    assert all(one.allowed and one.degraded for one in said.values())
    policies = [SlidingLog(10, 60), TokenBucket(20, 60)]
    hit = said["hit"]
    assert (hit.granted, hit.remaining, hit.retry_after, hit.delay) == (2, 8, 0.0, 0.0)
    assert (hit.policy, hit.limit, hit.reset_after) == (policies[0], 10, 60.0)
    assert [one.policy for one in hit.each] == policies
    assert [one.remaining for one in hit.each] == [8, 18]
    assert all(one.degraded for one in hit.each)
    assert [(one.granted, one.remaining) for one in said.values()] == [
        *((2, 8), (2, 6), (0, 6), (1, 5), (1, 4), (1, 3)),
        *((1, 4), (0, 5)),
    ]
    denied = limiter.hit(subject, 4)
    assert (denied.allowed, denied.degraded, denied.granted) == (False, True, 0)
    assert 50 < denied.retry_after <= 60


def test_local_leases(make_on: Make, proxy: Proxy, subject: str) -> None:
    """Leases are held, released and denied in this process, with the rates; ``wait`` does not wait."""
    proxy.requests = cut
    limiter = make_on(proxy.url, LEASES, on_error="local", local_share=5)
    with limiter.hold(subject, 2) as lease:
        assert lease.decision.degraded
        assert [one.remaining for one in lease.decision.each] == [0, 2]
        with pytest.raises(RateLimited) as denied, limiter.hold(subject, timeout=30):
            raise AssertionError
        assert denied.value.decision.degraded
        assert denied.value.decision.limit == 2
    assert [one.remaining for one in limiter.peek(subject).each] == [2, 2]
    with limiter.hold(subject):
        pass
    assert limiter.peek(subject).remaining == 1


def test_local_leases_are_renewed(make_on: Make, proxy: Proxy, subject: str) -> None:
    """They are renewed beyond their length, as leases of the store are."""
    proxy.requests = cut
    limiter = make_on(proxy.url, Concurrency(1, lease=3), on_error="local")
    with limiter.hold(subject) as lease:
        until_renewed(limiter, subject)
        assert not limiter.peek(subject)
        assert not lease.lost
    assert limiter.peek(subject)


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_local_reservations(make_on: Make, proxy: Proxy, new_subject: Any, policy: Policy) -> None:
    """They are settled in the process: less, more, and all of it after an exception."""
    proxy.requests = cut
    limiter = make_on(proxy.url, policy, on_error="local", local_share=2)
    set_time(limiter, NOW_US)
    for actual, left in ((1, 4), (3, 2), (4, 1), (9, 0), (None, 2)):
        subject = new_subject()
        with limiter.reserve(subject, 3) as reserved:
            assert reserved.decision.remaining == 2
            if actual is not None:
                reserved.settle(actual)
        assert limiter.peek(subject).remaining == left
    assert limiter.unsettled == 0


def test_a_large_local_settlement(make_on: Make, proxy: Proxy, subject: str) -> None:
    """It is charged to each policy as far as its debt may go, whatever the smallest limit admits."""
    proxy.requests = cut
    limits = [TokenBucket(4, 1), FixedWindow(100, 60)]
    limiter = make_on(proxy.url, limits, on_error="local", local_share=2)
    set_time(limiter, NOW_US)
    with limiter.reserve(subject, 1) as reserved:
        reserved.settle(31)
    decision = limiter.peek(subject)
    assert [one.remaining for one in decision.each] == [0, 19]
    assert decision.retry_after == 1.5  # the bucket is in debt by as much as it holds


@pytest.mark.parametrize(
    ("policy", "share", "part"),
    [
        (FixedWindow(10, 60), 3, FixedWindow(3, 60)),
        (FixedWindow(10, 60, align=True), 3, FixedWindow(3, 60, align=True)),
        (SlidingLog(10, 60, name="a"), 11, SlidingLog(1, 60, name="a")),
        (SlidingWindow(10, 60), 1, SlidingWindow(10, 60)),
        (TokenBucket(10, 60, burst=7), 3, TokenBucket(3, 60, burst=2)),
        (GCRA(2, 60, burst=40), 4, GCRA(1, 60, burst=10)),
        (LeakyBucket(10, 60), 100, LeakyBucket(1, 60)),
        (Concurrency(10, 60), 4, Concurrency(2, 60)),
    ],
    ids=repr,
)
def test_shares(
    make_on: Make, proxy: Proxy, subject: str, policy: Policy, share: int, part: Policy
) -> None:
    """Limit and burst are divided, rounded down, and at least 1."""
    proxy.requests = cut
    limiter = make_on(proxy.url, policy, on_error="local", local_share=share)

    decision = limiter.peek(subject)

    assert decision.degraded
    assert (decision.policy, decision.remaining) == (part, part.capacity)


def test_a_cost_above_the_share(make_on: Make, proxy: Proxy, subject: str) -> None:
    """It never passes: it is denied for a second; with ``at_least``, the share is granted."""
    proxy.requests = cut
    limiter = make_on(proxy.url, SlidingLog(10, 60), on_error="local", local_share=4)
    for call in (
        lambda: limiter.hit(subject, 3),
        lambda: limiter.hit(subject, 10, at_least=3),
        lambda: limiter.peek(subject, 3),
        lambda: limiter.hit_all([(subject, 3), ("another", 1)])[0],
    ):
        decision = call()
        assert (decision.allowed, decision.degraded) == (False, True)
        assert (decision.granted, decision.retry_after) == (0, 1.0)
    for call in (lambda: limiter.wait(subject, 3), lambda: limiter.reserve(subject, 3).__enter__()):
        with pytest.raises(RateLimited):
            call()
    part = limiter.hit(subject, 10, at_least=2)
    assert (part.granted, part.remaining) == (2, 0)
    with pytest.raises(InvalidCost):
        limiter.hit(subject, 11)


def test_several_subjects_here(make_on: Make, proxy: Proxy, new_subject: Any) -> None:
    """All of them, or none."""
    proxy.requests = cut
    limiter = make_on(proxy.url, SlidingLog(10, 60), on_error="local", local_share=5)
    a, b = new_subject(), new_subject()
    assert [one.granted for one in limiter.hit_all([(a, 1), (b, 2)])] == [1, 2]
    decisions = limiter.hit_all([(a, 1), (b, 1)])
    assert [(one.allowed, one.granted) for one in decisions] == [(True, 0), (False, 0)]
    assert limiter.peek(a).remaining == 1
    decision, *_ = limiter.hit_all([(a, 1, "20/minute")])
    assert (decision.limit, decision.remaining) == (4, 2)


def test_numbers_and_tags_here(make_on: Make, proxy: Proxy, subject: str) -> None:
    """``limits=`` and ``tag=`` work as in the store."""
    proxy.requests = cut
    limiter = make_on(proxy.url, SlidingLog(10, 60), on_error="local", local_share=2)
    assert limiter.hit(subject, 3).remaining == 2
    assert limiter.hit(subject, 3, tag="t").remaining == 2
    assert limiter.hit(subject, limits="40/minute").remaining == 16


def test_mistakes_are_never_a_fallback(make_broken: Make, subject: str) -> None:
    """A wrong cost, key or policy raises the same error as with a store."""
    limiter, leases = make_broken(LIMITS, LEASES, on_error="allow")
    for call, error in (
        (lambda: limiter.hit(subject, 21), InvalidCost),
        (lambda: limiter.hit(""), InvalidKey),
        (lambda: limiter.hit(subject, limits="1/day"), InvalidPolicy),
        (lambda: leases.hit(subject), InvalidPolicy),
        (lambda: limiter.hold(subject), InvalidPolicy),
        (lambda: limiter.hit_all([(subject, 1), (subject, 1)]), InvalidKey),
    ):
        with pytest.raises(error):
            call()


@pytest.mark.parametrize("on_error", ["allow", "deny", "local"])
def test_a_refusal_is_never_a_fallback(
    make_on: Make, server: Server, subject: str, on_error: str
) -> None:
    """The store answered, but not with a decision: an operator must change something."""
    client, state = server.client(), f"rl:{{{subject}}}:default:v1"
    for key in (f"{state}:sliding_log:60000000", f"{state}:concurrency"):
        client.set(key, "something else", ex=60)
    client.close()
    limiter = make_on(server.url, LIMITS, on_error=on_error)
    leases = make_on(server.url, LEASES, on_error=on_error)
    for call in calls(limiter, leases, subject).values():
        with pytest.raises(StoreRefused):
            call()


@pytest.mark.parametrize("on_error", ["allow", "deny", "local"])
def test_redis_decides_again(make_on: Make, own: Server, subject: str, on_error: str) -> None:
    """It does within three seconds of being back; its counts are those from before."""
    limiter = make_on(own.url, LEASES, on_error=on_error, timeout=2.0)
    assert not limiter.peek(subject).degraded
    own.kill()
    lease = limiter.hold(subject)
    if on_error != "deny":
        lease.__enter__()
    assert limiter.peek(subject).degraded
    own.restart()
    began = time.monotonic()
    until(lambda: not limiter.peek(subject).degraded)
    assert time.monotonic() - began < 3.0 + STALL
    with limiter.hold(subject) as another:
        assert not another.decision.degraded
        lease.release()
        assert [one.remaining for one in limiter.peek(subject).each] == [9, 19]
    assert not lease.lost

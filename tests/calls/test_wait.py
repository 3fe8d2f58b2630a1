"""Waiting: as long as the decision requires, or not at all."""

from __future__ import annotations

import time

import pytest

from limiter import (
    FixedWindow,
    InvalidSetting,
    LeakyBucket,
    RateLimited,
    SlidingLog,
    StoreUnavailable,
)
from limiter.policies import Policy
from tests.calls.conftest import Make
from tests.calls.support import RATES, Time, by_algorithm
from tests.histories import Admitted, assert_bound
from tests.model import model_of
from tests.parallel import in_threads
from tests.proxy import Proxy, cut


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_passes_after_retry_after(
    make: Make, subject: str, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sleeps once, up to 5 % longer than ``retry_after``, so that callers do not come all at once."""
    limiter = make(policy)
    times = Time(limiter, monkeypatch)
    limiter.hit(subject, 9)
    told = limiter.peek(subject, 3).retry_after

    decision = limiter.wait(subject, 3)

    assert (decision.allowed, decision.granted) == (True, 3)
    slept, *delay = times.slept
    assert told <= slept <= told * 1.05
    assert delay == [decision.delay] * bool(decision.delay)
    assert bool(delay) == policy.queues


def test_waits_for_others_too(make: Make, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another caller was faster, twice: it tries and sleeps again."""
    limiter = make(SlidingLog(1, 60))
    times = Time(limiter, monkeypatch)
    limiter.hit(subject)
    times.rival, times.visits = subject, 2

    assert limiter.wait(subject).allowed
    assert [60.0 <= slept <= 63.0 for slept in times.slept] == [True] * 3


def test_at_once(make: Make, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is room, it does not sleep."""
    limiter = make(SlidingLog(2, 60))
    times = Time(limiter, monkeypatch)
    assert limiter.wait(subject).remaining == 1
    assert limiter.wait(subject, 1, 0.0).remaining == 0
    assert times.slept == []


def test_one_try(make: Make, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With timeout 0 it is a hit that raises; nothing is taken."""
    limiter = make(SlidingLog(5, 60))
    times = Time(limiter, monkeypatch)
    limiter.hit(subject, 4)
    with pytest.raises(RateLimited) as denied:
        limiter.wait(subject, 2, timeout=0)
    assert denied.value.decision == limiter.peek(subject, 2)
    assert times.slept == []
    assert limiter.peek(subject).remaining == 1


def test_a_timeout_that_is_too_short(
    make: Make, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If retry_after is longer than the time left, it raises at once; if equal, it waits."""
    limiter = make(SlidingLog(5, 60))
    times = Time(limiter, monkeypatch)
    limiter.hit(subject, 5)
    with pytest.raises(RateLimited) as denied:
        limiter.wait(subject, timeout=59.999_999)
    assert denied.value.decision.retry_after == 60.0
    assert times.slept == []
    assert limiter.peek(subject).reset_after == 60.0  # nothing was taken

    assert limiter.wait(subject, timeout=60)
    assert times.slept == [60.0]


def test_the_time_left_counts_all_sleeps(
    make: Make, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another caller was faster after one sleep, and the next sleep would be too long."""
    limiter = make(SlidingLog(1, 60))
    times = Time(limiter, monkeypatch)
    limiter.hit(subject)
    times.rival, times.visits = subject, 9
    with pytest.raises(RateLimited):
        limiter.wait(subject, timeout=100)
    assert len(times.slept) == 1


def test_the_delay_is_slept(make: Make, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The callers of a leaky bucket go on one after the other, at its rate."""
    limiter = make(LeakyBucket(10, 60, burst=3))
    times = Time(limiter, monkeypatch)
    for _ in range(3):
        times.slept.clear()
        began_us = times.passed_us
        decision = limiter.wait(subject, timeout=0)
        assert times.slept == [decision.delay] * bool(decision.delay)
        times.passed_us = began_us  # as if three callers came together
    assert decision.delay == 12.0
    assert limiter.hit(subject).retry_after == 6.0


def test_wrong_timeouts(make: Make, subject: str) -> None:
    """They are refused, and nothing is taken."""
    limiter = make(SlidingLog(10, 60))
    for timeout in (-1, -0.001, True, "1", float("nan")):
        with pytest.raises(InvalidSetting, match="timeout is"):
            limiter.wait(subject, timeout=timeout)
    assert limiter.peek(subject).remaining == 10
    assert limiter.wait(subject, timeout=float("inf"))
    assert limiter.wait(subject, timeout=10**400)
    assert limiter.wait(subject, timeout=3)


def test_a_degraded_denial_is_not_waited_for(make_on: Make, proxy: Proxy, subject: str) -> None:
    """The store did not decide: a denial raises RateLimited, an admission returns; it asks once."""
    proxy.replies = cut
    for on_error in ("deny", "local"):
        limiter = make_on(proxy.url, FixedWindow(1, 60), on_error=on_error)
        if on_error == "local":
            assert limiter.wait(subject, timeout=100).degraded
        with pytest.raises(RateLimited) as denied:
            limiter.wait(subject, timeout=100)
        assert denied.value.decision.degraded
    limiter = make_on(proxy.url, FixedWindow(1, 60), on_error="allow")
    assert limiter.wait(subject).degraded
    with pytest.raises(StoreUnavailable):
        make_on(proxy.url, FixedWindow(1, 60)).wait(subject)


def test_a_call_that_may_have_run_is_not_repeated(
    make_on: Make, proxy: Proxy, store: str, subject: str
) -> None:
    """Its reply was lost: it is charged once."""
    limiter = make_on(proxy.url, SlidingLog(10, 60))
    limiter.hit(subject)
    proxy.replies = cut
    with pytest.raises(StoreUnavailable):
        limiter.wait(subject)
    proxy.mend()
    assert make_on(store, SlidingLog(10, 60)).peek(subject).remaining == 8


def test_a_crowd_in_real_time(make_on: Make, store: str, subject: str) -> None:
    """Six callers wait for ten units each: they pass as fast as the limit allows, and no faster."""
    policy = SlidingLog(12, 0.2)
    limiter = make_on(store, policy)
    admitted: list[Admitted] = []

    def work(_: int) -> None:
        for _ in range(10):
            decision = limiter.wait(subject)
            admitted.append(Admitted(decision._reply[-1], 1))

    began = time.monotonic()
    in_threads(6, work)
    took = time.monotonic() - began

    assert len(admitted) == 60
    assert_bound(model_of(policy), admitted)
    assert 0.8 <= took < 5.0  # four whole periods lie between the first and the last twelve

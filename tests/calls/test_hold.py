"""Leases: taken with the rates or not at all, renewed, released, and reported when they are lost."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from limiter import (
    Concurrency,
    InvalidSetting,
    LeakyBucket,
    Limiter,
    RateLimited,
    SlidingLog,
    StoreUnavailable,
    lines,
    thread_core,
)
from limiter.testing import StoreCall, intercept
from service.demo.servers import Server
from tests.calls.conftest import Make
from tests.calls.support import PLACES, PLENTY, RATES, lefts
from tests.proxy import Proxy, cut, forward, swallow
from tests.transport.support import scripts_run
from tests.waiting import PATIENCE, until, until_renewed


class OwnError(Exception):
    """Raised by the body of a lease."""


def raw(limiter: Any, mode: str, subject: str, lease: str, cost: int = 1) -> list[int]:
    """The script's reply to a call for a lease of this id, which is not renewed."""
    call = limiter._core.plan.of_leases.call(mode, subject, cost, lease=lease)
    reply = limiter._core.transport.run(call)
    found: list[int] = limiter.loop.run(reply) if inspect.iscoroutine(reply) else reply
    return found


def test_all_or_none(make: Make, subject: str) -> None:
    """A small version of twenty in flight and a hundred a minute: a denial charges neither."""
    limiter = make([Concurrency(2, lease=60), SlidingLog(3, "minute")])
    with limiter.hold(subject) as first:
        assert (first.decision.granted, first.decision.remaining) == (1, 1)
        with limiter.hold(subject):
            assert lefts(limiter, subject) == [0, 1]
            with pytest.raises(RateLimited) as no_place, limiter.hold(subject):
                raise AssertionError
            assert no_place.value.decision.policy == Concurrency(2, lease=60)
            assert lefts(limiter, subject) == [0, 1]
        assert lefts(limiter, subject) == [1, 1]
        with limiter.hold(subject):
            assert lefts(limiter, subject) == [0, 0]
        with pytest.raises(RateLimited) as no_rate, limiter.hold(subject):
            raise AssertionError
        assert no_rate.value.decision.policy == SlidingLog(3, "minute")
        assert lefts(limiter, subject) == [1, 0]
    assert lefts(limiter, subject) == [2, 0]


def test_every_algorithm_beside_leases(make: Make, subject: str) -> None:
    """Each call is charged once to the rates, and not refunded with the lease."""
    limiter = make([PLACES, *RATES])
    with limiter.hold(subject, 2) as lease:
        assert lease.decision.granted == 2
        assert [one.granted for one in lease.decision.each] == [2] * 7
        assert lefts(limiter, subject) == [0] + [8] * 6
    assert lefts(limiter, subject) == [2] + [8] * 6


def test_one_script_call_each(make_on: Make, own: Server, subject: str) -> None:
    """One round trip to take and one to release, with rates and without; a second release makes none."""
    for limits in (PLACES, [PLACES, SlidingLog(100, "minute")], [*RATES[:5], PLACES]):
        limiter = make_on(own.url, limits)
        with limiter.hold(subject):
            pass  # the server knows the scripts now
        lease, ran = limiter.hold(subject), []
        with own.client() as client:
            leave = partial(lease.__exit__, None, None, None)
            for call in (lease.__enter__, lease.release, lease.release, leave):
                before = scripts_run(client)
                call()
                ran.append(scripts_run(client) - before)
        assert ran == [1, 1, 0, 0]


def test_released(make: Make, subject: str) -> None:
    """At the end of the body, after an exception, and before the end; a second release does nothing."""
    limiter = make(PLACES)
    with limiter.hold(subject):
        assert limiter.peek(subject).remaining == 1
    assert limiter.peek(subject).remaining == 2
    with pytest.raises(OwnError), limiter.hold(subject):
        raise OwnError
    assert limiter.peek(subject).remaining == 2
    with limiter.hold(subject) as early, limiter.hold(subject):
        early.release()
        assert early.released
        assert limiter.peek(subject).remaining == 1
        early.release()
        assert limiter.peek(subject).remaining == 1
    assert limiter.peek(subject).remaining == 2
    assert limiter.unsettled == 0


def test_a_lease_entered_again_is_another(make: Make, subject: str) -> None:
    """One after the other; each is released."""
    limiter = make([PLACES, SlidingLog(3, "day")])
    lease = limiter.hold(subject)
    for left in (2, 1, 0):
        with lease:
            assert lefts(limiter, subject) == [1, left]
            assert not lease.lost
        assert lefts(limiter, subject) == [2, left]
    with pytest.raises(RateLimited):
        lease.__enter__()


def test_calls_that_make_no_lease(make: Make, subject: str) -> None:
    """The call raises, and nothing is taken."""
    limiter = make(PLACES)
    for timeout in (-1, True, "1", float("nan")):
        with pytest.raises(InvalidSetting, match="timeout is"):
            limiter.hold(subject, timeout=timeout)

    async def coroutine() -> None:
        raise AssertionError("another try would only wait")

    for on_lost in ("call me", coroutine):
        with pytest.raises(InvalidSetting, match="on_lost is"):
            limiter.hold(subject, on_lost=on_lost)
    assert limiter.peek(subject).remaining == 2


@pytest.mark.parametrize("call", ["hold", "reserve"])
def test_a_forgotten_with_is_no_permission(make: Make, way: str, subject: str, call: str) -> None:
    """By default an object is true: ``if limiter.hold(key):`` would admit every caller without a call."""
    limiter = make(PLACES if call == "hold" else PLENTY)
    asked = getattr(limiter, call)(subject, 1)
    asked = asked if way == "sync" else asked.inner
    with_ = "with" if way == "sync" else "async with"
    with pytest.raises(TypeError, match=f"write `{with_} limiter.{call}"):
        assert asked


@pytest.mark.parametrize("call", ["hold", "reserve"])
def test_an_entered_lease_is_true(subject: str, call: str) -> None:
    """Clean-up code may test whether the body was entered."""
    limiter = Limiter(PLACES if call == "hold" else PLENTY, store="memory://")
    asked = getattr(limiter, call)(subject, 1)
    with asked:
        assert asked
    assert asked


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standalone", "memory"])
def test_renewed_beyond_its_length(make: Make, subject: str) -> None:
    """It is renewed at a third of its length: no other holder gets its place, and it is not lost."""
    limiter = make([Concurrency(1, lease=3), SlidingLog(9, "day")])
    with limiter.hold(subject) as lease:
        until_renewed(limiter, subject)
        with pytest.raises(RateLimited), limiter.hold(subject):
            raise AssertionError
        assert not lease.lost
        assert lefts(limiter, subject) == [0, 8]  # renewals charge no rate
    assert lefts(limiter, subject) == [1, 8]


@pytest.mark.parametrize("kind", ["standalone", "memory"])
def test_held_no_longer_than_the_policy_allows(
    make: Make, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow holder learns of it, and its place is free at once, not only when the lease expires."""
    limiter = make([Concurrency(2, lease=2, max_hold=2), SlidingLog(9, "day")])
    calls: list[float] = []
    lost_at_release: list[bool] = []

    def watch(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "release":
            lost_at_release.append(lease.lost)
        return ahead()

    intercept(getattr(limiter, "inner", limiter), watch)
    began = time.monotonic()
    with (
        caplog.at_level(logging.WARNING, "limiter"),
        limiter.hold(subject, 2, on_lost=lambda: calls.append(time.monotonic() - began)) as lease,
    ):
        assert not limiter.peek(subject).allowed
        until(lambda: limiter.peek(subject).remaining == 2)
        until(lambda: lost_at_release == [True])  # else another client might have it before
        with limiter.hold(subject, 2, timeout=0) as other:
            assert not other.lost
    until(lambda: calls)
    (told,) = calls
    assert told >= 2  # a busy machine may be late, never early
    assert caplog.text.count("a lease was lost: it was held for 2 s, the longest") == 1
    assert lefts(limiter, subject) == [2, 5]


@pytest.mark.parametrize("kind", ["memory"])
def test_a_longest_hold_of_the_call_s_own(make: Make, subject: str) -> None:
    """It is no part of the state: limiters with another length, or none, share the places."""
    limiter = make(Concurrency(1, lease=30))
    with limiter.hold(subject, limits=Concurrency(1, lease=0.2, max_hold=0.2)) as lease:
        until(lambda: lease.lost)
        until(lambda: limiter.peek(subject).remaining == 1)
    with limiter.hold(subject) as lease:
        assert not lease.lost


def test_lost(make: Make, subject: str, caplog: pytest.LogCaptureFixture) -> None:
    """A renewal finds no lease: ``on_lost`` is called once, in another thread; the body goes on."""
    limiter = make([Concurrency(5, lease=3), SlidingLog(9, "day")])
    calls: list[threading.Thread] = []
    with (
        caplog.at_level(logging.WARNING, "limiter"),
        limiter.hold(subject, 3, on_lost=lambda: calls.append(threading.current_thread())) as lease,
    ):
        limiter.reset(subject)
        until(lambda: calls)
        assert lease.lost
        time.sleep(0.3)  # another renewal would have come by now
    assert len(calls) == 1
    assert calls[0] != threading.current_thread()
    assert "a lease was lost: it had expired" in caplog.text
    assert "on_lost failed" not in caplog.text
    assert lefts(limiter, subject) == [5, 9]
    assert limiter.unsettled == 0


def test_a_part_of_it_is_not_it(make: Make, subject: str) -> None:
    """A lease of three units of which another client released one is lost, not renewed in part."""
    limiter = make(Concurrency(5, lease=3))
    lost = threading.Event()
    with limiter.hold(subject, 3, on_lost=lost.set) as lease:
        assert raw(limiter, "release", subject, lease._lease, 1)[0] == 1
        assert lost.wait(PATIENCE)
    assert limiter.peek(subject).remaining == 5


def test_lost_while_the_store_is_away(make_on: Make, proxy: Proxy, subject: str) -> None:
    """Renewals are tried until the lease has expired; then it is lost."""
    limiter = make_on(proxy.url, Concurrency(1, lease=0.6), timeout=0.5)
    lost = threading.Event()
    began = time.monotonic()
    with limiter.hold(subject, on_lost=lost.set):
        proxy.requests = cut
        proxy.cut_all()
        assert lost.wait(PATIENCE)
        assert time.monotonic() - began > 0.59
    assert limiter.unsettled == 1


def test_lost_in_time_whatever_a_call_may_take(make_on: Make, proxy: Proxy, subject: str) -> None:
    """If the store is silent and the timeout long, the holder learns of the loss before another has it."""
    limiter = make_on(proxy.url, Concurrency(1, lease=0.9), timeout=5.0)
    lost = threading.Event()
    began = time.monotonic()
    with limiter.hold(subject, on_lost=lost.set):
        proxy.requests = swallow
        assert lost.wait(4.5)  # less than the timeout
        assert time.monotonic() - began > 0.89
        proxy.mend()


def test_lost_by_a_refusal(make_on: Make, own: Server, subject: str) -> None:
    """The store refuses to renew: the lease is lost, and the body goes on."""
    limiter, client = make_on(own.url, Concurrency(1, lease=3)), own.client()
    with limiter.hold(subject) as lease:
        (key,) = client.keys()
        client.set(key, "something else")
        until(lambda: lease.lost)
    assert limiter.unsettled == 1
    client.close()


@pytest.mark.slow
def test_a_store_that_is_away_for_a_moment(
    make_on: Make, proxy: Proxy, store: str, subject: str
) -> None:
    """A renewal that failed is tried again before the lease ends."""
    policy, failed = Concurrency(1, lease=3), threading.Event()

    def fail(data: bytes) -> bytes:
        failed.set()
        return cut(data)

    limiter = make_on(proxy.url, policy, timeout=0.5)
    with limiter.hold(subject) as lease:
        proxy.requests = fail
        assert failed.wait(PATIENCE)
        proxy.mend()
        until_renewed(make_on(store, policy), subject)
        assert not lease.lost
    assert limiter.unsettled == 0


def test_waits_for_a_lease(make: Make, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until a release, long before the lease would expire, and tries at least every second."""
    assert lines._ASK_EVERY == 1.0
    monkeypatch.setattr(lines, "_ASK_EVERY", 0.15)
    limiter = make([Concurrency(1, lease=60), SlidingLog(9, "day")])
    first = limiter.hold(subject)
    first.__enter__()
    began = time.monotonic()
    threading.Timer(0.1, first.release).start()
    with limiter.hold(subject, timeout=30) as lease:
        assert 0.1 < time.monotonic() - began < 20
        assert lease.decision.granted == 1
        assert lefts(limiter, subject) == [0, 7]


def test_released_while_it_is_requested(make: Make, subject: str) -> None:
    """The body is not entered, and nothing of the lease is left."""
    limiter = make(Concurrency(1, lease=60))
    first, second = limiter.hold(subject), limiter.hold(subject, timeout=30)
    first.__enter__()
    asked = threading.Event()

    def watch(call: StoreCall, ahead: Any) -> Any:
        asked.set()
        return ahead()

    def release_both() -> None:
        assert asked.wait(10)
        second.release()
        first.release()

    intercept(getattr(limiter, "inner", limiter), watch)
    threading.Thread(target=release_both).start()
    with pytest.raises(InvalidSetting, match="released while it was requested"):
        second.__enter__()
    until(lambda: lefts(limiter, subject) == [1])
    with second:
        assert lefts(limiter, subject) == [0]
    assert lefts(limiter, subject) == [1]


def test_waits_no_longer_than_it_may(make: Make, subject: str) -> None:
    """For a place until the timeout, since it may be released; for a rate not at all."""
    limiter = make([Concurrency(1, lease=60), SlidingLog(1, "day")])
    began = time.monotonic()
    with limiter.hold(subject):
        with pytest.raises(RateLimited), limiter.hold(subject, timeout=60):
            raise AssertionError
        assert time.monotonic() - began < 5
    limiter.reset(subject)
    places = make(Concurrency(1, lease=60))
    with places.hold(subject):
        began = time.monotonic()
        with pytest.raises(RateLimited) as denied, places.hold(subject, timeout=0.3):
            raise AssertionError
        assert 0.3 <= time.monotonic() - began < 30
        assert denied.value.decision.retry_after > 50


def test_a_dead_holders_place_in_time(make: Make, subject: str) -> None:
    """A caller that waits for a lease that is not renewed gets its place when it expires."""
    limiter, tries = make(Concurrency(1, lease=0.4)), []

    def count(call: StoreCall, ahead: Any) -> Any:
        tries.append(call.mode)
        return ahead()

    began = time.monotonic()
    raw(limiter, "acquire", subject, "of a dead holder")
    intercept(getattr(limiter, "inner", limiter), count)
    with limiter.hold(subject, timeout=PATIENCE):
        assert time.monotonic() - began > 0.39
        assert len(tries) <= 3  # it slept meanwhile
    assert limiter.peek(subject).remaining == 1


def test_the_delay_of_a_queue_beside_it_is_slept(make: Make, subject: str) -> None:
    """The delay is slept while the lease is held."""
    limiter = make([Concurrency(5, lease=60), LeakyBucket(10, 1, burst=5)])
    with limiter.hold(subject):
        began = time.monotonic()
        with limiter.hold(subject) as second:
            assert 0 < second.decision.delay <= 0.1
            assert time.monotonic() - began >= second.decision.delay
            assert lefts(limiter, subject)[0] == 3


def test_other_lengths_of_one_lease(make_on: Make, own: Server, subject: str) -> None:
    """The set expires with its longest lease, whichever lease is taken, renewed or released after it."""
    long, short = Concurrency(9, lease=500), Concurrency(9, lease=3)
    limiter, client = make_on(own.url, long), own.client()

    def lasts() -> bool:
        (key,) = client.keys()
        (_, end_us), *_ = client.zrange(key, 0, 0, desc=True, withscores=True)
        seconds, micros = client.time()
        return client.pttl(key) * 1000 >= end_us - (seconds * 1_000_000 + micros) > 450_000_000

    with limiter.hold(subject):
        assert lasts()
        with limiter.hold(subject, limits=short) as lease:
            assert lasts()
            until_renewed(limiter, subject, 8)  # the short one
            assert lasts()
            assert not lease.lost
        assert lasts()
    assert client.keys() == []
    client.close()


#: The timeout after which a lease whose reply was lost is released: a stall of the machine is shorter.
LATER = 2.0


def test_a_lost_reply_leaves_no_lease(
    make_on: Make, proxy: Proxy, store: str, subject: str
) -> None:
    """The lease was taken, and its reply was lost: the lease is released soon."""
    limiter, sure = make_on(proxy.url, PLACES, timeout=LATER), make_on(store, PLACES)
    limiter.peek(subject)
    proxy.replies = cut
    with pytest.raises(StoreUnavailable), limiter.hold(subject):
        raise AssertionError
    assert sure.peek(subject).remaining == 1
    proxy.mend()
    until(lambda: sure.peek(subject).remaining == 2)
    assert limiter.unsettled == 0


@pytest.mark.parametrize("on_error", ["allow", "deny", "local"])
def test_a_lost_reply_before_a_fallback_leaves_no_lease(
    make_on: Make, proxy: Proxy, store: str, subject: str, on_error: str
) -> None:
    """The lease in the store is released, and the lease of the fallback stays."""
    limiter = make_on(proxy.url, PLACES, timeout=LATER, on_error=on_error)
    sure = make_on(store, PLACES)
    limiter.peek(subject)
    proxy.replies = cut
    lease = limiter.hold(subject)
    if on_error == "deny":
        with pytest.raises(RateLimited):
            lease.__enter__()
    else:
        lease.__enter__()
        assert lease.decision.degraded
    assert sure.peek(subject).remaining == 1
    proxy.mend()
    until(lambda: sure.peek(subject).remaining == 2)
    assert lease.released is lease.lost is False
    lease.release()
    assert (sure.peek(subject).remaining, limiter.unsettled) == (2, 0)


def test_a_lease_after_a_lost_reply_expires(
    make_on: Make, proxy: Proxy, store: str, subject: str
) -> None:
    """If it cannot be released either, that is counted, and the lease expires after its length."""
    policy = Concurrency(1, lease=2.5)
    limiter, sure = make_on(proxy.url, policy, timeout=1.0), make_on(store, policy)
    limiter.peek(subject)
    proxy.replies = cut
    proxied = proxy.requests

    def once(data: bytes) -> bytes:
        proxy.requests = cut
        return proxied(data)

    proxy.requests = once
    with pytest.raises(StoreUnavailable), limiter.hold(subject):
        raise AssertionError
    assert sure.peek(subject).remaining == 0
    until(lambda: limiter.unsettled == 1)
    until(lambda: sure.peek(subject).remaining == 1)


def test_entering_again_after_a_lost_reply(
    make_on: Make, proxy: Proxy, store: str, subject: str
) -> None:
    """The late release of the lost lease does not release the lease taken in its place."""
    limiter, sure = make_on(proxy.url, PLACES, timeout=LATER), make_on(store, PLACES)
    limiter.peek(subject)
    proxy.replies = cut
    lease = limiter.hold(subject)
    with pytest.raises(StoreUnavailable):
        lease.__enter__()
    proxy.mend()
    with lease:
        assert sure.peek(subject).remaining == 0
        until(lambda: sure.peek(subject).remaining == 1)
        assert lease.released is lease.lost is False
    assert sure.peek(subject).remaining == 2


def test_one_id_is_one_lease(proxy: Proxy, store: str, subject: str) -> None:
    """A lease taken again by its id after a lost reply is one lease, alone and in a joint call."""
    for policies, charged in (([PLACES], []), ([PLACES, SlidingLog(9, 60)], [8])):
        name = f"{subject}-{len(policies)}"
        with (
            Limiter(policies, store=proxy.url, timeout=5.0) as limiter,
            Limiter(policies, store=store, timeout=5.0) as sure,
        ):
            call = limiter._core.plan.call("acquire", name, 1, lease="drawn-by-the-client")

            def cut_once(data: bytes) -> bytes:
                proxy.replies = forward
                return cut(data)

            proxy.replies = cut_once
            with pytest.raises(StoreUnavailable):
                limiter._core.transport.run(call)
            for _ in range(3):
                granted, left, retry_us, *_ = limiter._core.transport.run(call)
                assert (granted, left, retry_us) == (1, 1, 0)
            assert [one.remaining for one in sure.peek(name).each] == [1, *charged]


def test_an_outage_leaves_few_leases_to_release(make_on: Make, own: Server, subject: str) -> None:
    """A client that asks for leases while no server answers keeps no list of all of them."""
    limiter = make_on(own.url, PLACES, timeout=0.02, on_error="allow")
    limiter.peek(subject)
    own.kill()
    for _ in range(60):
        with limiter.hold(subject):
            assert limiter._core.forgetting <= 16
    until(lambda: limiter._core.forgetting == 0, 10)
    assert limiter.unsettled == 60


@pytest.mark.slow
def test_many_leases_have_two_threads(store: str, new_subject: Callable[[], str]) -> None:
    """One thread renews all of them, the other helps; both end with the last lease."""

    def renewal_threads() -> set[threading.Thread]:
        return {one for one in threading.enumerate() if "_keep" in one.name}

    before = renewal_threads()
    renewed: set[bytes] = set()

    def watch(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "renew":
            renewed.add(call.keys[0])
        return ahead()

    with Limiter(Concurrency(1, lease=3), store=store, timeout=10.0) as limiter:
        intercept(limiter, watch)
        leases = [limiter.hold(new_subject()) for _ in range(100)]
        for lease in leases:
            lease.__enter__()
        assert len(renewal_threads() - before) <= 2
        until(lambda: len(renewed) == 100)
        assert len(renewal_threads() - before) <= 2
        assert not any(lease.lost for lease in leases)
        assert not any(limiter.peek(lease._key).allowed for lease in leases)
        for lease in leases:
            lease.release()
        until(lambda: renewal_threads() <= before)


@pytest.mark.slow
def test_a_node_that_hangs_takes_no_other_lease_along(
    store: str, new_subject: Callable[[], str]
) -> None:
    """Forty renewals wait for their deadline again and again: the other leases are renewed in time."""
    with Limiter(Concurrency(1, lease=4), store=store, timeout=0.1) as limiter:

        def hangs(call: StoreCall, ahead: Any) -> Any:
            if b"away-" in call.keys[0]:
                time.sleep(0.1)  # as long as the deadline
                raise StoreUnavailable("no answer")
            return ahead()

        away = [limiter.hold(f"away-{new_subject()}").__enter__() for _ in range(40)]
        near = [limiter.hold(new_subject()).__enter__() for _ in range(10)]
        intercept(limiter, hangs)
        until(lambda: all(lease.lost for lease in away))
        intercept(limiter, None)
        assert not any(lease.lost or limiter.peek(lease._key) for lease in near)
        for lease in near + away:
            lease.release()


@pytest.mark.slow
@pytest.mark.parametrize("silent", [1, 3])
def test_a_store_that_is_silent_about_one_lease(
    store: str, new_subject: Callable[[], str], silent: int
) -> None:
    """A thread that waits for its renewal longer than other leases last does not delay those."""
    with Limiter(Concurrency(1, lease=3), store=store, timeout=10.0) as limiter:
        silence, ends = threading.Semaphore(0), threading.Event()
        renewed: set[bytes] = set()

        def hangs(call: StoreCall, ahead: Any) -> Any:
            if call.mode == "renew":
                if b"away-" in call.keys[0]:
                    silence.release()
                    ends.wait(PATIENCE)
                else:
                    renewed.add(call.keys[0])
            return ahead()

        intercept(limiter, hangs)
        away = [limiter.hold(f"away-{new_subject()}").__enter__() for _ in range(silent)]
        near = [limiter.hold(new_subject()).__enter__() for _ in range(3)]
        for _ in away:
            assert silence.acquire(timeout=PATIENCE)
        late = limiter.hold(new_subject()).__enter__()
        until(lambda: len(renewed) == 4)
        assert not any(lease.lost or limiter.peek(lease._key) for lease in [*near, late])
        ends.set()
        for lease in [*near, *away, late]:
            lease.release()


@pytest.mark.slow
def test_a_lease_used_again_is_not_the_one_before(store: str, subject: str) -> None:
    """A late reply to the first lease's renewal neither ends the second lease nor reports it as lost."""
    with Limiter(Concurrency(2, lease=3), store=store, timeout=10.0) as limiter:
        begun, again = threading.Event(), threading.Event()

        def slowly(call: StoreCall, ahead: Any) -> Any:
            if call.mode == "renew" and not begun.is_set():
                begun.set()
                again.wait(5)
            return ahead()

        intercept(limiter, slowly)
        lease = limiter.hold(subject)
        with lease:
            assert begun.wait(5)
        with lease:
            again.set()
            until_renewed(limiter, subject, 2)
            assert not lease.lost
            assert limiter.peek(subject).remaining == 1
        assert limiter.peek(subject).remaining == 2


def test_a_lease_used_again_at_once(make: Make, subject: str) -> None:
    """Ending the renewal of the earlier lease does not report this one as lost."""
    limiter = make(PLACES)
    lease = limiter.hold(subject)

    async def again_and_again() -> None:
        for _ in range(5):
            async with lease.inner:
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not lease.lost

    if hasattr(limiter, "inner"):
        limiter.loop.run(again_and_again())
    else:
        for _ in range(5):
            with lease:
                assert not lease.lost


def test_released_leases_leave_no_renewal(make: Make, subject: str) -> None:
    """Long leases that were held for a moment leave no entry that waits for their renewal."""
    limiter = make(Concurrency(1, lease="day"))
    for _ in range(200):
        with limiter.hold(subject):
            pass
    if hasattr(limiter, "inner"):
        until(lambda: not limiter._core.tasks)
    else:
        assert len(limiter._core.renewal_threads._due) <= 128
        assert limiter._core.renewal_threads._flows == set()


class Interrupt(BaseException):
    """Raised as by a signal handler in the middle of a sleep."""


def test_interrupted_in_its_delay(
    store: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease was taken, but its body is never entered: it is released."""

    def interrupt(seconds: float) -> None:
        raise Interrupt

    limits = [Concurrency(5, lease=60), LeakyBucket(10, 60, burst=5)]
    with Limiter(limits, store=store, timeout=10.0) as limiter:
        with limiter.hold(subject):
            monkeypatch.setattr(thread_core, "sleep", interrupt)
            with pytest.raises(Interrupt), limiter.hold(subject):
                raise AssertionError
        assert lefts(limiter, subject)[0] == 5
        assert limiter._core.renewal_threads._flows == set()


def test_a_limiter_that_goes_away_with_its_leases(store: str, subject: str) -> None:
    """The limiter is closed and then dropped: a lease that is held is still renewed."""
    policy = Concurrency(1, lease=3)
    limiter = Limiter(policy, store=store, timeout=10.0)
    lease = limiter.hold(subject).__enter__()
    limiter.close()
    del limiter
    gc.collect()
    with Limiter(policy, store=store, timeout=10.0) as other:
        until_renewed(other, subject)
        assert not lease.lost
        lease.release()
        assert other.peek(subject).allowed
    lease._core.transport.close()

"""A decision, or its fallback, within the deadline, whatever the store does."""

from __future__ import annotations

import struct
import threading
import time

import pytest

from limiter import Decision, StoreUnavailable
from limiter.transport.wire import bulk
from service.demo.servers import HOST, Cluster, Server, free_port
from tests.proxy import Proxy, delay, swallow
from tests.transport.conftest import MakeLimiter, Maker
from tests.transport.support import PATIENCE, dripping, outcome, timed, until, within_deadline

TIMEOUT = 0.1


def test_refused(make_any: Maker) -> None:
    """No server listens there."""
    port = free_port()
    for store in (f"redis://{HOST}:{port}", f"redis+cluster://{HOST}:{port}"):
        limiter = make_any(store, timeout=TIMEOUT)
        within_deadline(lambda: limiter.hit("u"), TIMEOUT)  # noqa: B023


def test_not_accepted(make_any: Maker, deaf: str) -> None:
    """The connection is neither made nor refused."""
    for store in (deaf, deaf.replace("redis:", "redis+cluster:")):
        limiter = make_any(store, timeout=TIMEOUT, connect_timeout=0.5)
        within_deadline(lambda: limiter.hit("u"), TIMEOUT)  # noqa: B023


@pytest.mark.parametrize("kind", ["redis", "redis+cluster"])
def test_accepted_and_never_answered(make_any: Maker, proxy: Proxy, kind: str) -> None:
    """The handshake gets no answer."""
    proxy.requests = swallow
    store = proxy.url.replace("redis:", f"{kind}:")
    limiter = make_any(store, timeout=TIMEOUT, connect_timeout=0.5)
    within_deadline(lambda: limiter.hit("u"), TIMEOUT)


def test_a_ready_connection_gets_no_answer(make_any: Maker, proxy: Proxy, subject: str) -> None:
    """The call is sent, and silence follows."""
    limiter = make_any(proxy.url, timeout=TIMEOUT).open()
    proxy.replies = swallow
    within_deadline(lambda: limiter.hit(subject), TIMEOUT)


def test_a_stopped_server(make_any: Maker, own: Server) -> None:
    """SIGSTOP: the kernel takes the connection and the data, and the server does not answer."""
    limiter = make_any(own.url, timeout=TIMEOUT).open()
    fresh = make_any(own.url, timeout=TIMEOUT, connect_timeout=0.5)
    own.pause()
    try:
        within_deadline(lambda: limiter.hit("u"), TIMEOUT)
        within_deadline(lambda: fresh.hit("u"), TIMEOUT)
    finally:
        own.resume()


def test_a_server_gone_in_mid_call(make_any: Maker, own: Server) -> None:
    """It is stopped, gets the call, and is killed before it answers."""
    limiter = make_any(own.url, timeout=40.0).open()
    own.pause()
    killer = threading.Timer(0.1, own.kill)  # the call is under way by then
    killer.start()

    def fails() -> None:
        with pytest.raises(StoreUnavailable):
            limiter.hit("u")

    assert timed(fails) < 20.0  # the end of the connection is noticed, not waited out
    killer.join()


@pytest.mark.slow
def test_a_slow_answer_byte_by_byte(make_limiter: MakeLimiter) -> None:
    """Each byte comes in time, the reply does not: the deadline is for all of it."""
    with dripping(0.02) as server:
        limiter = make_limiter(server.url, timeout=TIMEOUT)
        within_deadline(lambda: limiter.hit("u"), TIMEOUT)
    with dripping(0.001, bulk(struct.pack("<6d", 1, 9, 0, 0, 0, 1.79e15))) as server:
        limiter = make_limiter(server.url)
        assert [limiter.hit("u").remaining for _ in range(3)] == [9] * 3
        assert server.connections == 1


def test_a_slow_answer_in_time(make_any: Maker, proxy: Proxy, subject: str) -> None:
    """A reply that is slower than usual is no failure."""
    limiter = make_any(proxy.url, timeout=10.0).open()
    proxy.replies = delay(0.05)
    assert not limiter.hit(subject).degraded


def test_a_slow_answer_too_late(make_any: Maker, proxy: Proxy, subject: str) -> None:
    """A reply after the deadline does not count, and reaches no other call."""
    limiter = make_any(proxy.url, timeout=TIMEOUT).open()
    sure = make_any(proxy.url)
    sure.hit(subject, cost=7)
    proxy.replies = delay(0.3)
    within_deadline(lambda: limiter.hit(subject, cost=5), TIMEOUT)
    proxy.mend()
    left = sure.peek(subject).remaining
    assert limiter.policies[0].limit - left in (12, 17, 22, 27, 32)  # each try was sent once
    assert sure.hit(subject, cost=3).remaining == left - 3


def test_a_slow_connection_serves_the_next_caller(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str
) -> None:
    """Connecting may take longer than a call can wait; the next call uses the connection."""
    limiter = make_limiter(proxy.url, timeout=TIMEOUT)
    proxy.replies = delay(0.15)  # for each answer of the handshake
    with pytest.raises(StoreUnavailable, match="no connection within the deadline"):
        limiter.hit(subject)
    proxy.mend()
    made = proxy.connections
    until(lambda: limiter._core.transport._node._idle)  # type: ignore[attr-defined]
    call = limiter._core.plan.call("hit", subject, 1)
    assert limiter._core.transport.run(call, time.monotonic() + PATIENCE)
    assert proxy.connections == made


@pytest.mark.parametrize("on_error", ["allow", "deny"])
def test_the_fallback_is_in_time_too(make_any: Maker, own: Server, on_error: str) -> None:
    """A fallback's decision comes no later than a store's."""
    limiter = make_any(own.url, timeout=TIMEOUT, on_error=on_error).open()
    decisions: list[Decision] = []
    own.pause()
    try:
        within_deadline(lambda: decisions.append(limiter.hit("u")), TIMEOUT)
    finally:
        own.resume()
    assert {(decision.degraded, decision.allowed) for decision in decisions} == {
        (True, on_error == "allow")
    }


@pytest.mark.slow
def test_a_stopped_primary_stops_its_own_subjects_only(make_any: Maker, fragile: Cluster) -> None:
    """Subjects of other shards go on, in time; those of the stopped one come back."""
    limiter = make_any(fragile.url, timeout=TIMEOUT).open()
    keys = [f"stopped-{number}" for number in range(30)]
    stopped = fragile.primary_of(keys[0])
    stopped.pause()
    try:
        mine = [key for key in keys if fragile.primary_of(key) is stopped]
        others = [key for key in keys if fragile.primary_of(key) is not stopped]
        within_deadline(lambda: limiter.hit(mine[0]), TIMEOUT)
        for key in others:
            until(lambda: outcome(lambda: limiter.hit(key)) == "allow")  # noqa: B023
    finally:
        stopped.resume()
        fragile.wait()

"""No call is charged twice, and no reply reaches another call."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from limiter import StoreRefused, StoreUnavailable
from limiter.policies import Policy
from service.demo.servers import Server
from tests.proxy import Cut, Hook, Proxy, cut, cut_after, delay, replace, swallow
from tests.transport.conftest import MakeLimiter, Maker
from tests.transport.support import LOG, ONE_OF_EACH, PLENTY, outcome, scripts_run, until, used
from tests.waiting import STALL

TIMEOUT = 0.1


@pytest.mark.parametrize("policy", ONE_OF_EACH, ids=lambda policy: policy.algorithm)
def test_a_lost_reply(
    make_any: Maker, proxy: Proxy, store: str, subject: str, policy: Policy
) -> None:
    """The call ran, and its reply was lost with the connection: charged once, and reported."""
    limiter = make_any(proxy.url, policy).open()
    sure = make_any(store, policy)
    proxy.replies = cut
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject)
    proxy.mend()
    assert used(sure, subject) == 1
    assert limiter.hit(subject).granted == 1
    assert used(sure, subject) == 2


def test_a_lost_request(make_any: Maker, proxy: Proxy, store: str, subject: str) -> None:
    """A lost request looks like a lost reply, so it is not sent again either."""
    limiter = make_any(proxy.url).open()
    proxy.requests = cut
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject)
    proxy.mend()
    assert used(make_any(store), subject) == 0


def test_a_reply_too_many(make_limiter: MakeLimiter, proxy: Proxy, subject: str) -> None:
    """Two replies to one call, in one packet: the next call does not get the second one."""
    limiter = make_limiter(proxy.url).open()
    proxy.replies = lambda data: data * 2
    assert limiter.hit(subject).remaining == PLENTY.limit - 1
    proxy.mend()
    assert limiter.hit(subject, cost=7).remaining == PLENTY.limit - 8
    assert limiter.peek(subject).remaining == PLENTY.limit - 8


def test_a_push_is_no_reply(make_any: Maker, proxy: Proxy, subject: str) -> None:
    """A message that the server sends by itself is not the reply to a call."""
    limiter = make_any(f"{proxy.url}?protocol=3").open()
    proxy.replies = lambda data: b">2\r\n+invalidate\r\n_\r\n" + data
    assert limiter.hit(subject).remaining == PLENTY.limit - 1
    proxy.mend()
    assert limiter.hit(subject).remaining == PLENTY.limit - 2


@pytest.mark.parametrize("count", [1, 4, 20])
def test_half_a_reply(make_any: Maker, proxy: Proxy, store: str, subject: str, count: int) -> None:
    """The connection ends in the middle of the reply."""
    limiter = make_any(proxy.url).open()
    proxy.replies = cut_after(count)
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject)
    proxy.mend()
    assert used(make_any(store), subject) == 1


def test_half_a_request(make_any: Maker, proxy: Proxy, store: str, subject: str) -> None:
    """The server never saw a whole command."""
    limiter = make_any(proxy.url).open()
    proxy.requests = cut_after(30)
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject)
    proxy.mend()
    assert used(make_any(store), subject) == 0


def test_byte_by_byte(make_any: Maker, proxy: Proxy, subject: str) -> None:
    """Replies and requests in pieces of one byte are replies and requests."""
    limiter = make_any(proxy.url).open()
    proxy.piece = 1
    assert [limiter.hit(subject, cost=3).remaining for _ in range(5)] == [
        PLENTY.limit - 3 * calls for calls in range(1, 6)
    ]


@pytest.mark.parametrize("on_error", ["allow", "deny"])
def test_a_fallback_sends_nothing_again(
    make_limiter: MakeLimiter, proxy: Proxy, store: str, subject: str, on_error: str
) -> None:
    """The call that ran is charged, whatever the fallback decides."""
    limiter = make_limiter(proxy.url, on_error=on_error).open()
    proxy.replies = cut
    decision = limiter.hit(subject)
    assert decision.degraded
    assert decision.granted == 0
    proxy.mend()
    assert used(make_limiter(store), subject) == 1


@pytest.mark.slow
def test_a_cluster_sends_once_too(
    make_limiter: MakeLimiter, make_server: Callable[..., Server]
) -> None:
    """A node of the test's own cluster behind the proxy: redis-py's loop of redirects is not used."""
    node = make_server(cluster=True)
    client = node.client()
    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    with Proxy((node.host, node.port)) as proxy:
        client.config_set("cluster-announce-port", proxy.port)
        # The node announces the proxy's port, so every call goes through it.
        limiter = make_limiter(proxy.url.replace("redis:", "redis+cluster:")).open()
        limiter.hit("u")
        before = scripts_run(client)
        proxy.replies = cut
        with pytest.raises(StoreUnavailable):
            limiter.hit("u")
        assert scripts_run(client) == before + 1
    client.close()


@pytest.mark.slow
def test_pauses_around_the_deadline(
    make_limiter: MakeLimiter, proxy: Proxy, store: str, subject: str
) -> None:
    """Replies late by half to three times the timeout: the charges are the calls that were made."""
    limiter = make_limiter(proxy.url, timeout=TIMEOUT).open()
    sure = make_limiter(store)
    outcomes = []
    draw = random.Random(1).uniform
    for _ in range(12):
        # A ready connection, so that only the call's own reply is late.
        until(lambda: outcome(lambda: limiter.hit(f"{subject}-other")) == "allow")
        proxy.replies = delay(TIMEOUT * draw(0.5, 3.0))
        outcomes.append(outcome(lambda: limiter.hit(subject)))
        proxy.mend()
    assert {"allow", "StoreUnavailable"} == set(outcomes)
    assert used(sure, subject) == 12


class Interrupt(BaseException):
    """Raised by a signal handler in the middle of a call; not even an Exception."""


class TimeIsUp(Exception):
    """Raised by a signal handler, too: Celery's SoftTimeLimitExceeded is an Exception."""


@contextmanager
def signals_raise(error: type[BaseException]) -> Iterator[Callable[[], None]]:
    """Make a function that raises the error in the main thread, by a signal."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise error

    before = signal.signal(signal.SIGUSR1, raise_it)
    try:
        yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("error", [Interrupt, TimeIsUp])
@pytest.mark.parametrize("policies", [PLENTY, [PLENTY, LOG]], ids=["one", "several"])
def test_an_interrupted_calls_reply_reaches_no_other(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str, policies: Any, error: type[BaseException]
) -> None:
    """The exception is raised unchanged for every fallback, and the connection is closed."""
    limiter = make_limiter(proxy.url, policies, on_error="allow", timeout=10.0).open()
    limiter.hit("other", cost=400)
    raised = threading.Event()
    with signals_raise(error) as interrupt:

        def hold_back(data: bytes) -> bytes:
            interrupt()
            raised.wait(10)
            return data

        proxy.replies = hold_back
        with pytest.raises(error):
            limiter.hit("other", cost=100)
    proxy.mend()
    raised.set()
    assert not limiter._core.transport._node.has_idle  # type: ignore[attr-defined]
    least = min(policy.capacity for policy in limiter.policies)
    assert limiter.hit(subject, cost=3).remaining == least - 3


@pytest.mark.parametrize("kind", ["redis", "redis+cluster"])
def test_a_call_that_is_interrupted_as_it_connects(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str, kind: str
) -> None:
    """No lock stays taken: the calls of other threads are decided."""
    limiter = make_limiter(proxy.url.replace("redis:", f"{kind}:"), timeout=10.0)
    transport: Any = limiter._core.transport
    with signals_raise(Interrupt) as interrupt:

        def interrupt_and_cut(data: bytes) -> bytes:
            until(lambda: (transport._node or transport)._changed._waiters)
            interrupt()
            raise Cut

        proxy.requests = interrupt_and_cut
        with pytest.raises(Interrupt):
            limiter.hit(subject)
    proxy.mend()
    answers: list[object] = []
    other = threading.Thread(target=lambda: answers.append(outcome(lambda: limiter.hit(subject))))
    other.start()
    other.join(20)
    assert len(answers) == 1


@pytest.mark.parametrize("fault", [cut, swallow], ids=["cut", "silent"])
def test_a_faulty_connection_is_never_used_again(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str, fault: Hook
) -> None:
    """The next call gets another connection."""
    limiter = make_limiter(proxy.url, timeout=STALL).open()
    proxy.replies = fault
    with pytest.raises(StoreUnavailable):
        limiter.hit(subject, cost=9)
    proxy.mend()
    made = proxy.connections
    assert make_limiter(proxy.url).hit(subject).remaining == PLENTY.limit - 10
    assert not limiter.hit(subject).degraded
    assert proxy.connections == made + 2


def test_reset_is_sent_once_too(make_limiter: MakeLimiter, proxy: Proxy, subject: str) -> None:
    """It has no fallback: the caller must not believe that the subject was forgotten."""
    limiter = make_limiter(proxy.url, on_error="allow").open()
    limiter.hit(subject)
    proxy.replies = cut
    with pytest.raises(StoreUnavailable):
        limiter.reset(subject)
    proxy.mend()
    assert used(limiter, subject) == 0  # it ran all the same


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"_\r\n",
        b"*0\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"*6\r\n" + b":1\r\n" * 5 + b"$1\r\n1\r\n",
        b"*6\r\n" + b":1\r\n" * 5 + b"$-1\r\n",
        b"*7\r\n" + b":1\r\n" * 7,
        b"*6\r\n" + b":1\r\n" * 5 + b"#t\r\n",
        b"%3\r\n" + b":1\r\n" * 6,
        b"%1\r\n*0\r\n:1\r\n",  # a list is no key of a dictionary
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b":abc\r\n",
        b"*1\r\n-NOSCRIPT in a list\r\n",
        b"-ASK nonsense\r\n",
        b"-ERR nonsense\r\n",
    ],
    ids=lambda answer: repr(answer[:12]),
)
def test_an_answer_of_another_shape(make_any: Maker, proxy: Proxy, answer: bytes) -> None:
    """It is no decision, and no fallback hides it: an operator must change something."""
    limiter = make_any(proxy.url, on_error="allow").open()
    proxy.replies = replace(answer)
    with pytest.raises(StoreRefused, match=r"answered|refused|node of a cluster"):
        limiter.hit("u")
    proxy.mend()
    assert limiter.hit("v")

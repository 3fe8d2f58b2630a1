"""Whoever begins a lease may be interrupted anywhere, as by a signal's handler; others are renewed."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from limiter import Concurrency, Limiter
from limiter.flows import Flow, Pause
from limiter.renewal_threads import _MOST_THREADS, RenewalThreads
from limiter.testing import StoreCall, intercept


class Interrupt(BaseException):
    """As a signal's handler raises it, in the middle of whatever the main thread does."""


def test_interrupted_while_a_thread_begins(monkeypatch: pytest.MonkeyPatch, subject: str) -> None:
    """The thread that nobody counted takes none of the later ones along."""
    limiter = Limiter(Concurrency(5, lease=0.3), store="memory://")
    start, before = threading.Thread.start, threading.active_count()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise Interrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(Interrupt), limiter.hold(subject):
        raise AssertionError
    monkeypatch.undo()
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.001)  # nothing tells us that it has ended
    with limiter.hold(subject) as lease:
        time.sleep(0.5)  # it has to outlive its length
        assert not lease.lost
        assert limiter.peek(subject).remaining == 4


def test_interrupted_while_a_lease_begins_to_be_renewed(
    monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    """The caller is told, and holds nothing."""
    limiter = Limiter(Concurrency(5, lease=60), store="memory://")
    renewal_threads = limiter._renewal_threads
    advance = renewal_threads._advance

    def interrupted(flow: Flow[None]) -> float:
        advance(flow)
        raise Interrupt

    monkeypatch.setattr(renewal_threads, "_advance", interrupted)
    with pytest.raises(Interrupt), limiter.hold(subject):
        raise AssertionError
    assert limiter.peek(subject).remaining == 5
    assert renewal_threads._flows == set()
    assert renewal_threads._due == []


def test_a_renewal_that_fails_as_nobody_expects(subject: str) -> None:
    """Its holder is told that the lease is lost; others are renewed."""
    limiter = Limiter(Concurrency(5, lease=0.3), store="memory://")
    told = threading.Event()

    def fails_once(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "renew":
            intercept(limiter, None)
            raise Interrupt
        return ahead()

    with limiter.hold(subject, on_lost=told.set) as lost:
        intercept(limiter, fails_once)
        with limiter.hold(subject) as kept:
            assert told.wait(10)
            time.sleep(0.5)  # it has to outlive its length
            assert lost.lost
            assert not kept.lost
            assert limiter.peek(subject).remaining == 4


def test_a_log_that_fails_ends_no_other_renewals(subject: str) -> None:
    """As often as there may be threads, and once more."""

    class Failing(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise Interrupt

    limiter = Limiter(Concurrency(20, lease=0.2), store="memory://")
    log, handler, told = logging.getLogger("limiter"), Failing(), threading.Semaphore(0)
    log.addHandler(handler)
    try:
        for _ in range(_MOST_THREADS + 1):
            lease = limiter.hold(subject, on_lost=told.release)
            with lease:
                limiter.reset(subject)
                assert told.acquire(timeout=10)
                assert lease.lost
    finally:
        log.removeHandler(handler)


def test_interrupted_while_the_lock_is_taken() -> None:
    """What takes it is no code of Python's own, which could be interrupted with the lock in hand."""

    class Entered(threading.Condition):
        def __enter__(self) -> bool:
            super().__enter__()
            raise Interrupt

    def flow() -> Flow[None]:
        while True:
            yield Pause(60)

    def advance(flow: Flow[None]) -> float:
        step = next(flow)
        assert isinstance(step, Pause)
        return step.seconds

    renewal_threads = RenewalThreads(advance)
    renewal_threads._changed = Entered(renewal_threads._lock)
    one = flow()
    renewal_threads.add(one)
    renewal_threads.drop(one)

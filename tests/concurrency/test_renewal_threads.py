"""An interrupted beginning of a lease releases it; a lease that cannot be renewed is lost; others go on."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from limiter import Concurrency, Limiter
from limiter import renewal_threads as renewal_threads_module
from limiter.flows import Flow
from limiter.testing import StoreCall, intercept
from tests.waiting import until, until_renewed


class Interrupt(BaseException):
    """Raised as by a signal handler, in the middle of the main thread's work."""


def test_interrupted_while_a_lease_begins_to_be_renewed(
    monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    """The caller gets the exception, and holds nothing."""
    limiter = Limiter(Concurrency(5, lease=60), store="memory://")
    renewal_threads = limiter._core.renewal_threads
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


def test_a_log_that_fails_ends_no_renewal_thread(
    monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    """Leases that are taken later are renewed, and the holder of the failed one learns of it."""
    limiter = Limiter(Concurrency(50, lease=0.3), store="memory://")
    failing = [0]

    def fails(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "renew" and failing[0]:
            failing[0] -= 1
            raise RuntimeError
        return ahead()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(renewal_threads_module, "log_seldom", broken)
    intercept(limiter, fails)
    for number in range(9):  # more than there may be threads
        failing[0], reported = 1, threading.Event()
        with limiter.hold((subject, number), on_lost=reported.set):
            assert reported.wait(10)
    with limiter.hold(subject, limits=Concurrency(50, lease=3)) as lease:
        until_renewed(limiter, subject, 50)
        assert not lease.lost
        assert limiter.peek(subject).remaining == 49


def test_a_renewal_that_fails_by_a_fault_in_the_code(subject: str) -> None:
    """Its lease is reported as lost; others are renewed."""
    limiter = Limiter(Concurrency(5, lease=3), store="memory://")
    reported = threading.Event()

    def fails_once(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "renew":
            intercept(limiter, None)
            raise RuntimeError
        return ahead()

    with limiter.hold(subject, on_lost=reported.set) as lost:
        intercept(limiter, fails_once)
        with limiter.hold(subject) as kept:
            assert reported.wait(10)
            until_renewed(limiter, subject, 5)
            assert lost.lost
            assert not kept.lost
            until(lambda: limiter.peek(subject).remaining == 4)

"""An interrupted beginning of a lease releases it; a lease that cannot be renewed is lost; others go on."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from limiter import Concurrency, Limiter
from limiter.flows import Flow
from limiter.testing import StoreCall, intercept


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


def test_a_renewal_that_fails_by_a_fault_in_the_code(subject: str) -> None:
    """Its lease is reported as lost; others are renewed."""
    limiter = Limiter(Concurrency(5, lease=0.3), store="memory://")
    told = threading.Event()

    def fails_once(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "renew":
            intercept(limiter, None)
            raise RuntimeError
        return ahead()

    with limiter.hold(subject, on_lost=told.set) as lost:
        intercept(limiter, fails_once)
        with limiter.hold(subject) as kept:
            assert told.wait(10)
            time.sleep(0.5)  # it has to outlive its length
            assert lost.lost
            assert not kept.lost
            assert limiter.peek(subject).remaining == 4

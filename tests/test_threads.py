"""What a signal's handler raises comes out of whatever waited, and is taken for nothing else."""

from __future__ import annotations

import threading

import pytest

from limiter import StoreUnavailable
from limiter.threads import as_raised, start_thread


class Interrupt(BaseException):
    """As a signal's handler raises it, in the middle of whatever the main thread does."""


@pytest.mark.parametrize("said", ["release unlocked lock", "cannot release un-acquired lock"])
def test_what_a_handler_raised_comes_out(said: str) -> None:
    """Also where a lock, which was not held at that moment, had an error of its own to add."""

    @as_raised
    def wait() -> None:
        try:
            raise Interrupt
        finally:
            raise RuntimeError(said)

    with pytest.raises(Interrupt):
        wait()


def test_other_errors_are_their_own() -> None:
    """Whatever is being handled where the call stands."""

    @as_raised
    def fail(said: str) -> None:
        raise RuntimeError(said)

    with pytest.raises(RuntimeError, match="a lock of its own"):
        fail("a lock of its own")
    try:
        raise Interrupt
    except Interrupt:
        with pytest.raises(RuntimeError, match="else"):
            fail("something else")


def test_interrupted_while_a_thread_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a process that gets no more threads is a store that is away, which a fallback hides."""

    def interrupted(_: threading.Thread) -> None:
        try:
            raise Interrupt
        finally:
            raise RuntimeError("release unlocked lock")

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(Interrupt):
        start_thread(lambda: None, "store")
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(StoreUnavailable, match="store: can't start new thread"):
        start_thread(lambda: None, "store")

"""The clock of all stores in this process, which a test may stop and move (``limiter.testing``).

It never steps back. It knows nothing of stores, and decides nothing.
"""

from __future__ import annotations

import time

#: How far this clock is ahead of the system's, in microseconds.
_ahead_us = 0
#: The time at which the clock was stopped, in microseconds; None while it runs.
_stopped_at_us: int | None = None


def now_us() -> int:
    """Microseconds since an arbitrary moment."""
    if _stopped_at_us is not None:
        return _stopped_at_us
    # A test may have replaced the system's clock: hiro's returns a float.
    return int(time.monotonic_ns()) // 1_000 + _ahead_us


def stop() -> bool:
    """Stop the clock; return False if it is stopped already."""
    global _stopped_at_us
    if _stopped_at_us is not None:
        return False
    _stopped_at_us = now_us()
    return True


def advance(by_us: int) -> None:
    """Move the stopped clock forward."""
    global _stopped_at_us
    assert _stopped_at_us is not None  # noqa: S101 (the only caller has stopped it)
    _stopped_at_us += by_us


def resume() -> None:
    """Let the clock run again from its present time, so that state written meanwhile lies in the past."""
    global _ahead_us, _stopped_at_us
    if _stopped_at_us is not None:
        _ahead_us, _stopped_at_us = _stopped_at_us - int(time.monotonic_ns()) // 1_000, None

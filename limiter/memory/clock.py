"""The time of all stores in this process, which a test may stop and move (``limiter.testing``).

It never steps back. It knows nothing of stores, and decides nothing.
"""

from __future__ import annotations

import time

#: How far it is ahead of the system's clock, in microseconds.
_ahead_us = 0
#: Where it stands, in microseconds; None: it goes.
_stands_us: int | None = None


def now_us() -> int:
    """Microseconds since an arbitrary moment."""
    if _stands_us is not None:
        return _stands_us
    # A test may have put another clock in its place, as hiro does, whose is a float.
    return int(time.monotonic_ns()) // 1_000 + _ahead_us


def stop() -> bool:
    """Have it stand where it is; False where it stands already."""
    global _stands_us
    if _stands_us is not None:
        return False
    _stands_us = now_us()
    return True


def advance(by_us: int) -> None:
    """Move it, while it stands."""
    global _stands_us
    assert _stands_us is not None  # noqa: S101 (the only caller has stopped it)
    _stands_us += by_us


def resume() -> None:
    """Have it go again from where it stands: what was counted meanwhile lies in the past."""
    global _ahead_us, _stands_us
    if _stands_us is not None:
        _ahead_us, _stands_us = _stands_us - int(time.monotonic_ns()) // 1_000, None

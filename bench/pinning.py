"""One core for client and server, so that the scheduler does not change the ratios.

Without pinning, the two sometimes run on one core and sometimes on two, where each wake-up costs half as
much as a call. The times then have two modes, and their median means nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned() -> Iterator[int | None]:
    """Keep this thread, and the processes and threads that it starts meanwhile, on one core.

    Yields the core's number, or None if the system cannot pin.
    """
    if sys.platform != "linux":
        yield None
        return
    before = os.sched_getaffinity(0)
    # The first core serves most interrupts.
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)

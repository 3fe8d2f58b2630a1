"""One core for client and server, so that the scheduler has no say in the ratios.

Unpinned, it puts the two now on one core and now on two, where each wake-up costs as much as half a
call: the times have two modes, and no median means anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned() -> Iterator[int | None]:
    """Keep this thread, and every process and thread that it starts meanwhile, on one core.

    Yields the core's number; None where the system cannot pin.
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

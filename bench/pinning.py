"""Fixed cores for client and server, so that the scheduler does not change the ratios.

Without pinning, the two sometimes run on one core and sometimes on two, where each wake-up costs half as
much as a call. The times then have two modes, and their median means nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager


@contextmanager
def pinned() -> Iterator[int | None]:
    """Keep this thread, and the processes and threads that it starts meanwhile, on one core.

    Yields the core's number, or None if the system cannot pin.
    """
    if sys.platform != "linux":
        yield None
        return
    (core,), _ = split()
    with on({core}):
        yield core


@contextmanager
def apart(pids: Collection[int]) -> Iterator[None]:
    """Keep this thread, and the threads that it starts meanwhile, on one core, and servers on the others.

    Then neither side takes the other's time, as on machines of their own. ``pids`` are the servers'
    processes. On a single core both share it.
    """
    with pinned() as core:
        if core is not None:
            for pid in pids:
                os.sched_setaffinity(pid, set(range(os.cpu_count() or 1)) - {core} or {core})
        yield


def split() -> tuple[set[int], set[int]]:
    """Return one core, and the others; a single core is in both."""
    cores = os.sched_getaffinity(0)
    own = {max(cores)}  # the first core serves most interrupts
    return own, cores - own or own


@contextmanager
def on(cores: Collection[int]) -> Iterator[None]:
    """Keep this thread, and the processes and threads that it starts meanwhile, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

"""Serve on for some seconds after SIGTERM, so that load balancers stop sending requests first.

A gunicorn master calls ``install`` in its hook ``when_ready``. After the first SIGTERM ``is_draining`` is
true in all its workers, and they serve on; ``/readyz`` then answers 503. When the seconds are over, or on
a second SIGTERM, gunicorn stops as usual. SIGINT and SIGQUIT stop at once. A worker that gunicorn replaces
does not drain.

This module uses the standard library alone: any application under gunicorn may import it.
"""

from __future__ import annotations

import mmap
import signal
from typing import Any

#: A byte that processes forked after the import share; not 0 while they drain.
_shared = mmap.mmap(-1, 1)


def is_draining() -> bool:
    """Whether the master that forked this process is about to stop."""
    return _shared[0] != 0


def install(arbiter: Any, seconds: float) -> None:
    """Let this gunicorn master drain for ``seconds`` before it stops; 0 seconds change nothing."""
    if not seconds:
        return
    stop = arbiter.handle_term

    def drain() -> None:
        """Handle SIGTERM in the master's loop; the timer sends the second one."""
        if is_draining():
            stop()
        _shared[0] = 1
        arbiter.log.info("draining for %g seconds: /readyz answers 503", seconds)
        signal.signal(signal.SIGALRM, lambda *_: arbiter.signal(signal.SIGTERM, None))
        signal.setitimer(signal.ITIMER_REAL, seconds)

    arbiter.handle_term = drain

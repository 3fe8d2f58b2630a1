"""Errors that somebody must look at, said often enough to be seen and seldom enough to be read."""

from __future__ import annotations

import logging
import threading
import time

#: Seconds between two lines.
PAUSE = 10.0


class Complaints:
    """Log the first error at once, and what follows at most every ``PAUSE`` seconds, counted."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._silent_until = 0.0
        self._withheld = 0

    def add(self, error: Exception) -> None:
        """Log this error, or count it."""
        with self._lock:
            if time.monotonic() < self._silent_until:
                self._withheld += 1
                return
            withheld, self._withheld = self._withheld, 0
            self._silent_until = time.monotonic() + PAUSE
        more = f" (and {withheld} like it)" if withheld else ""
        self._log.error("%s: %s%s", type(error).__name__, error, more)

"""What is said again and again, said often enough to be seen and seldom enough to be read."""

from __future__ import annotations

import logging
import threading
import time

#: Seconds between two lines of one kind.
PAUSE = 10.0

#: So many kinds are told apart; a kind is a text of ours and a policy, so that there are few.
_MOST_KINDS = 1_000


class Seldom(logging.Filter):
    """Lets the first of a kind pass, and what follows at most every ``PAUSE`` seconds, counted."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._silent_until: dict[object, float] = {}
        self._withheld: dict[object, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is said; it tells how many were not."""
        kind = (record.name, record.msg, getattr(record, "policy", None))
        with self._lock:
            if time.monotonic() < self._silent_until.get(kind, 0.0):
                self._withheld[kind] = self._withheld.get(kind, 0) + 1
                return False
            withheld = self._withheld.pop(kind, 0)
            if len(self._silent_until) >= _MOST_KINDS:
                self._silent_until.clear()
            self._silent_until[kind] = time.monotonic() + PAUSE
        if withheld:
            record.msg = f"{record.getMessage()} (and {withheld} like it)"
            record.args = ()
        return True

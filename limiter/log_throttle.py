"""Log at most one line of a kind every few seconds, with the number of lines left out.

The caller decides what a kind is: a text of this package, perhaps with the name of a policy. It never
contains a subject, or anything else that a client chooses, so that there are few kinds.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

#: Seconds between two lines of one kind.
PAUSE = 10.0

#: Kinds that are kept; when there are more, all are dropped.
_MOST_KINDS = 1_000


class LogThrottle:
    """Passes the first line of a kind, and after it at most one every ``PAUSE`` seconds.

    Threads may share it. It has no lock: a fork could copy a held lock, and the child would log nothing.
    """

    def __init__(self) -> None:
        #: By kind: the time until which lines are left out, and how many were.
        self._silent: dict[object, list[float]] = {}

    def passes(self, kind: object) -> int | None:
        """Return how many lines of this kind were left out before this one; None: leave it out too."""
        now = monotonic()
        last = self._silent.get(kind)
        if last is not None:
            if now < last[0] or self._silent.pop(kind, None) is not last:
                last[1] += 1
                return None
        elif len(self._silent) >= _MOST_KINDS:
            self._silent.clear()
        new = [now + PAUSE, 0]
        if self._silent.setdefault(kind, new) is not new:  # another thread was faster
            return None
        return 0 if last is None else int(last[1])

    def leaves_out(self, kind: object) -> bool:
        """Whether a line of this kind would be left out now; if so, count it.

        It is for callers whose lines cost much to make: ``passes`` need not be called then.
        """
        last = self._silent.get(kind)
        if last is None or monotonic() >= last[0]:
            return False
        last[1] += 1
        return True

    def forget(self) -> None:
        """Drop all kinds: the next line of each is logged."""
        self._silent.clear()


#: For the lines that the library logs about a request, a lease or a call.
_library = LogThrottle()
forget = _library.forget


def log_seldom(
    logger: logging.Logger, level: int, text: str, *args: object, kind: object = None, **rest: Any
) -> None:
    """Log a line, unless one with the same text and ``kind`` was logged in the last ``PAUSE`` seconds."""
    left_out = _library.passes((logger.name, text, kind))
    if left_out is not None:
        note = f" (and {left_out} like it)" if left_out else ""
        logger.log(level, text + note, *args, stacklevel=2, **rest)


class ThrottleFilter(logging.Filter):
    """Throttles a logger's lines."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = LogThrottle()

    def kind(self, record: logging.LogRecord) -> object:
        """A line's kind: its message without its arguments, and its policy."""
        return record.name, record.msg, getattr(record, "policy", None)

    def leaves_out(self, logger: logging.Logger, text: str, policy: str) -> bool:
        """Whether this line of a policy would be left out now; if so, count it, and do not log it."""
        return self._throttle.leaves_out((logger.name, text, policy))

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged; the number of lines left out before it is added to its text."""
        left_out = self._throttle.passes(self.kind(record))
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} like it)"
            record.args = ()
        return left_out is not None

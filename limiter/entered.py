"""What asks the store only when the body of its ``with`` is entered: a lease, or a reservation."""

from __future__ import annotations

import os
from typing import ClassVar

from limiter.decision import Decision


class Entered:
    """Has no truth value before it is entered: nothing has been decided until then.

    Any object is true: ``if jobs.hold("u"):`` would let everybody in. Once it has been entered it is
    true, too.
    """

    written: ClassVar[str] = "with"
    """How it is entered, for a message."""

    decision: Decision

    def __init__(self) -> None:
        self._process = os.getpid()

    def __bool__(self) -> bool:
        if hasattr(self, "decision"):
            return True
        raise TypeError(
            f"a {type(self).__name__} is neither true nor false, nothing is asked until it is entered: "
            f"write `{self.written}:`, which raises RateLimited where it is denied"
        )

    @property
    def is_inherited(self) -> bool:
        """Whether this is a fork's copy: what was taken is the parent's to give back."""
        return self._process != os.getpid()

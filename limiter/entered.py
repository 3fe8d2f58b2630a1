"""The base of a lease and a reservation: it calls the store only when its ``with`` is entered."""

from __future__ import annotations

import os
from typing import ClassVar


class Entered:
    """A value without a truth value until its ``with`` is entered; then it is true.

    By default every object is true in Python: ``if jobs.hold("u"):`` would admit every caller.
    """

    written: ClassVar[str] = "with"
    """The statement that enters it, for a message."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def __bool__(self) -> bool:
        if hasattr(self, "decision"):
            return True
        raise TypeError(
            f"a {type(self).__name__} has no truth value, nothing is requested before it is entered: "
            f"write `{self.written}:`, which raises RateLimited if it is denied"
        )

    @property
    def is_inherited(self) -> bool:
        """Whether this is the copy in a fork's child: only the parent releases or refunds."""
        return self._process != os.getpid()

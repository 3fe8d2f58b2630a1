"""Replace connections and locks in the child of a fork, where no thread would release them."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that holds connections or locks."""

    def after_fork(self) -> None:
        """Replace them; called in the child before anything else runs there."""


_holders: weakref.WeakSet[Forked] = weakref.WeakSet()


def remember(holder: Forked) -> None:
    """Call the holder's ``after_fork`` in every child, for as long as the holder exists."""
    _holders.add(holder)


def _call_holders() -> None:
    for holder in list(_holders):
        holder.after_fork()


os.register_at_fork(after_in_child=_call_holders)

"""Renew connections and locks in the child of a fork: no thread of the child would release them."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that holds connections or locks."""

    def after_fork(self) -> None:
        """In the child, before anything else runs there."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def remember(holder: Forked) -> None:
    """Call the holder's ``after_fork`` in every child, for as long as it lives."""
    _known.add(holder)


def _forget() -> None:
    for holder in list(_known):
        holder.after_fork()


os.register_at_fork(after_in_child=_forget)

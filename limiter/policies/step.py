"""One decision of an algorithm on state in the process: the sections of its Lua fragment in Python."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

#: Lua's numbers are doubles, which cannot hold every integer above this.
EXACT = 2**53

#: A subject's hash: a policy's field, and its numbers as packed doubles.
Hash = dict[str, bytes]

#: The packing of a field's numbers, by the field's length: little-endian, as in the scripts.
Layouts = dict[int, struct.Struct]
DOUBLES: Layouts = {8 * count: struct.Struct(f"<{count}d") for count in (2, 3)}


def numbers(state: Hash | None, field: str, layouts: Layouts = DOUBLES) -> Sequence[int]:
    """Read the whole numbers of a field; an unreadable field has none."""
    raw = state.get(field) if state else None
    if raw is None or len(raw) not in layouts:
        return ()
    values = []
    for number in layouts[len(raw)].unpack(raw):
        # NaN and infinity fail the first comparison.
        if not 0 <= number < EXACT or (value := int(number)) != number:
            return ()
        values.append(value)
    return values


class Step:
    """One policy's state before a call, and the changes that the call makes.

    ``__init__`` reads the state under the policy's key at a time (None: no state). Nothing changes
    before ``write``.

    Attributes:
        room: Whole units that would pass now; negative in debt.
        reset_us: Time until the state counts as unused.
        delay_us: Time in which a bucket regains the units taken before this call.
        needs_repair: The stored state cannot be true; ``write`` repairs it.
        held: Units that the call's own lease still holds.

    """

    __slots__ = ("delay_us", "held", "needs_repair", "reset_us", "room")

    room: int
    reset_us: int
    delay_us: int
    needs_repair: bool
    held: int

    def __init__(self) -> None:
        self.room = self.reset_us = self.delay_us = self.held = 0
        self.needs_repair = False

    def retry_us(self, at_least: int) -> int:
        """Return the time until ``at_least`` units pass: more than the room, at most the capacity."""
        raise NotImplementedError

    def stamp(self, hold_us: int) -> None:
        """Let the units that a charge takes in advance count until they expire, ``hold_us`` from now."""

    def charge(self, units: int) -> None:
        """Charge ``units``, which may be more than there is room for."""
        raise NotImplementedError

    def refund(self, units: int) -> int:
        """Refund up to ``units``; return the number refunded."""
        raise NotImplementedError

    def renew(self, units: int) -> int:
        """Extend the call's lease from now, if it holds all ``units``; return ``units`` or 0."""
        raise NotImplementedError

    def release(self, units: int) -> int:
        """Release the call's lease; return the number of units that it still held."""
        raise NotImplementedError

    def write(self, state: Any) -> None:
        """Write the new state into ``state``: a dict, a list or a ``LeaseSet``, which may be empty."""
        raise NotImplementedError

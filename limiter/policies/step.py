"""What every algorithm does with its state in the process: the sections of its Lua fragment, in Python."""

from __future__ import annotations

import struct
from typing import Any

#: Lua counts in doubles: beyond this, not every integer has one.
EXACT = 2**53

#: What a hash holds: a policy's field, and its numbers as packed doubles.
Hash = dict[str, bytes]

#: How the numbers of a hash's field are packed, by its length: little-endian doubles as in the scripts.
Layouts = dict[int, struct.Struct]
DOUBLES: Layouts = {8 * count: struct.Struct(f"<{count}d") for count in (2, 3)}


def numbers(state: Hash | None, field: str, layouts: Layouts = DOUBLES) -> tuple[int, ...]:
    """The whole numbers that stand in a field; none where they cannot be read."""
    raw = state.get(field) if state else None
    if raw is None or len(raw) not in layouts:
        return ()
    found = layouts[len(raw)].unpack(raw)
    for number in found:
        # A NaN fails the comparison, as does an infinity.
        if not 0 <= number < EXACT or number % 1:
            return ()
    return tuple(map(int, found))


class Step:
    """One policy's state as a call finds it, and what the call makes of it.

    Reading is what ``__init__`` does, of the state under the policy's key (None: there is none) at
    a time. Nothing is changed until ``write``.

    Attributes:
        room: Whole units that would pass now; negative in debt.
        reset_us: Time until all is as if unused.
        delay_us: Time that what was taken before needs to drip away.
        heal: What stood there cannot be; ``write`` mends it.
        held: Units of the call's own lease that live.

    """

    __slots__ = ("delay_us", "heal", "held", "reset_us", "room")

    room: int
    reset_us: int
    delay_us: int
    heal: bool
    held: int

    def __init__(self) -> None:
        self.room = self.reset_us = self.delay_us = self.held = 0
        self.heal = False

    def retry_us(self, at_least: int) -> int:
        """Time until ``at_least`` units pass, where there is less room and they can ever pass."""
        raise NotImplementedError

    def charge(self, units: int) -> None:
        """Take units, also more than there are."""
        raise NotImplementedError

    def refund(self, units: int) -> int:
        """Give back up to so many units; how many were there to give."""
        raise NotImplementedError

    def renew(self, units: int) -> int:
        """Let the call's lease last from now, if it holds all of the units; all or 0."""
        raise NotImplementedError

    def release(self, units: int) -> int:
        """Give the call's lease back; how many of its units lived."""
        raise NotImplementedError

    def write(self, state: Any) -> None:
        """Put what became of it where it stands: a dict, a list, or ``LeaseSet``, perhaps empty."""
        raise NotImplementedError

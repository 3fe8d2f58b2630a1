"""Decide several policies, all or none: the rules of ``several.lua`` and ``reservation.lua``, in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limiter import units
from limiter.call import STRIDE, Block, CallTemplate
from limiter.errors import StoreRefused
from limiter.policies.step import Step


class Outcome(NamedTuple):
    """The reply to a call, and the state that it changes."""

    reply: list[int]
    """Granted, remaining, retry_after_us, reset_after_us and delay_us of each block, in order."""
    writes: list[int]
    """The indexes of the blocks whose state must be written."""


def ask(template: CallTemplate, takes: bool, steps: Sequence[Step]) -> Outcome:
    """Hit, acquire, peek and reset: charge every block if all have room, or report whether they have."""
    at_least, blocks = template.at_least, template.blocks
    waits, fits, take = [], True, None
    leases = holding = 0
    for block, step in zip(blocks, steps, strict=True):
        leases += block.policy.leases
        if step.room >= block.cost and not step.held:  # most calls
            waits.append(0)
            continue
        wanted = at_least if 0 < at_least < block.cost else block.cost
        holding += step.held > 0
        room = max(step.room, 0)
        if room < wanted and not step.held:
            fits = fits and block.shadow
            waits.append(_wait_us(block, step, wanted))
            continue
        waits.append(0)
        if room < block.cost and not block.shadow and not step.held:
            take = room if take is None else min(take, room)
    # A holder that asks for its lease again holds the same lease: it is not charged twice.
    same_lease = takes and holding == leases > 0
    charges = takes and fits
    reply, writes = [], []
    for place, (block, step, wait_us) in enumerate(zip(blocks, steps, waits, strict=True)):
        cost = block.cost
        granted, delay_us = 0, 0 if wait_us else step.delay_us
        if same_lease:
            granted, wait_us, delay_us = step.held or cost, 0, 0
        elif charges and step.held:
            granted = step.held
        elif charges and not wait_us and cost:
            granted = step.room if take is None else min(step.room, take)
            granted = cost if cost <= granted else granted - granted % template.step
            step.charge(granted)
        if takes and cost and (step.needs_repair or (granted and not same_lease and not step.held)):
            writes.append(place)
        room = step.room
        reply += [granted, room if room > 0 else 0, wait_us, step.reset_us, delay_us]
    return Outcome(reply, writes)


def _wait_us(block: Block, step: Step, wanted: int) -> int:
    """The time until ``wanted`` passes, or a second if it never does: a local share may be smaller."""
    return step.retry_us(wanted) if wanted <= block.policy.capacity else units.SECOND_US


def change(mode: str, blocks: Sequence[Block], steps: Sequence[Step]) -> Outcome:
    """Refund, settle, renew and release: change each block by itself, whatever the others have."""
    reply, writes = [], []
    for place, (block, step) in enumerate(zip(blocks, steps, strict=True)):
        capacity, cost, done = block.policy.capacity, block.cost, 0
        if cost and mode == "refund":
            done = step.refund(cost)
        elif cost and mode == "settle":
            done = max(0, min(cost, step.room + capacity))
            if done:
                step.charge(done)
        elif mode == "renew":
            done = step.renew(cost)
        elif mode == "release":
            done = step.release(cost)
        if done or (cost and step.needs_repair):
            writes.append(place)
        reply += [done, max(0, min(step.room, capacity)), 0, step.reset_us, 0]
    return Outcome(reply, writes)


#: The error of ``reservation.lua`` for a record that these policies have not written.
OTHER_POLICIES = "LIMITER reservation v1 has a record of other policies"
#: The record of a reservation that is settled.
SETTLED = "-1"
#: What a record has for a policy in shadow mode that had no room.
_NO_ROOM = "-"
#: The end of a record that a later call to reserve has found: a life of 0 no longer refunds it.
_FOUND = " +"


class RecordedOutcome(NamedTuple):
    """The reply to a call about a reservation, and the changes that it makes."""

    reply: list[int]
    """As that of ``Outcome``; then the state of the reservation."""
    writes: list[int]
    """As those of ``Outcome``."""
    record: str | None = None
    """The new record, empty if it is deleted; None if it stays as it is."""
    keeps_expiry: bool = False
    """Whether the new record expires when the old one would have."""


def reserve(template: CallTemplate, steps: Sequence[Step], record: str | None) -> RecordedOutcome:
    """Charge every block if all have room, and record the granted units; nothing if there is a record."""
    blocks = template.blocks
    if record == SETTLED:
        return RecordedOutcome([*ask(template, False, steps).reply, 3], [])
    if record is not None:
        recorded = _read(record, len(blocks))
        reply = ask(template, False, steps).reply
        for at, granted in zip(range(0, len(reply), STRIDE), recorded, strict=True):
            if granted is not None:
                reply[at], reply[at + 2], reply[at + 4] = granted, 0, 0
        found = None if record.endswith(_FOUND) else record + _FOUND
        return RecordedOutcome([*reply, 2], [], found, keeps_expiry=True)
    reply, writes = ask(template, True, steps)
    waits = reply[2::STRIDE]
    if any(wait and not block.shadow for wait, block in zip(waits, blocks, strict=True)):
        return RecordedOutcome([*reply, 0], writes)
    numbers = zip(reply[::STRIDE], waits, strict=True)
    words = [_NO_ROOM if wait else str(granted) for granted, wait in numbers]
    return RecordedOutcome([*reply, 1], writes, " ".join(words))


def settle(template: CallTemplate, steps: Sequence[Step], record: str | None) -> RecordedOutcome:
    """Refund or charge the difference to the recorded units, and mark the record as settled."""
    blocks = template.blocks
    found = _FOUND if record is not None and record.endswith(_FOUND) else ""
    stays = bool(found) and not template.record_ms
    recorded: list[int | None] = [None] * len(blocks)
    if record is not None and record != SETTLED and not stays:
        recorded = _read(record, len(blocks))
    reply: list[int] = []
    writes: list[int] = []
    words: list[str] = []
    remains = False
    for place, (block, step, granted) in enumerate(zip(blocks, steps, recorded, strict=True)):
        difference = 0 if granted is None else block.cost - granted
        mode = "refund" if difference < 0 else "settle"
        moved = min(abs(difference), block.policy.most_entries)
        each = change(mode, [block._replace(cost=moved)], [step])
        reply += each.reply
        writes += [place for _ in each.writes]
        if granted is None:
            words.append(_NO_ROOM)
        elif moved < abs(difference) and each.reply[0] == moved:
            remains = True
            words.append(str(granted - moved if difference < 0 else granted + moved))
        else:
            words.append(str(block.cost))
    if remains:
        return RecordedOutcome([*reply, 2], writes, " ".join(words) + found, keeps_expiry=True)
    if stays:
        return RecordedOutcome([*reply, 0], writes)
    if record == SETTLED:
        return RecordedOutcome([*reply, 3], writes)
    mark = SETTLED if template.record_ms else ""
    return RecordedOutcome([*reply, 0 if record is None else 1], writes, mark)


def _read(record: str, count: int) -> list[int | None]:
    """The units that were granted to each policy; None for one that had no room."""
    words = record.removesuffix(_FOUND).split(" ")
    if len(words) != count or not all(word == _NO_ROOM or word.isdecimal() for word in words):
        raise StoreRefused(OTHER_POLICIES)
    return [None if word == _NO_ROOM else int(word) for word in words]

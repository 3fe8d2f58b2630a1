"""Decide several policies, all or none: the rules of ``lua/v1/several.lua``, in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limiter import units
from limiter.call import Block, CallTemplate
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
        wanted = at_least if 0 < at_least < block.cost else block.cost
        leases += block.policy.leases
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
    reply, writes = [], []
    for place, (block, step, wait_us) in enumerate(zip(blocks, steps, waits, strict=True)):
        granted, delay_us = 0, 0 if wait_us else step.delay_us
        if same_lease:
            granted, wait_us, delay_us = step.held or block.cost, 0, 0
        elif takes and fits and step.held:
            granted = step.held
        elif takes and fits and not wait_us and block.cost:
            granted = step.room if take is None else min(step.room, take)
            granted = block.cost if block.cost <= granted else granted - granted % template.step
            step.charge(granted)
        if (
            takes
            and block.cost
            and (step.needs_repair or (granted and not same_lease and not step.held))
        ):
            writes.append(place)
        reply += [granted, max(step.room, 0), wait_us, step.reset_us, delay_us]
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

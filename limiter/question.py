"""What a call asks of a store in the process: the arguments of a script, as values."""

from __future__ import annotations

from typing import NamedTuple

from limiter.policies import Policy


class Block(NamedTuple):
    """What is asked of one policy."""

    policy: Policy
    key: int
    """Which of the question's keys holds the state: its place, from 0."""
    cost: int
    shadow: bool = False
    """Whether it only counts what passes, and never denies."""
    lease: str = ""
    """The lease's name, drawn by its holder; of policies that hold."""


class Question(NamedTuple):
    """One call about any list of policies, of one subject or of several; none stands in it twice."""

    mode: str
    """hit, peek, refund, settle, reset; where there are leases acquire, renew, release."""
    at_least: int
    """Units that will do where fewer than a block's cost will; 0: none."""
    now_us: int
    """The time to use; 0: the store's clock."""
    keys: tuple[bytes, ...]
    blocks: tuple[Block, ...]

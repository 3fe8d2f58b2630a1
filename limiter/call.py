"""What a limiter asks of a store, as values: a store encodes it for a server, or decides it itself."""

from __future__ import annotations

from typing import Any, NamedTuple

from limiter.policies import Policy

#: Tells a store to use its own clock, which all clients share.
SERVER_CLOCK = 0

#: Integers of a reply for each block: granted, remaining, retry_after_us, reset_after_us, delay_us.
#: The time of the decision follows the last block's.
STRIDE = 5


class Block(NamedTuple):
    """The part of a call about one policy."""

    policy: Policy
    key: int
    """The index of the call's key that holds the state."""
    cost: int
    shadow: bool = False
    """Whether it only counts what passes, and never denies."""
    lease: str = ""
    """The lease's name, drawn by its holder; of policies that hold."""


class CallTemplate:
    """All of a call but its keys: calls about many subjects share one.

    Attributes:
        mode: hit, peek, refund, settle, reset; where there are leases acquire, renew, release.
        at_least: Units that are enough where fewer than a block's cost are left; 0: none.
        now_us: The time to use; ``SERVER_CLOCK``: the store's.
        blocks: One for each policy; no policy of a subject occurs twice.
        prepared: Where a store keeps what it derives from the template.

    """

    __slots__ = ("at_least", "blocks", "mode", "now_us", "prepared")

    def __init__(self, mode: str, at_least: int, now_us: int, blocks: tuple[Block, ...]) -> None:
        self.mode = mode
        self.at_least = at_least
        self.now_us = now_us
        self.blocks = blocks
        self.prepared: Any = None


class Call(NamedTuple):
    """One call about one subject or several, which a store decides as a whole."""

    template: CallTemplate
    keys: tuple[bytes, ...]
    tag: bytes = b""
    """The hash tag of the keys, which decides their slot in a cluster."""

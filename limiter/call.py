"""A call to a store, as a value: a transport encodes it for a server, or a ``MemoryStore`` decides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from limiter.policies import Policy

#: As a call's time: the store uses its own clock, which all clients share.
SERVER_CLOCK = 0

#: Numbers of a reply for each block: granted, remaining, retry_after_us, reset_after_us, delay_us.
#: The time of the decision follows the last block's.
STRIDE = 5

#: The numbers of a reply. All are whole; those of a script are floats, which need not be converted before
#: they are read.
Reply = Sequence[float]


class Block(NamedTuple):
    """The part of a call about one policy."""

    policy: Policy
    key: int
    """The index of the call's key that holds the state."""
    cost: int
    shadow: bool = False
    """Whether the policy is in shadow mode: it counts, and never denies."""
    lease: str = ""
    """The id of the lease, drawn by its holder; only for ``Concurrency``."""


class CallTemplate:
    """All of a call but its keys: calls for many subjects share one template.

    Attributes:
        mode: hit, peek, refund, settle or reset; with leases also acquire, renew or release; with a
            record reserve or settle.
        at_least: The units that are enough if fewer than a block's cost are left; 0 if all are needed.
        step: A call that takes less than its cost takes a multiple of this number, which divides
            ``at_least`` and every cost.
        now_us: The time to use; ``SERVER_CLOCK`` is the store's.
        hold_us: How long the units may be used after the call, if they are taken in advance; else 0.
        blocks: One for each policy; no policy of a subject occurs twice.
        record_ms: How long the record of the reservation, or the mark that it is settled, is kept; the
            record is the call's last key. None: the call is about no record.
        joinable: Whether a transport may join the call with equal calls, into one of a larger cost.
        prepared: The bytes that a transport prepared from the template.

    """

    __slots__ = (
        *("at_least", "blocks", "hold_us", "joinable", "mode", "now_us", "prepared", "record_ms"),
        "step",
    )

    def __init__(
        self,
        mode: str,
        at_least: int,
        now_us: int,
        blocks: tuple[Block, ...],
        step: int = 1,
        joinable: bool = False,
        hold_us: int = 0,
        record_ms: int | None = None,
    ) -> None:
        self.mode = mode
        self.at_least = at_least
        self.step = step
        self.joinable = joinable
        self.now_us = now_us
        self.hold_us = hold_us
        self.blocks = blocks
        self.record_ms = record_ms
        self.prepared: Any = None


class Call:
    """One call for one subject or several, which a store decides as a whole.

    Attributes:
        template: All of the call but its keys.
        keys: The keys of the subjects' state.
        tag: The hash tag of the keys, which decides their slot in a cluster.
        encoded: The bytes that a transport sends; empty until then.
        slot: The slot of the tag, once a transport to a cluster has computed it.
        is_kept: Whether a limiter keeps the call, and uses it again.
        denial: The cached denial of the call, or None; see ``denials``.

    """

    __slots__ = ("denial", "encoded", "is_kept", "keys", "slot", "tag", "template")

    def __init__(self, template: CallTemplate, keys: tuple[bytes, ...], tag: bytes = b"") -> None:
        self.template = template
        self.keys = keys
        self.tag = tag
        self.encoded = b""
        self.slot: int | None = None
        self.is_kept = False
        self.denial: Any = None

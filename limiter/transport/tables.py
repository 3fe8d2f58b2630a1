"""What is common to tables that a store's nodes know: when to read one, and whom to ask. It does no I/O.

A cluster's table has the owner of each slot (``slots``). That of a Sentinel has one row, the primary
(``sentinels``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from time import monotonic
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable, anew
from limiter.transport.store import Address, Store

#: The part of ``connect_timeout`` that one node may take while there are others to ask.
FIRST_SHARE = 1 / 8


class Member(Protocol):
    """One node, as a table sees it."""

    address: Address
    where: str

    @property
    def has_idle(self) -> bool:
        """Whether a connection is ready, so that the node need not be connected first."""


Node = TypeVar("Node", bound=Member)
Each = TypeVar("Each")


class Reading(Generic[Node]):
    """One reading of a table: whom to ask, and whose answer to take."""

    failure: LimiterError | None = None
    """Why a node did not answer."""

    def nodes(self, timeout: float) -> Iterator[tuple[Node, float]]:
        """Yield each node to ask, with its deadline, until the table is known."""
        raise NotImplementedError

    def add(self, source: Node, replies: list[Any]) -> None:
        """Take a node's replies to the table's questions.

        Raises:
            StoreRefused, StoreUnavailable: They are no row of the table.

        """
        raise NotImplementedError

    def fail(self, source: Node, error: LimiterError) -> None:
        """Note that a node did not answer."""
        self.failure = graver(self.failure, error)


class Table(Generic[Node]):
    """A table that is read from one node after another."""

    contents: ClassVar[str]
    """What it has, for messages."""
    questions: tuple[bytes, ...]
    """The commands that ask a node for what it knows."""
    refresh_every: ClassVar[float]
    """Seconds between two readings, at least: a store in trouble must not get more load."""
    outdated_after: ClassVar[float]
    """Seconds after which it is read again without a reason, if there are calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.readings = 0
        self.read_at = -inf
        self.outdated_at = inf
        self.failure: LimiterError | None = None
        """Why the last reading failed; None if it did not."""

    @property
    def is_due(self) -> bool:
        """Whether the table may be read again."""
        return monotonic() - self.read_at >= self.refresh_every

    def begin_reading(self) -> Reading[Node]:
        """Begin to read the table anew."""
        raise NotImplementedError

    def end_reading(self, reading: Any) -> list[Node]:
        """End a reading; return the nodes that are not needed any more."""
        self.read_at = monotonic()
        self.outdated_at = self.read_at + self.outdated_after
        self.readings += 1
        return []

    def members(self) -> Iterable[Node]:
        """Every known node."""
        raise NotImplementedError

    def late(self) -> LimiterError:
        """Make the error for a missed deadline: the last reading's refusal, or StoreUnavailable."""
        if isinstance(self.failure, StoreRefused):
            return anew(self.failure)
        return StoreUnavailable(f"{self._store.where}: no {self.contents} within the deadline")


def in_turn(nodes: Iterable[Each], timeout: float) -> Iterator[tuple[Each, float]]:
    """Yield each node with a short deadline, then each late node again with the whole timeout.

    So a silent node does not keep us from the others. Connecting goes on in the background: a slow node
    may be ready the second time.
    """
    left = list(nodes)
    if len(left) > 1:
        late = []
        for node in left:
            deadline = monotonic() + timeout * FIRST_SHARE
            yield node, deadline
            if monotonic() >= deadline:
                late.append(node)
        left = late
    for node in left:
        yield node, monotonic() + timeout


def graver(failure: LimiterError | None, error: LimiterError) -> LimiterError:
    """Choose the error to report: if one node refused, another's failure must not lead to a fallback."""
    return failure if isinstance(failure, StoreRefused) else error

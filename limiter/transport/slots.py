"""Which node of a cluster has which slot: the table, without the I/O that reads it."""

from __future__ import annotations

import random
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from redis.exceptions import ResponseError

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable, anew
from limiter.transport.replies import code
from limiter.transport.store import Address, Store

SLOTS = 16_384

#: Seconds between two readings of the table, at least, so that a cluster in trouble is not flooded.
REFRESH_EVERY = 0.5

#: The part of ``connect_timeout`` that one node may take while there are others to ask.
FIRST_SHARE = 1 / 8


class Member(Protocol):
    """One node of the cluster, as the table sees it."""

    address: Address
    where: str

    @property
    def has_idle(self) -> bool:
        """Whether a connection is ready: such a node answers at once, or fails within the deadline."""


Node = TypeVar("Node", bound=Member)
Each = TypeVar("Each")


class SlotTable(Generic[Node]):
    """The owner of each slot, every node by its address, and when that was read."""

    def __init__(self, store: Store, make_node: Callable[[Address], Node]) -> None:
        self._store = store
        self._make_node = make_node
        self.nodes: dict[Address, Node] = {}
        self.owners: list[Node | None] = [None] * SLOTS
        self.readings = 0
        self.read_at = -REFRESH_EVERY
        self.failure: LimiterError | None = None
        """Why the last reading came to nothing."""

    @property
    def is_due(self) -> bool:
        """Whether it may be read anew."""
        return monotonic() - self.read_at >= REFRESH_EVERY

    @property
    def primaries(self) -> set[Node]:
        """Every node that has a slot."""
        return {node for node in self.owners if node is not None}

    def was_read(self, failure: LimiterError | None) -> None:
        """A reading has ended."""
        self.failure = failure
        self.read_at = monotonic()
        self.readings += 1

    def late(self) -> LimiterError:
        """The error where there is no table by a deadline: a refusal of the last reading, or the time."""
        if isinstance(self.failure, StoreRefused):
            return anew(self.failure)
        return StoreUnavailable(f"{self._store.where}: no slot table within the deadline")

    def owner(self, tag: bytes) -> Node:
        """The node that has a tag's slot.

        Raises:
            StoreUnavailable: The table names none.

        """
        slot = slot_of(tag)
        node = self.owners[slot]
        if node is None:
            raise StoreUnavailable(f"{self._store.where}: no node has slot {slot}")
        return node

    def node_at(self, address: Address) -> Node:
        """The node at an address that the cluster named, or where that address really leads."""
        return self._at(self._remapped(address))

    def _at(self, address: Address) -> Node:
        node = self.nodes.get(address)
        if node is None:
            # Two threads may both come here; the dictionary keeps one of the two.
            node = self.nodes.setdefault(address, self._make_node(address))
        return node

    def to_ask(self) -> list[Node]:
        """Every node that may know the table, those with a connection first."""
        known = list({*self.nodes, *self._store.addresses})
        random.shuffle(known)
        # The user named these as they are reached; only addresses that the cluster names are remapped.
        nodes = [self._at(address) for address in known]
        return sorted(nodes, key=lambda node: not node.has_idle)

    def fill(self, reply: Any, asked: Node) -> list[Node]:
        """Take over a node's reply to CLUSTER SLOTS; return the nodes that are gone.

        Raises:
            StoreRefused: It is no table.
            StoreUnavailable: It is an empty one.

        """
        try:
            ranges = [
                (int(first), int(last), _address(owner, asked.address))
                for first, last, owner, *_ in reply
            ]
        except (TypeError, ValueError, LookupError):
            raise StoreRefused(
                f"{asked.where} answered CLUSTER SLOTS with {reply!r:.200}"
            ) from None
        if not ranges:
            raise StoreUnavailable(f"{asked.where}: the cluster has no slots yet")
        owners: list[Node | None] = [None] * SLOTS
        for first, last, owner in ranges:
            owners[first : last + 1] = [self.node_at(owner)] * (last + 1 - first)
        self.owners = owners
        named = {self._remapped(owner) for _, _, owner in ranges} | {*self._store.addresses}
        return [self.nodes.pop(address) for address in set(self.nodes) - named]

    def pointed_to(self, error: ResponseError, node: Node) -> Node:
        """The node that a MOVED or ASK of ``node`` names; a MOVED is remembered.

        Raises:
            StoreRefused: It names none.

        """
        try:
            slot, host, port = _pointed_to(error)
        except ValueError:
            raise StoreRefused(
                f"{node.where} answered {code(error)} with {str(error)!r:.200}: accepted are a slot and "
                f"host:port"
            ) from None
        target = self.node_at((_host(host, node.address), port))
        if code(error) == "MOVED":
            self.owners[slot] = target
        return target

    def _remapped(self, address: Address) -> Address:
        return address if self._store.remap is None else self._store.remap(address)


def slot_of(tag: bytes) -> int:
    """The slot of a hash tag."""
    return crc_hqx(tag, 0) % SLOTS


def one_slot(tags: Iterable[bytes]) -> bool:
    """Whether keys with these hash tags lie in one slot, so that one script call may have them all."""
    return len({*map(slot_of, tags)}) <= 1


def in_turn(nodes: Iterable[Each], patience: float) -> Iterator[tuple[Each, float]]:
    """The nodes, and by when each should have answered: soon, and late ones a second time.

    A silent node must not keep us from the others. Connecting goes on in the background, so a slow node
    may be ready the second time.
    """
    left = list(nodes)
    if len(left) > 1:
        late = []
        for node in left:
            soon = monotonic() + patience * FIRST_SHARE
            yield node, soon
            if monotonic() >= soon:
                late.append(node)
        left = late
    for node in left:
        yield node, monotonic() + patience


def graver(failure: LimiterError | None, error: LimiterError) -> LimiterError:
    """The error to report of two: a refusal must not become a fallback because another node is down."""
    return failure if isinstance(failure, StoreRefused) else error


def _address(owner: Any, asked: Address) -> Address:
    """The owner's address."""
    host = owner[0].decode() if isinstance(owner[0], bytes) else owner[0]
    return (_host(host, asked), int(owner[1]))


def _host(named: str | None, asked: Address) -> str:
    """The host that a node names; where it does not know its own, the one by which it was reached."""
    return named if named and named != "?" else asked[0]


def _pointed_to(error: ResponseError) -> tuple[int, str, int]:
    """Slot, host and port of a MOVED or ASK."""
    slot, _, place = str(error).removeprefix("MOVED ").removeprefix("ASK ").partition(" ")
    host, _, port = place.rpartition(":")
    return int(slot), host, int(port)

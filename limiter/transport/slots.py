"""The slot table: which node of a cluster has which slot. It does no I/O."""

from __future__ import annotations

import random
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Iterator, Set
from itertools import groupby
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from limiter.errors import StoreRefused, StoreUnavailable
from limiter.transport.replies import code
from limiter.transport.store import Address, Store
from limiter.transport.tables import Node, Reading, Table, in_turn
from limiter.transport.wire import CLUSTER_SLOTS

SLOTS = 16_384

#: Seconds between two readings of the table, at least: a cluster in trouble must not get more load.
REFRESH_EVERY = 0.5

#: Seconds after which it is read again without a reason: replicas come and go, and no call shows that.
OUTDATED_AFTER = 30.0


class Claims(NamedTuple):
    """What one node says about the cluster."""

    ranges: list[tuple[int, int, Address]]
    """First slot, last slot, and their owner."""
    owners: set[Address]
    named: set[Address]
    """Every node of the table: primaries, and replicas, which may be primaries when we next ask."""


class SlotTable(Table[Node]):
    """The owner of each slot, every node by its address, and when the table was last read."""

    contents = "slot table"
    questions = (CLUSTER_SLOTS,)
    refresh_every = REFRESH_EVERY
    outdated_after = OUTDATED_AFTER

    def __init__(self, store: Store, make_node: Callable[[Address], Node]) -> None:
        super().__init__(store)
        self._make_node = make_node
        self.nodes: dict[Address, Node] = {}
        self.owners: list[Node | None] = [None] * SLOTS
        self._named: set[Address] = set()
        self._doubted: set[Address] = set()

    @property
    def primaries(self) -> set[Node]:
        """Every node that has a slot."""
        return {node for node, _ in groupby(self.owners) if node is not None}

    def members(self) -> list[Node]:
        """As ``Table.members``."""
        return list(self.nodes.values())

    def doubt(self, slot: int) -> None:
        """Note that the slot's owner did not decide a call: it may be the owner no more."""
        owner = self.owners[slot]
        if owner is not None:
            self._doubted.add(owner.address)

    def begin_reading(self) -> SlotReading[Node]:
        """As ``Table.begin_reading``."""
        return SlotReading(self, frozenset(self._doubted))

    def end_reading(self, reading: Any) -> list[Node]:
        """Fill the table with what was read; return the nodes that have left the cluster."""
        super().end_reading(reading)
        self.failure = reading.failure if reading.claims is None else None
        self._doubted -= reading.certain
        return [] if reading.claims is None else self.fill(reading.claims)

    def owner(self, slot: int) -> Node:
        """The node that has the slot.

        Raises:
            StoreUnavailable: The table has no owner of the slot.

        """
        node = self.owners[slot]
        if node is None:
            raise StoreUnavailable(f"{self._store.where}: no node has slot {slot}")
        return node

    def node_at(self, address: Address) -> Node:
        """The node at an address that the cluster named, after the client's ``address_remap``."""
        return self._at(self._remapped(address))

    def _at(self, address: Address) -> Node:
        node = self.nodes.get(address)
        if node is None:
            # Two threads may make the node at the same time; both use the one that the dictionary keeps.
            node = self.nodes.setdefault(address, self._make_node(address))
        return node

    def to_ask(self, doubted: Set[Address] = frozenset()) -> list[Node]:
        """Every node that may know the table: those with a ready connection first, those in doubt last."""
        known = sorted({*self.nodes, *self._named, *self._store.addresses})
        random.shuffle(known)
        # The user's own addresses are never remapped, only those that the cluster names.
        nodes = [self._at(address) for address in known]
        return sorted(nodes, key=lambda node: (node.address in doubted, not node.has_idle))

    def parse(self, reply: Any, source: Node) -> Claims:
        """Read a node's reply to CLUSTER SLOTS.

        Raises:
            StoreRefused: The reply is no table of slots.
            StoreUnavailable: The table is empty.

        """
        try:
            entries = [
                (
                    _slot(first),
                    _slot(last, int(first)),
                    [_address(node, source.address) for node in nodes],
                )
                for first, last, *nodes in reply
            ]
            ranges = [(first, last, self._remapped(nodes[0])) for first, last, nodes in entries]
        except (TypeError, ValueError, LookupError):
            raise StoreRefused(
                f"{source.where} answered CLUSTER SLOTS with {reply!r:.200}"
            ) from None
        if not ranges:
            raise StoreUnavailable(f"{source.where}: the cluster has no slots yet")
        owners = {owner for *_, owner in ranges}
        return Claims(
            ranges, owners, {self._remapped(node) for *_, nodes in entries for node in nodes}
        )

    def fill(self, claims: Claims) -> list[Node]:
        """Fill the table with a node's claims; return the nodes that have left the cluster."""
        owners: list[Node | None] = [None] * SLOTS
        for first, last, owner in claims.ranges:
            owners[first : last + 1] = [self._at(owner)] * (last + 1 - first)
        self.owners = owners
        self._named = claims.named
        left = set(self.nodes) - claims.named - {*self._store.addresses}
        return [self.nodes.pop(address) for address in sorted(left)]

    def pointed_to(self, error: ResponseError, node: Node) -> Node:
        """The node that a MOVED or ASK of ``node`` names; after MOVED, it owns the slot.

        Raises:
            StoreRefused: The reply names no node.

        """
        try:
            slot, host, port = _pointed_to(error)
        except ValueError:
            raise StoreRefused(
                f"{node.where} answered {code(error)} with {str(error)!r:.200}: expected a slot and "
                f"host:port"
            ) from None
        target = self.node_at((_host(host, node.address), port))
        if code(error) == "MOVED":
            self.owners[slot] = target
        return target

    def _remapped(self, address: Address) -> Address:
        return address if self._store.remap is None else self._store.remap(address)


class SlotReading(Reading[Node]):
    """One reading of the table: whom to ask, and whose word to take.

    A primary that is cut off from the others goes on to name itself, for as long as it is cut off. So an
    owner that did not decide a call is in doubt. It is asked last, and a table that names it counts only if
    two other nodes say the same, or no more of them answer. The doubt ends when another node names it.
    """

    def __init__(self, table: SlotTable[Node], doubted: Set[Address]) -> None:
        self._table = table
        self._doubted = doubted
        self._believed = 0
        """Nodes that have answered and are not in doubt."""
        self._is_settled = False
        self._confirmed: set[Address] = set()
        """Owners that another node has named."""
        self.claims: Claims | None = None
        """The best answer so far."""

    def nodes(self, timeout: float) -> Iterator[tuple[Node, float]]:
        """As ``Reading.nodes``, in the way of ``in_turn``."""
        to_ask = self._table.to_ask(self._doubted)
        for asked, (node, deadline) in enumerate(in_turn(to_ask, timeout), 1):
            yield node, deadline
            if self._is_settled or (asked >= len(to_ask) and self.claims is not None):
                return

    def add(self, source: Node, replies: list[Any]) -> None:
        """Take a node's reply to CLUSTER SLOTS, as ``SlotTable.parse`` does."""
        claims = self._table.parse(replies[0], source)
        self._confirmed |= claims.owners - {source.address}
        if source.address in self._doubted:
            self.claims = self.claims or claims
            return
        self.claims = claims
        self._believed += 1
        self._is_settled = self._believed > 1 or not claims.owners & self._doubted

    @property
    def certain(self) -> set[Address]:
        """The owners that are in doubt no more."""
        return self._confirmed & self.claims.owners if self.claims is not None else set()


def slot_of(tag: bytes) -> int:
    """The slot of a hash tag."""
    return crc_hqx(tag, 0) % SLOTS


def one_slot(tags: Iterable[bytes]) -> bool:
    """Whether keys with these hash tags lie in one slot, so that one script call may have all of them."""
    return len({*map(slot_of, tags)}) <= 1


def _address(owner: Any, reached: Address) -> Address:
    """The address of a slot's owner, from its entry in a reply to CLUSTER SLOTS."""
    host = owner[0].decode() if isinstance(owner[0], bytes) else owner[0]
    return (_host(host, reached), int(owner[1]))


def _host(named: str | None, reached: Address) -> str:
    """The host that a node names; if it does not know its own, the host by which we reached it."""
    return named if named and named != "?" else reached[0]


def _pointed_to(error: ResponseError) -> tuple[int, str, int]:
    """Slot, host and port of a MOVED or ASK."""
    slot, _, place = str(error).removeprefix("MOVED ").removeprefix("ASK ").partition(" ")
    host, _, port = place.rpartition(":")
    return _slot(slot), host, int(port)


def _slot(number: Any, least: int = 0) -> int:
    """The number of a slot, from a reply.

    Raises:
        ValueError: It is below ``least``, or no slot has this number.

    """
    slot = int(number)
    if not least <= slot < SLOTS:
        raise ValueError
    return slot

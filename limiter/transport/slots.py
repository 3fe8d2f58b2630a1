"""The slot table: which node of a cluster has which slot. It does no I/O."""

from __future__ import annotations

import random
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Iterator, Set
from math import inf
from time import monotonic
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from redis.exceptions import ResponseError

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable, anew
from limiter.transport.replies import code
from limiter.transport.store import Address, Store

SLOTS = 16_384

#: Seconds between two readings of the table, at least: a cluster in trouble must not get more load.
REFRESH_EVERY = 0.5

#: Seconds after which it is read again without a reason: replicas come and go, and no call shows that.
OUTDATED_AFTER = 30.0

#: The part of ``connect_timeout`` that one node may take while there are others to ask.
FIRST_SHARE = 1 / 8


class Member(Protocol):
    """One node of the cluster, as the table sees it."""

    address: Address
    where: str

    @property
    def has_idle(self) -> bool:
        """Whether a connection is ready, so that the node need not be connected first."""


Node = TypeVar("Node", bound=Member)
Each = TypeVar("Each")


class Claims(NamedTuple):
    """What one node says about the cluster."""

    ranges: list[tuple[int, int, Address]]
    """First slot, last slot, and their owner."""
    owners: set[Address]
    named: set[Address]
    """Every node of the table: primaries, and replicas, which may be primaries when we next ask."""


class SlotTable(Generic[Node]):
    """The owner of each slot, every node by its address, and when the table was last read."""

    def __init__(self, store: Store, make_node: Callable[[Address], Node]) -> None:
        self._store = store
        self._make_node = make_node
        self.nodes: dict[Address, Node] = {}
        self.owners: list[Node | None] = [None] * SLOTS
        self._named: set[Address] = set()
        self._doubted: set[Address] = set()
        self.readings = 0
        self.read_at = -REFRESH_EVERY
        self.outdated_at = inf
        self.failure: LimiterError | None = None
        """Why the last reading failed; None if it did not."""

    @property
    def is_due(self) -> bool:
        """Whether the table may be read again."""
        return monotonic() - self.read_at >= REFRESH_EVERY

    @property
    def primaries(self) -> set[Node]:
        """Every node that has a slot."""
        return {node for node in self.owners if node is not None}

    def doubt(self, slot: int) -> None:
        """Note that the slot's owner did not decide a call: it may be the owner no more."""
        owner = self.owners[slot]
        if owner is not None:
            self._doubted.add(owner.address)

    def begin_reading(self) -> Reading[Node]:
        """Begin to read the table anew."""
        return Reading(self, frozenset(self._doubted))

    def end_reading(self, reading: Reading[Node]) -> list[Node]:
        """Fill the table with what was read; return the nodes that have left the cluster."""
        self.failure = reading.failure if reading.claims is None else None
        self.read_at = monotonic()
        self.outdated_at = self.read_at + OUTDATED_AFTER
        self.readings += 1
        self._doubted -= reading.certain
        return [] if reading.claims is None else self.fill(reading.claims)

    def late(self) -> LimiterError:
        """Make the error for a missed deadline: the last reading's refusal, or StoreUnavailable."""
        if isinstance(self.failure, StoreRefused):
            return anew(self.failure)
        return StoreUnavailable(f"{self._store.where}: no slot table within the deadline")

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
        known = list({*self.nodes, *self._named, *self._store.addresses})
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
                (int(first), int(last), [_address(node, source.address) for node in nodes])
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
        return [self.nodes.pop(address) for address in left]

    def pointed_to(self, error: ResponseError, node: Node) -> Node:
        """The node that a MOVED or ASK of ``node`` names; after MOVED, it owns the slot.

        Raises:
            StoreRefused: The reply names no node.

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


class Reading(Generic[Node]):
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
        self.failure: LimiterError | None = None
        """Why a node did not answer."""

    def nodes(self, timeout: float) -> Iterator[tuple[Node, float]]:
        """Yield each node to ask, with its deadline, as ``in_turn`` does, until the table is known."""
        to_ask = self._table.to_ask(self._doubted)
        for asked, (node, deadline) in enumerate(in_turn(to_ask, timeout), 1):
            yield node, deadline
            if self._is_settled or (asked >= len(to_ask) and self.claims is not None):
                return

    def add(self, reply: Any, source: Node) -> None:
        """Take a node's reply to CLUSTER SLOTS.

        Raises:
            StoreRefused, StoreUnavailable: As for ``SlotTable.parse``.

        """
        claims = self._table.parse(reply, source)
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

    def fail(self, error: LimiterError) -> None:
        """Note that a node did not answer."""
        self.failure = graver(self.failure, error)


def slot_of(tag: bytes) -> int:
    """The slot of a hash tag."""
    return crc_hqx(tag, 0) % SLOTS


def one_slot(tags: Iterable[bytes]) -> bool:
    """Whether keys with these hash tags lie in one slot, so that one script call may have all of them."""
    return len({*map(slot_of, tags)}) <= 1


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
    return int(slot), host, int(port)

"""Calls to a cluster, by our own table of which node has which slot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from time import monotonic

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import LimiterError
from limiter.scripts import Script
from limiter.transport.node import Node
from limiter.transport.reader import TableTransport
from limiter.transport.replies import code
from limiter.transport.slots import SlotTable, slot_of
from limiter.transport.store import Store
from limiter.transport.tables import graver, in_turn


class ClusterTransport(TableTransport):
    """Finds the node that owns a subject's slot, and follows the cluster when slots move."""

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        super().__init__(store, timeout, connect_timeout)
        self._table: SlotTable[Node] = SlotTable(store, self._make_node)

    def primaries(self, deadline: float) -> list[Node]:
        """As ``Transport.primaries``, by a new reading of the table."""
        self._read_anew(deadline)
        return sorted(self._table.primaries, key=lambda node: node.address)

    def load(self, scripts: Sequence[Script], key: bytes | None = None) -> None:
        """Load the scripts into every primary; if one fails, still try the others."""
        deadline = monotonic() + self._connect_timeout
        self._reopen()
        self._read_anew(deadline)
        failures: dict[Node, LimiterError] = {}
        for node, until in in_turn(self._table.primaries, self._connect_timeout):
            try:
                self._load_on(node, scripts, key, min(until, deadline))
                failures.pop(node, None)
            except LimiterError as error:
                failures[node] = error
        if failures:
            raise reduce(graver, failures.values())

    def _find(self, call: Call, deadline: float) -> Node:
        if deadline > self._table.outdated_at:
            self._refresh()
        slot = call.slot
        if slot is None:
            slot = call.slot = slot_of(call.tag)
        node = self._table.owners[slot]
        if node is None:
            self._read_anew(deadline)
            node = self._table.owner(slot)
        return node

    def _failed(self, call: Call) -> None:
        """Start reading the slot table again in the background."""
        if call.slot is not None:
            self._table.doubt(call.slot)
        self._refresh()

    def _follow(self, error: ResponseError, call: Call, node: Node, deadline: float) -> Node | None:
        kind = code(error)
        if kind == "READONLY":
            self._read_anew(deadline)
            owner = self._find(call, deadline)
            return None if owner is node else owner
        target = self._table.pointed_to(error, node)
        if kind == "MOVED":
            self._refresh()
        return target

"""Calls to a cluster, by our own table of which node has which slot."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import reduce
from time import monotonic

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import LimiterError, anew
from limiter.scripts import Script
from limiter.threads import start_thread
from limiter.transport import forks, slots
from limiter.transport.base import Transport
from limiter.transport.node import Node
from limiter.transport.replies import cause, code, translate
from limiter.transport.slots import SlotTable
from limiter.transport.store import Store
from limiter.transport.wire import CLUSTER_SLOTS


class ClusterTransport(Transport):
    """Finds the node that owns a subject's slot, and follows the cluster when slots move."""

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        super().__init__(store, timeout, connect_timeout)
        self._table: SlotTable[Node] = SlotTable(store, self._make_node)
        self.after_fork()
        forks.remember(self)

    def after_fork(self) -> None:
        """Forget a reading that was under way: in the child of a fork, its thread does not exist."""
        self._changed = threading.Condition()
        self._reading = False

    def primaries(self, deadline: float) -> list[Node]:
        """As ``Transport.primaries``, by a new reading of the table."""
        self._read_anew(deadline)
        return sorted(self._table.primaries, key=lambda node: node.address)

    def load(self, scripts: Sequence[Script], key: bytes | None = None) -> None:
        """Load the scripts into every primary; if one fails, still try the others."""
        deadline = monotonic() + self._connect_timeout
        self._read_anew(deadline)
        failures: dict[Node, LimiterError] = {}
        for node, until in slots.in_turn(self._table.primaries, self._connect_timeout):
            try:
                self._load_on(node, scripts, key, min(until, deadline))
                failures.pop(node, None)
            except LimiterError as error:
                failures[node] = error
        if failures:
            raise reduce(slots.graver, failures.values())

    def close(self) -> None:
        """Close the idle connections to every node."""
        for node in list(self._table.nodes.values()):
            node.close()

    def _find(self, call: Call, deadline: float) -> Node:
        if deadline > self._table.outdated_at:
            self._refresh()
        slot = call.slot
        if slot is None:
            slot = call.slot = slots.slot_of(call.tag)
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

    def _refresh(self) -> None:
        """Start reading the table, unless a reading is under way or has just ended."""
        with self._changed:
            if self._reading or not self._table.is_due:
                return
            start_thread(self._read_table, self._store.where)
            self._reading = True

    def _read_anew(self, deadline: float) -> None:
        """Read the table, or wait for the reading that is under way.

        Raises:
            StoreUnavailable: The reading did not end by ``deadline``, or no node knew the slots.

        """
        readings = self._table.readings
        self._refresh()
        with self._changed:
            while self._reading and self._table.readings == readings:
                left = deadline - monotonic()
                if left <= 0:
                    raise self._table.late()
                self._changed.wait(left)
            failure = self._table.failure
            if failure is not None:
                raise anew(failure)

    def _read_table(self) -> None:
        """Ask one node after the other until the table is known."""
        reading = self._table.begin_reading()
        try:
            for node, until in reading.nodes(self._connect_timeout):
                try:
                    reading.add(self.ask(node, CLUSTER_SLOTS, until), node)
                except LimiterError as error:
                    reading.fail(error)
        except Exception as error:
            failure = translate(error, self._store.where)
            failure.__cause__ = cause(error)
            reading.fail(failure)
        with self._changed:
            gone = self._table.end_reading(reading)
            self._reading = False
            self._changed.notify_all()
        for node in gone:
            node.close()

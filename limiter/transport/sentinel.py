"""Calls to the primary of a service that sentinels watch."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.scripts import Script
from limiter.transport.node import Node
from limiter.transport.reader import TableTransport
from limiter.transport.sentinels import PrimaryTable
from limiter.transport.store import Store


class SentinelTransport(TableTransport):
    """Sends every call to the server that the sentinels name, and follows each failover."""

    _table: PrimaryTable[Node]

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        super().__init__(store, timeout, connect_timeout)
        self._table = PrimaryTable(store, self._make_node)

    def primaries(self, deadline: float) -> list[Node]:
        """As ``Transport.primaries``, by a new reading of the table."""
        self._read_anew(deadline)
        return [self._table.owner()]

    def sentinels(self) -> tuple[int, int]:
        """As ``Transport.sentinels``."""
        return self._table.agreeing, len(self._table.sentinels)

    def load(self, scripts: Sequence[Script], key: bytes | None = None) -> None:
        """As ``Transport.load``."""
        deadline = monotonic() + self._connect_timeout
        self._reopen()
        self._read_anew(deadline)
        self._load_on(self._table.owner(), scripts, key, deadline)

    def _find(self, call: Call, deadline: float) -> Node:
        if monotonic() > self._table.outdated_at:
            self._refresh()
        node = self._table.primary
        if node is None:
            self._read_anew(deadline)
            node = self._table.owner()
        return node

    def _failed(self, call: Call) -> None:
        """Start asking the sentinels again, in the background."""
        self._refresh()

    def _follow(self, error: ResponseError, call: Call, node: Node, deadline: float) -> Node | None:
        self._read_anew(deadline)
        owner = self._table.owner()
        return None if owner is node else owner

"""Calls to a store at one address."""

from __future__ import annotations

from time import monotonic

from redis.exceptions import ResponseError

from limiter.plan import Call
from limiter.scripts import Script
from limiter.transport.base import Transport
from limiter.transport.node import Node
from limiter.transport.store import Store


class SingleTransport(Transport):
    """One node has every subject."""

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        super().__init__(store, timeout, connect_timeout)
        self._node = self._make_node(None)

    def load(self, script: Script) -> None:
        """As ``Transport.load``."""
        self._load_on(self._node, script, monotonic() + self._connect_timeout)

    def close(self) -> None:
        """As ``Transport.close``."""
        self._node.close()

    def _find(self, call: Call, deadline: float) -> Node:
        return self._node

    def _follow(self, error: ResponseError, call: Call, node: Node, deadline: float) -> Node | None:
        return None

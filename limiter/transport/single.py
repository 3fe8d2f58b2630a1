"""Calls to a store at one address."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import StoreRefused
from limiter.scripts import Script
from limiter.transport.base import Transport
from limiter.transport.node import Node
from limiter.transport.replies import check_alone
from limiter.transport.store import Store
from limiter.transport.wire import HELLO


class SingleTransport(Transport):
    """Sends every call to the store's one node."""

    _node: Node

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        super().__init__(store, timeout, connect_timeout)
        self._node = self._make_node(None)

    def primaries(self, deadline: float) -> list[Node]:
        """As ``Transport.primaries``: the only node."""
        return [self._node]

    def load(self, scripts: Sequence[Script], key: bytes | None = None) -> None:
        """As ``Transport.load``; refuse a cluster's node, which would answer for some subjects only."""
        deadline, hello = monotonic() + self._connect_timeout, None
        self._reopen()
        self._load_on(self._node, scripts, key, deadline)
        with suppress(StoreRefused):  # the server does not know HELLO
            hello = self.ask(self._node, HELLO, deadline)
        check_alone(hello, self._node.where)

    def close(self) -> None:
        """As ``Transport.close``."""
        self._limit.most = 0
        self._node.close()

    def _find(self, call: Call, deadline: float) -> Node:
        return self._node

    def _follow(self, error: ResponseError, call: Call, node: Node, deadline: float) -> Node | None:
        return None

"""Calls of an event loop to a store at one address."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import inf

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import StoreRefused
from limiter.scripts import Script
from limiter.transport.async_base import LoopTransport
from limiter.transport.async_node import AsyncNode, NodeMaker
from limiter.transport.replies import check_alone
from limiter.transport.wire import HELLO


class SingleLoopTransport(LoopTransport):
    """Sends every call to the store's one node."""

    node: AsyncNode

    def __init__(self, loop: AbstractEventLoop, maker: NodeMaker) -> None:
        super().__init__(loop, maker)
        self.node = maker.make(None)

    async def search(self, call: Call, deadline: float) -> AsyncNode:
        """As ``LoopTransport.search``."""
        return self.node

    async def load(self, scripts: Sequence[Script], key: bytes | None, deadline: float) -> None:
        """As ``LoopTransport.load``; refuse a cluster's node, which would answer for some subjects only."""
        await self._load_on(self.node, scripts, key, deadline)
        hello = None
        with suppress(StoreRefused):  # the server does not know HELLO
            hello = await self._command(self.node, HELLO, deadline, inf)
        check_alone(hello, self.node.where)

    def nodes(self) -> Iterable[AsyncNode]:
        """As ``LoopTransport.nodes``."""
        return [self.node]

    async def _follow(
        self, error: ResponseError, call: Call, node: AsyncNode, deadline: float
    ) -> AsyncNode | None:
        return None

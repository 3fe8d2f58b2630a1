"""Calls of an event loop to the primary of a service that sentinels watch."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Sequence
from time import monotonic

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.scripts import Script
from limiter.transport.async_node import AsyncNode, NodeMaker
from limiter.transport.async_reader import TableLoopTransport
from limiter.transport.sentinels import PrimaryTable


class SentinelLoopTransport(TableLoopTransport):
    """As ``SentinelTransport``; each event loop asks the sentinels for itself."""

    _table: PrimaryTable[AsyncNode]

    def __init__(self, loop: AbstractEventLoop, maker: NodeMaker) -> None:
        super().__init__(loop, maker)
        self._table = PrimaryTable(maker.store, maker.make)

    def find(self, call: Call, deadline: float) -> AsyncNode | None:
        """As ``LoopTransport.find``."""
        if monotonic() > self._table.outdated_at:
            self._refresh()
        return self._table.primary

    async def search(self, call: Call, deadline: float) -> AsyncNode:
        """As ``LoopTransport.search``."""
        await self._read_anew(deadline)
        return self._table.owner()

    async def load(self, scripts: Sequence[Script], key: bytes | None, deadline: float) -> None:
        """As ``LoopTransport.load``."""
        await self._read_anew(deadline)
        await self._load_on(self._table.owner(), scripts, key, deadline)

    def failed(self, call: Call) -> None:
        """Start asking the sentinels again, in the background."""
        self._refresh()

    async def _follow(
        self, error: ResponseError, call: Call, node: AsyncNode, deadline: float
    ) -> AsyncNode | None:
        await self._read_anew(deadline)
        owner = self._table.owner()
        return None if owner is node else owner

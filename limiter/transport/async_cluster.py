"""Calls of an event loop to a cluster; each loop has its own slot table."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Sequence
from functools import reduce

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import LimiterError
from limiter.scripts import Script
from limiter.transport.async_node import AsyncNode, NodeMaker
from limiter.transport.async_reader import TableLoopTransport
from limiter.transport.replies import code
from limiter.transport.slots import SlotTable, slot_of
from limiter.transport.tables import graver, in_turn


class ClusterLoopTransport(TableLoopTransport):
    """Finds the node that owns a subject's slot, and follows the cluster when slots move."""

    def __init__(self, loop: AbstractEventLoop, maker: NodeMaker) -> None:
        super().__init__(loop, maker)
        self._table: SlotTable[AsyncNode] = SlotTable(maker.store, maker.make)

    def find(self, call: Call, deadline: float) -> AsyncNode | None:
        """As ``LoopTransport.find``."""
        if deadline > self._table.outdated_at:
            self._refresh()
        slot = call.slot
        if slot is None:
            slot = call.slot = slot_of(call.tag)
        return self._table.owners[slot]

    async def search(self, call: Call, deadline: float) -> AsyncNode:
        """As ``LoopTransport.search``."""
        await self._read_anew(deadline)
        return self._table.owner(slot_of(call.tag))

    async def load(self, scripts: Sequence[Script], key: bytes | None, deadline: float) -> None:
        """Load the scripts into every primary; if one fails, still try the others."""
        await self._read_anew(deadline)
        failures: dict[AsyncNode, LimiterError] = {}
        for node, until in in_turn(self._table.primaries, self._connect_timeout):
            try:
                await self._load_on(node, scripts, key, min(until, deadline))
                failures.pop(node, None)
            except LimiterError as error:
                failures[node] = error
        if failures:
            raise reduce(graver, failures.values())

    def failed(self, call: Call) -> None:
        """Start reading the slot table again, in the background."""
        if call.slot is not None:
            self._table.doubt(call.slot)
        self._refresh()

    async def _follow(
        self, error: ResponseError, call: Call, node: AsyncNode, deadline: float
    ) -> AsyncNode | None:
        kind = code(error)
        if kind == "READONLY":
            await self._read_anew(deadline)
            owner = self._table.owner(slot_of(call.tag))
            return None if owner is node else owner
        target = self._table.pointed_to(error, node)
        if kind == "MOVED":
            self._refresh()
        return target

"""Calls of an event loop to a cluster; each loop has its own slot table."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Iterable, Sequence
from functools import partial, reduce
from time import monotonic

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import LimiterError, anew
from limiter.scripts import Script
from limiter.transport.async_base import LoopTransport
from limiter.transport.async_node import AsyncNode, ConnectionCloser, make_node, under_way
from limiter.transport.replies import cause, code, translate
from limiter.transport.slots import SlotTable, graver, in_turn, slot_of
from limiter.transport.store import Store
from limiter.transport.wire import CLUSTER_SLOTS


class ClusterLoopTransport(LoopTransport):
    """Finds the node that owns a subject's slot, and follows the cluster when slots move."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        store: Store,
        closer: ConnectionCloser,
        timeout: float,
        connect: float,
    ) -> None:
        super().__init__(loop, store, closer, timeout, connect)
        make = partial(make_node, store, timeout, connect, closer)
        self._table: SlotTable[AsyncNode] = SlotTable(store, make)
        self._reading: asyncio.Task[None] | None = None

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

    def nodes(self) -> Iterable[AsyncNode]:
        """As ``LoopTransport.nodes``."""
        return list(self._table.nodes.values())

    def failed(self, call: Call) -> None:
        """Start reading the slot table again, in the background."""
        if call.slot is not None:
            self._table.doubt(call.slot)
        self._refresh()

    async def close(self) -> None:
        """As ``LoopTransport.close``; if the table is being read, stop that."""
        if (reading := under_way(self._reading)) is not None:
            reading.cancel()
            await asyncio.wait([reading])
        await super().close()

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

    def _refresh(self) -> None:
        """Start reading the table, unless a reading is under way or has just ended."""
        if under_way(self._reading) is None and self._table.is_due:
            self._reading = self.loop.create_task(self._read_table())

    async def _read_anew(self, deadline: float) -> None:
        """Read the table, or wait for the reading that is under way.

        Raises:
            StoreUnavailable: The reading did not end by ``deadline``, or no node knew the slots.

        """
        self._refresh()
        while (reading := under_way(self._reading)) is not None:
            left = deadline - monotonic()
            if left <= 0:
                raise self._table.late()
            await asyncio.wait([reading], timeout=left)
            if reading.cancelled():
                self._refresh()  # ``close`` cancelled it; this call still needs the table
        if self._table.failure is not None:
            raise anew(self._table.failure)

    async def _read_table(self) -> None:
        """Ask one node after the other until the table is known."""
        reading = self._table.begin_reading()
        try:
            for node, until in reading.nodes(self._connect_timeout):
                try:
                    reply = await self._command(node, CLUSTER_SLOTS, until, self._timeout)
                    reading.add(reply, node)
                except LimiterError as error:
                    reading.fail(error)
        except Exception as error:
            failure = translate(error, self._store.where)
            failure.__cause__ = cause(error)
            reading.fail(failure)
        for node in self._table.end_reading(reading):
            node.close()

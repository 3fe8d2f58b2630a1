"""Read a table of the store in a task beside the calls of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Any

from limiter.errors import LimiterError, anew
from limiter.transport.async_base import LoopTransport
from limiter.transport.async_node import AsyncNode, under_way
from limiter.transport.replies import cause, translate
from limiter.transport.tables import Table


class TableLoopTransport(LoopTransport):
    """As ``TableTransport``; each event loop has its own table."""

    _table: Table[AsyncNode]
    _reading: asyncio.Task[None] | None = None

    def nodes(self) -> Iterable[AsyncNode]:
        """As ``LoopTransport.nodes``."""
        return self._table.members()

    async def close(self) -> None:
        """As ``LoopTransport.close``; if the table is being read, stop that."""
        if (reading := under_way(self._reading)) is not None:
            reading.cancel()
            await asyncio.wait([reading])
        await super().close()

    def _refresh(self) -> None:
        """Start reading the table, unless a reading is under way or has just ended."""
        if under_way(self._reading) is None and self._table.is_due:
            self._reading = self.loop.create_task(self._read_table())

    async def _read_anew(self, deadline: float) -> None:
        """Read the table, or wait for the reading that is under way.

        Raises:
            StoreUnavailable: The reading did not end by ``deadline``, or no node knew the answer.

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
        with self.in_use():
            await self._read_from_nodes()

    async def _read_from_nodes(self) -> None:
        reading = self._table.begin_reading()
        try:
            for node, until in reading.nodes(self._connect_timeout):
                try:
                    reading.add(node, await self._ask_all(node, until))
                except LimiterError as error:
                    reading.fail(node, error)
        except Exception as error:
            failure = translate(error, self._store.where)
            failure.__cause__ = cause(error)
            reading.failure = failure
        for node in self._table.end_reading(reading):
            node.leave()

    async def _ask_all(self, node: AsyncNode, until: float) -> list[Any]:
        questions = self._table.questions
        return [await self._command(node, each, until, self._timeout) for each in questions]

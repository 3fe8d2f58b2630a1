"""Read a table of the store in a thread beside the calls, which use it meanwhile."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

from limiter.errors import LimiterError, anew
from limiter.threads import start_thread
from limiter.transport import forks
from limiter.transport.base import Transport
from limiter.transport.node import Node
from limiter.transport.replies import cause, translate
from limiter.transport.store import Store
from limiter.transport.tables import Table


class TableTransport(Transport):
    """Finds the node of a call by a table, which it reads again when calls fail or the table is old."""

    _table: Table[Node]

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        super().__init__(store, timeout, connect_timeout)
        self.after_fork()
        forks.remember(self)

    def after_fork(self) -> None:
        """Forget a reading that was under way: in the child of a fork, its thread does not exist."""
        self._changed = threading.Condition()
        self._reading = False

    def close(self) -> None:
        """As ``Transport.close``, for every node."""
        self._limit.most = 0
        for node in self._table.members():
            node.close()

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
            StoreUnavailable: The reading did not end by ``deadline``, or no node knew the answer.

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
                    reading.add(node, self._ask_all(node, until))
                except LimiterError as error:
                    reading.fail(node, error)
        except Exception as error:
            failure = translate(error, self._store.where)
            failure.__cause__ = cause(error)
            reading.failure = failure
        with self._changed:
            left = self._table.end_reading(reading)
            self._reading = False
            self._changed.notify_all()
        for node in left:
            node.leave()

    def _ask_all(self, node: Node, until: float) -> list[Any]:
        return [self.ask(node, question, until) for question in self._table.questions]

"""How a limiter reaches a store in its own process: without a connection, and without waiting."""

from __future__ import annotations

from collections.abc import Sequence

from limiter.call import Call, Reply
from limiter.memory.store import MemoryStore

#: The ``store`` of a limiter whose state is in its own process.
MEMORY = "memory://"


class MemoryTransport:
    """Carries calls to a ``MemoryStore``, with the methods of ``transport.Transport``."""

    where = MEMORY

    def __init__(self) -> None:
        self._store = MemoryStore()

    def run(self, call: Call, deadline: float | None = None) -> Reply:
        """Decide a call; the reply has the form of a script's."""
        return self._store.run(call)

    def clear(self) -> None:
        """Forget every subject."""
        self._store.clear()

    def load(self, scripts: object, key: bytes | None = None) -> None:
        """Do nothing: there is no script to load."""

    def close(self) -> None:
        """Do nothing: there is no connection, and the state stays."""

    def one_slot(self, tags: Sequence[bytes]) -> bool:
        """Whether subjects with these hash tags can be decided in one call."""
        return True


class AsyncMemoryTransport:
    """As ``MemoryTransport``, for coroutines."""

    where = MemoryTransport.where

    def __init__(self) -> None:
        self._inner = MemoryTransport()
        self.one_slot = self._inner.one_slot
        self.clear = self._inner.clear

    async def run(self, call: Call, deadline: float | None = None) -> Reply:
        """As ``MemoryTransport.run``."""
        return self._inner.run(call, deadline)

    def begin(self, call: Call) -> None:
        """Send no call in advance: ``run`` waits for nothing."""

    async def load(self, scripts: object, key: bytes | None = None) -> None:
        """Do nothing: there is no script to load."""

    async def close(self) -> None:
        """Do nothing: there is no connection, and the state stays."""

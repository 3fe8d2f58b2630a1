"""The algorithms in the process: for ``memory://``, and for ``on_error="local"`` while the store fails."""

from limiter.memory.store import MemoryStore

__all__ = ["MemoryStore"]

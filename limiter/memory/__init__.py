"""The algorithms in the process: ``memory://``, and whoever decides while the store cannot."""

from limiter.memory.store import MemoryStore

__all__ = ["MemoryStore"]

"""A bounded dict that forgets the values which were not used lately."""

from __future__ import annotations

from typing import TypeVar

#: Characters of a key; nothing is kept of longer ones, so that no client fills the memory with them.
LONGEST_KEY = 256

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")


class Generations(dict[_Name, _Value]):
    """Values in two generations, each of at most ``size``; the dict itself is the younger one.

    When the younger one is full, it becomes the older one, and the values not used since the last time
    are forgotten. With size 0 it keeps nothing.

    Threads share it without a lock. A race can only lose a value.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._older: dict[_Name, _Value] = {}

    def keep(self, name: _Name, value: _Value) -> None:
        """Keep a value in the younger generation."""
        if self._size:
            if len(self) >= self._size:
                self._older = dict(self)
                self.clear()
            self[name] = value

    def both(self) -> list[_Value]:
        """The values of both generations."""
        return [*self.values(), *self._older.values()]

    def recall(self, name: _Name) -> _Value | None:
        """Return a value of either generation, and keep it; None if it is in neither."""
        value = self.get(name)
        if value is None:
            value = self._older.get(name)
            if value is not None:
                self.keep(name, value)
        return value

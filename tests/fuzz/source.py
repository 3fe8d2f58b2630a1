"""Reads an input of the fuzzer from its beginning: choices first, and then a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Any = TypeVar("_Any")


class Source:
    """The bytes of an input; an input that is too short continues with zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return the next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def pick(self, choices: Sequence[_Any]) -> _Any:
        """Return the choice that the next byte names: "0" is the first one, so that inputs can be read."""
        return choices[(self.byte() - 0x30) % len(choices)]

    def rest(self) -> bytes:
        """Return all bytes that were not read yet."""
        self._at, at = len(self._data), self._at
        return self._data[at:]

    def text(self) -> str:
        """Return the rest as UTF-8; wrong bytes become lone surrogates, which no setting may accept."""
        return self.rest().decode("utf-8", "surrogateescape")


def words(text: str) -> list[str]:
    """Split a text at its blanks."""
    return text.split(" ")

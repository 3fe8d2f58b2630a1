"""The requests of each subject of one policy, kept in a temporary file.

A suggestion looks at the requests of one subject after the other, several times. The log cannot be read
again if it comes from the standard input, and its requests need not fit in memory. So the requests are
written to a file in parts: a subject's requests are all in one part, and one part is read at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from os import SEEK_END
from tempfile import TemporaryFile
from types import TracebackType
from typing import BinaryIO, NamedTuple

from limiter.keys import Key

#: The number of parts of the file.
_PARTS = 64
#: Numbers of one part that are collected before they are written: three for each request.
_CHUNK = 3 * 512


class Requests(NamedTuple):
    """The requests of one subject, in the order of time; each list has a value for each request."""

    subject: Key
    times: list[int]
    costs: list[int]
    denied: list[int]
    """1 for a request that was denied when the log was replayed, else 0."""


class Demand:
    """What the subjects of a policy requested, and whether it was denied.

    Iterating gives the requests of one subject after the other, as often as needed. Leaving its ``with``
    deletes the file.
    """

    def __init__(self, chunk: int = _CHUNK) -> None:
        self._chunk = chunk
        #: None while all requests fit in memory.
        self._file: BinaryIO | None = None
        self._numbers: dict[Key, int] = {}
        self._waiting = [array("q") for _ in range(_PARTS)]
        #: The length of each written chunk of a part, and its place in the file.
        self._written: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]

    @property
    def subjects(self) -> int:
        """The number of different subjects."""
        return len(self._numbers)

    def add(self, subject: Key, time_us: int, cost: int, is_denied: bool = False) -> None:
        """Keep a request, unless it costs nothing; it is not before an earlier one of its subject."""
        if cost <= 0:
            return
        number = self._numbers.setdefault(subject, len(self._numbers))
        part = number % _PARTS
        waiting = self._waiting[part]
        waiting.extend((number, time_us, 2 * cost + is_denied))
        if len(waiting) >= self._chunk:
            if self._file is None:
                self._file = TemporaryFile()  # noqa: SIM115 (close closes it)
            place = self._file.seek(0, SEEK_END)
            self._written[part].append((place, len(waiting) * waiting.itemsize))
            self._file.write(waiting)
            self._file.flush()  # a full disk is reported here, and not by a later call
            del waiting[:]

    def __iter__(self) -> Iterator[Requests]:
        names = list(self._numbers)
        for part in range(_PARTS):
            by_number: dict[int, Requests] = {}
            for chunk in (*self._chunks(part), self._waiting[part]):
                numbers = iter(chunk)
                for number, time_us, coded in zip(numbers, numbers, numbers, strict=True):
                    requests = by_number.get(number)
                    if requests is None:
                        requests = by_number[number] = Requests(names[number], [], [], [])
                    requests.times.append(time_us)
                    requests.costs.append(coded >> 1)
                    requests.denied.append(coded & 1)
            yield from by_number.values()

    def _chunks(self, part: int) -> Iterator[array[int]]:
        if self._file is None:
            return
        for place, length in self._written[part]:
            self._file.seek(place)
            chunk = array("q")
            chunk.frombytes(self._file.read(length))
            yield chunk

    def close(self) -> None:
        """Delete the file."""
        if self._file is not None:
            with suppress(OSError):  # a full disk does not take what is left of a chunk
                self._file.close()

    def __enter__(self) -> Demand:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

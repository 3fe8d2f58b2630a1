"""Read the entries of several logs, in the order of their time."""

from __future__ import annotations

import csv
import errno
import io
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from heapq import merge
from importlib import import_module
from itertools import islice, pairwise
from operator import itemgetter
from typing import Any, BinaryIO

from limiter.errors import LimiterError
from limiter.simulate.entry import Entry
from limiter.simulate.formats import (
    CSV,
    FORMATS,
    Numbered,
    Reader,
    Unreadable,
    columns,
    recognised,
    traefik,
)

STANDARD_INPUT = "-"

#: Lines that are read at once, and whose entries are sorted at once.
_AT_ONCE = 2**12
#: An entry that is farther ahead of those before it may have a wrong time.
_JUMP_US = 60_000_000
#: The lines from which a format is recognised.
_FIRST = 100
#: The unreadable lines that are shown, and how many characters of each.
_MOST_EXAMPLES = 5
_SHOWN = 80
#: What a reader raises for a line that is no entry: a missing key, a value of another type, and so on.
_WRONG = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    csv.Error,
)
#: How a text may begin that a program of Windows wrote.
_MARK = "\ufeff"
#: How a compressed file begins, and the module that reads it. Not every Python has all of these.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "lzma",
    b"\x28\xb5\x2f\xfd": "compression.zstd",
}

_by_time = itemgetter(0)


class UnknownFormat(LimiterError):
    """No format fits the lines of a log, or its compression."""


@dataclass
class Counts:
    """What was read.

    Attributes:
        lines: The lines of all logs.
        unreadable: Those that are no entries.
        examples: The first of these, each with its place.
        late: The entries that were left out, since they are further out of order than the tolerance, or
            far ahead of the others.
        numbered: The entries of a proxy that numbers its requests.

    """

    lines: int = 0
    unreadable: int = 0
    examples: list[str] = field(default_factory=list)
    late: int = 0
    numbered: Numbered = field(default_factory=Numbered)

    def add_unreadable(self, name: str, number: int, what: str) -> None:
        """Count an unreadable line."""
        self.unreadable += 1
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(f"{name}:{number}: {what}")


@dataclass(frozen=True)
class Reading:
    """How logs are read.

    Attributes:
        needed: The names of the header fields that the policies need, in lower case.
        format: The name of the format; None: it is recognised.
        tolerance_us: An entry that is older by up to this time than an earlier one is sorted.
        advance: Called now and then with the number of bytes that were read.

    """

    needed: Collection[str] = ()
    format: str | None = None
    tolerance_us: int = 10_000_000
    advance: Callable[[int], object] | None = None

    def entries(self, paths: Sequence[str], counts: Counts) -> Iterator[Entry]:
        """Yield the entries of logs, the earliest first; ``counts`` says what was read until then.

        A path may be ``-``, for standard input. Logs may be compressed.

        Raises:
            OSError: A log cannot be read.
            UnknownFormat: No format fits the lines of a log.

        """
        with ExitStack() as stack:
            logs = [
                self._in_order(stack.enter_context(_opened(path, counts)), counts) for path in paths
            ]
            yield from logs[0] if len(logs) == 1 else merge(*logs, key=_by_time)

    def _in_order(self, log: _Log, counts: Counts) -> Iterator[Entry]:
        """Yield the entries of one log; those within the tolerance of the newest one wait.

        An entry far ahead of those before it counts only if the next one agrees. Otherwise one wrong time
        would make all others late.
        """
        tolerance_us = self.tolerance_us
        jump_us = max(tolerance_us, _JUMP_US)
        newest_us = 0
        waiting: list[Entry] = []
        last: list[Entry] = []  # waits for its next one
        read: Reader | None = None
        while (lines := log.read()) or last:
            if read is None:
                lines[0] = lines[0].removeprefix(_MARK)
                read = self._reader(log, lines, counts)
            found = last + (log.entries(lines, read) if lines else last)
            last = found[-1:] if lines else []
            entries = waiting
            for entry, following in pairwise(found):
                time_us = entry[0]
                if time_us > newest_us:
                    if time_us > newest_us + jump_us and time_us > following[0] + jump_us:
                        counts.late += 1
                        continue
                    newest_us = time_us
                elif time_us < newest_us - tolerance_us:
                    counts.late += 1
                    continue
                entries.append(entry)
            entries.sort(key=_by_time)
            end = bisect_right(entries, newest_us - tolerance_us, key=_by_time)
            waiting = entries[end:]
            del entries[end:]
            yield from entries
            if self.advance is not None:
                self.advance(log.advanced())
        yield from waiting

    def _reader(self, log: _Log, lines: list[str], counts: Counts) -> Reader:
        """Return the reader of a log by its first lines."""
        name = self.format or _format_of(lines)
        if name is None:
            raise UnknownFormat(
                f"{log.name} has lines of no known format, such as {_shown(lines[0])}: expected "
                f"{', '.join((*FORMATS, CSV))} (whose first line names the columns, one of them time); "
                f"--format names one"
            )
        if name == "traefik":
            return traefik(self.needed, counts.numbered)
        if name != CSV:
            return FORMATS[name](self.needed)
        try:
            names = next(csv.reader(lines[:1]))
            return columns(names, self.needed)
        except Unreadable as error:
            raise UnknownFormat(f"{log.name} is no CSV for this command: {error}") from None
        finally:
            log.number += 1
            del lines[0]


class _Log:
    """A file that is read line by line."""

    def __init__(self, path: str, file: BinaryIO, counts: Counts) -> None:
        self.name = "standard input" if path == STANDARD_INPUT else path
        #: The number of the next line.
        self.number = 1
        self._file, self._counts, self._place = file, counts, 0
        self._is_damaged = False
        buffer: Any = file if hasattr(file, "peek") else io.BufferedReader(file)
        stream = _decompressed(self.name, buffer)
        self._text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="\n")

    def read(self) -> list[str]:
        """Return the next lines, none at the end."""
        lines: list[str] = []
        if self._is_damaged:
            return lines
        try:
            lines.extend(islice(self._text, _AT_ONCE))
        except Exception as error:  # the list has the lines before it
            if isinstance(error, OSError) and error.errno:
                error.filename = self.name
                raise
            # Each module has its own errors for a file that was cut, or is damaged.
            self._is_damaged = True
            place = self.number + len(lines)
            self._counts.lines += 1
            self._counts.add_unreadable(self.name, place, f"the file is damaged: {error}")
        self._counts.lines += len(lines)
        return lines

    def close(self) -> None:
        """Leave the file to its owner, who closes it."""
        self._text.detach()

    def entries(self, lines: Sequence[str], read: Reader) -> list[Entry]:
        """Return the entries of the lines, and count those that are none."""
        entries: list[Entry] = []
        for number, line in enumerate(lines, self.number):
            try:
                entries.append(read(line))
            except _WRONG as error:
                self._add_unreadable(line, number, error)
        self.number += len(lines)
        return entries

    def _add_unreadable(self, line: str, number: int, error: Exception) -> None:
        """Count a line that is no entry; an empty one does not matter."""
        if not line.strip():
            self._counts.lines -= 1
            return
        why = str(error) if isinstance(error, (Unreadable, ValueError)) else ""
        self._counts.add_unreadable(self.name, number, f"{_shown(line)}{why and f' ({why})'}")

    def advanced(self) -> int:
        """Return the number of bytes that were read since the last call; 0 if it is not known."""
        if not self._file.seekable():
            return 0
        before, self._place = self._place, self._file.tell()
        return self._place - before


def _decompressed(name: str, file: Any) -> Any:
    """Return the stream of a file's text.

    Raises:
        UnknownFormat: This Python cannot read the file's compression.

    """
    begin = file.peek(8)
    for magic, module in _COMPRESSED.items():
        if begin.startswith(magic):
            try:
                return import_module(module).open(file)
            except ImportError:
                raise UnknownFormat(
                    f"{name} is compressed, and this Python has no {module}: decompress it first, and "
                    f"give - to read standard input"
                ) from None
    return file


def _format_of(lines: Sequence[str]) -> str | None:
    for place, line in enumerate(lines[:_FIRST]):
        name = recognised(line.strip())
        if name is not None and (name != CSV or place == 0):
            return name
    return None


def _shown(line: str) -> str:
    """Return the begin of a line in quotes; bytes that are no text take several characters each."""
    line = line.rstrip()
    shown = repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")
    return shown if len(shown) <= 2 * _SHOWN else f"{shown[: 2 * _SHOWN]}...{shown[0]}"


@contextmanager
def _opened(path: str, counts: Counts) -> Iterator[_Log]:
    """Open a log; standard input stays open at the end."""
    is_input = path == STANDARD_INPUT
    if is_input and sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    with nullcontext(sys.stdin.buffer) if is_input else open(path, "rb") as file:
        log = _Log(path, file, counts)
        try:
            yield log
        finally:
            log.close()

"""Find the line of each key of a TOML text, which Python's parser does not report."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "policy files on Python 3.10 need tomli: in a checkout of slotgate, pip install '.[policies]'",
            name=error.name,
        ) from None

loads = tomllib.loads

#: The place of a value: the keys that lead to it, and indexes in lists.
Path = tuple[str | int, ...]

_STRING = re.compile(
    r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"[^"\\]*(?:\\.[^"\\]*)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_CLOSES = {"[": "]", "{": "}"}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_BLANKS = re.compile(r"[ \t]*")
_VOID = re.compile(r"[ \t\r\n]*(?:#[^\n]*[ \t\r\n]*)*")

#: Length of a path; a policy file needs seven.
_MOST_PARTS = 16
#: Keys and elements of a text; each takes memory here, and more in the parser.
_MOST_PLACES = 100_000


class TooMuch(Exception):
    """A TOML text would take too much memory or time; ``text`` is the fault, ``line`` its place."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


def lines_of(text: str) -> dict[Path, int]:
    """The line of every key, and of every element of a list, in a TOML text.

    The parser must check that the text is TOML: this function does not.

    Raises:
        TooMuch: The text is nested too deep, or has too many keys and elements, also for the parser.

    """
    return _Scanner(text).lines


class _Scanner:
    """Walks over the text; finds where values begin and end, and does not read them."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        #: The last position whose line was counted; positions only grow.
        self._line, self._line_at = 1, 0
        #: Number of tables in each [[list of tables]] so far, less one.
        self._tables: dict[Path, int] = {}
        table: Path = ()
        self._pass(_VOID)
        while self._at < len(text):
            if text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._pass(_VOID)

    def _pass(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:  # not TOML after all
            self._at = len(self._text)
            return ""
        self._at = match.end()
        return match[0]

    def _note(self, path: Path, line: int) -> None:
        for end in range(1, len(path) + 1):
            self.lines.setdefault(path[:end], line)
        if len(self.lines) > _MOST_PLACES:
            raise TooMuch(line, f"has more than {_MOST_PLACES:,} keys and elements: expected fewer")

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._line_at, self._at)
        self._line_at = self._at
        return self._line

    def _header(self) -> Path:
        line, is_list = self._line_here(), self._text.startswith("[[", self._at)
        self._at += 1 + is_list
        path: Path = ()
        keys = list(self._keys())
        for place, key in enumerate(keys):
            path = _bounded((*path, key), line)
            if place == len(keys) - 1 and is_list:
                self._note(path, line)
                self._tables[path] = self._tables.get(path, -1) + 1
            if path in self._tables:
                path = (*path, self._tables[path])
        self._note(path, line)
        self._at += 1 + is_list
        return path

    def _pair(self, table: Path) -> None:
        line = self._line_here()
        path = _bounded((*table, *self._keys()), line)
        self._note(path, line)
        self._at += 1  # the equals sign
        self._pass(_BLANKS)
        self._value(path)

    def _keys(self) -> Iterator[str]:
        """The parts of a dotted key; the position is then at the sign that ends it."""
        for _ in range(_MOST_PARTS + 1):  # one more is too deep
            if self._at >= len(self._text):
                return
            self._pass(_BLANKS)
            if self._text[self._at : self._at + 1] in ('"', "'"):
                yield _unquoted(self._pass(_STRING))
            else:
                yield self._pass(_BARE_KEY)
            self._pass(_BLANKS)
            if self._text[self._at : self._at + 1] != ".":
                return
            self._at += 1

    def _value(self, path: Path) -> None:
        opens = self._text[self._at : self._at + 1]
        if opens in _CLOSES:
            self._several(path, _CLOSES[opens])
        elif opens in ('"', "'"):
            self._pass(_STRING)
        else:
            self._pass(_SCALAR)

    def _several(self, path: Path, closes: str) -> None:
        _bounded((*path, 0), self._line_here())
        self._at += 1
        place = 0
        self._pass(_VOID)
        while self._at < len(self._text) and self._text[self._at] != closes:
            before = self._at
            if closes == "}":
                self._pair(path)
            else:
                self._note((*path, place), self._line_here())
                self._value((*path, place))
            place += 1
            self._pass(_VOID)
            if self._text[self._at : self._at + 1] == ",":
                self._at += 1
            self._pass(_VOID)
            if self._at == before:  # not TOML after all
                self._at = len(self._text)
        self._at += 1


def _bounded(path: Path, line: int) -> Path:
    """The path; raises TooMuch if it is nested too deep."""
    if len(path) > _MOST_PARTS:
        raise TooMuch(line, f"is nested deeper than {_MOST_PARTS}: expected less")
    return path


def _unquoted(text: str) -> str:
    if text.startswith("'") or "\\" not in text:
        return text[1:-1]
    try:
        key: str = loads(f"key = {text}")["key"]
    except ValueError:  # not TOML after all
        return text[1:-1]
    return key

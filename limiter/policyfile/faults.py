"""All faults of a policy file, each with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, time
from typing import Any, NamedTuple

from limiter.errors import Invalid, InvalidSetting, LimiterError
from limiter.errors import shown as python_shown
from limiter.policyfile.lines import Path


class Fault(NamedTuple):
    """One fault and its place."""

    file: str
    line: int
    key: str
    """The key's full name, as in ``policies.api.limits``; empty for a fault of the whole file."""
    message: str
    """What is wrong, and what is accepted."""
    is_sentence: bool = False
    """Whether ``message`` is a whole sentence; else it continues the name of the key or the file."""

    def __str__(self) -> str:
        between = ": " if self.is_sentence else " "
        return (
            f"{self.file}:{self.line}: "
            + (f"{self.key}{between}" if self.key else "")
            + self.message
        )

    def to_dict(self) -> dict[str, Any]:
        """The file, line, key and fault, ready for JSON."""
        return {"file": self.file, "line": self.line, "key": self.key, "message": self.message}


#: Further faults are only counted: a file of another kind would have one for each line.
MOST_FAULTS = 100
_LONGEST_SHOWN = 120
#: A key that may be a misspelled known one. Others are not shown, since they may be secrets.
_WORD = re.compile(r"[A-Za-z_-]{1,20}")


class InvalidPolicyFile(InvalidSetting):
    """A policy file cannot be used; ``faults`` has all reasons, and the message one in each line."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)

    def __reduce__(self) -> tuple[type[InvalidPolicyFile], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)


class Notes:
    """Collects faults, each with its place in the file."""

    def __init__(self, file: str, lines: Mapping[Path, int]) -> None:
        self.faults: list[Fault] = []
        #: The number of faults, also of faults that are not kept.
        self.count = 0
        #: Path patterns that were read.
        self.patterns = 0
        self._file = file
        self._lines = lines

    def add(self, path: Path, text: str, is_sentence: bool = False, hides: bool = False) -> None:
        """Add a fault at a place: the text names the value and what is accepted.

        ``hides``: the last key may be a secret, so that only its line is shown.
        """
        self.count += 1
        if not self.is_full:
            key = spelled((*path[:-1], "*") if hides else path)
            self.faults.append(Fault(self._file, self.line(path), key, text, is_sentence))

    def refuse(self, path: Path, error: LimiterError) -> None:
        """Add an error of the library as the fault of a place."""
        if isinstance(error, Invalid) and error.setting in ("value", "path", path[-1]):
            self.add(path, error.predicate)
        else:
            self.add(path, str(error), True)

    @property
    def is_full(self) -> bool:
        """Whether further faults are only counted."""
        return len(self.faults) >= MOST_FAULTS

    @property
    def all_faults(self) -> list[Fault]:
        """The faults that are kept, by line, and the number of the others."""
        faults = sorted(self.faults, key=lambda fault: fault.line)
        if self.count > len(faults):
            text = f"has {self.count - len(faults)} more faults, which are left out"
            faults.append(Fault(self._file, 1, "", text))
        return faults

    def line(self, path: Path) -> int:
        """The line of a place; if the place is missing, of the table or list around it."""
        around = (path[:end] for end in range(len(path), 0, -1))
        return next((self._lines[place] for place in around if place in self._lines), 1)

    def read(self, path: Path, reader: Callable[[Any], Any], value: Any) -> Any:
        """The result of a reader for a value; None, and a fault, if the reader refuses it."""
        try:
            return reader(value)
        except LimiterError as error:
            self.refuse(path, error)
            return None

    def table(
        self, path: Path, value: Any, known: Iterable[str] | None, is_secret: bool = False
    ) -> dict[str, Any]:
        """A table with known keys only; the others are left out, and each is a fault."""
        if not isinstance(value, dict):
            what = f"a {type(value).__name__}" if is_secret else shown(value)
            self.add(path, f"is {what}: expected a table")
            return {}
        if known is None:
            return value
        known = list(known)
        for key in value:
            if key not in known:
                # A subject may be here by mistake, under the wrong [table].
                is_word = _WORD.fullmatch(key) is not None and not self.is_full
                close = difflib.get_close_matches(key, known, 1) if is_word else []
                meant = f"did you mean {close[0]}? " if close else ""
                accepted = f"is not a key of this table: {meant}expected {', '.join(known)}"
                self.add((*path, key), accepted, hides=not is_word)
        return {key: value[key] for key in known if key in value}


def spelled(path: Path) -> str:
    """The place as a key, written as in TOML."""
    key = ""
    for before, part in zip(("", *path), path, strict=False):
        if before == "overrides":  # a subject, which may be a secret: the line is enough
            key += ".*"
        elif isinstance(part, int):
            key += f"[{part}]"
        else:
            part = shortened(part)
            quoted = part if re.fullmatch(r"[A-Za-z0-9_-]+|\*", part) else f'"{part}"'
            key += f".{quoted}" if key else quoted
    return key


def shown(value: object) -> str:
    """A wrong value for a message, written as in TOML if that is short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return shortened(value.isoformat() if isinstance(value, (date, time)) else python_shown(value))


def shortened(text: str) -> str:
    """A text for a message, cut to a bounded length."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."

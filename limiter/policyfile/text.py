"""Read the text of a policy file within bounds, and parse it with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from limiter.policyfile.faults import Fault, InvalidPolicyFile
from limiter.policyfile.lines import Path, TooMuch, lines_of, loads

#: A longer file is a mistake, and would delay requests for seconds.
MOST_BYTES = 2**19


def text_of(path: str) -> str:
    """The file's text.

    Raises:
        InvalidPolicyFile: The file cannot be read, is too long, or is not UTF-8.

    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) <= MOST_BYTES:
            return raw.decode("utf-8-sig")
        text = f"is longer than {MOST_BYTES:,} bytes: expected a shorter file"
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        text = f"is not UTF-8 (byte {error.start}): expected TOML in UTF-8"
    raise InvalidPolicyFile([Fault(path, 1, "", text)])


def parsed(text: str, file: str) -> tuple[dict[str, Any], Mapping[Path, int]]:
    """The tables of a TOML text, and the line of each key.

    Raises:
        InvalidPolicyFile: The text is not TOML, or too large; the parser reports its first fault only.

    """
    try:
        lines = lines_of(text)  # first, since the parser has no bounds
        return loads(text), lines
    except TooMuch as error:
        fault = Fault(file, error.line, "", error.text)
    except ValueError as error:  # TOMLDecodeError, or a number that is too long for Python
        fault = _not_toml(text, file, str(error))
    raise InvalidPolicyFile([fault])


#: The parser's messages that quote keys or values, which may be secrets; and what replaces them.
_QUOTING = {
    "Cannot declare": "a table is declared twice",
    "Cannot mutate immutable namespace": "a complete table or list is extended",
    "Duplicate inline table key": "an inline table has a key twice",
}
#: A single quoted character: the parser shows an unexpected one.
_QUOTED_CHARACTER = re.compile(r"""'(?:[^']|\\(?:x..|u.{4}|U.{8}|.))'|"'\"""")


def _not_toml(text: str, file: str, message: str) -> Fault:
    """The parser's fault, with at most one character of the text."""
    where = re.search(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)$", message)
    line = int(where[1]) if where and where[1] else text.count("\n") + 1
    place = where[0] if where else ""
    why = message.removesuffix(place)
    for begins, instead in _QUOTING.items():
        if why.startswith(begins):
            why = instead
    if re.search("['\"]", _QUOTED_CHARACTER.sub("", why)):
        why = "the parser does not understand it"
    return Fault(file, line, "", f"is not TOML: {why}{place}")

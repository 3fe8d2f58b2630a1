"""What may stand in a policy file, key by key; everything that is wrong is noted, with its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, time
from functools import partial
from ipaddress import IPv6Network, ip_network
from typing import Any

from limiter.errors import Invalid, InvalidPolicy, InvalidSetting, LimiterError
from limiter.errors import shown as python_shown
from limiter.grammar import parse_limits
from limiter.policies import ALGORITHMS, Concurrency, Policy
from limiter.policyfile import costs
from limiter.policyfile.faults import MOST_FAULTS, Fault
from limiter.policyfile.lines import Path
from limiter.settings import check_on_error, check_seconds, check_share
from limiter.web.headers import FORMS
from limiter.web.new_subjects import NewSubjects
from limiter.web.paths import pattern
from limiter.web.rules import UNIDENTIFIED
from limiter.web.subjects import HEADER, identity

#: What a policy may say, and what [defaults] may say for all of them.
POLICY_KEYS = (
    "limits",
    "algorithm",
    "key",
    "match",
    "cost",
    "on_error",
    "timeout",
    "local_share",
    "headers",
    "shadow",
    "percent",
    "exempt",
    "overrides",
    "unidentified",
    "preflights",
    "new_subjects",
)
DEFAULT_KEYS = tuple(key for key in POLICY_KEYS if key not in ("limits", "match", "overrides"))

_ALGORITHMS: dict[str, Any] = {**ALGORITHMS, Concurrency.algorithm: Concurrency}
_METHOD = re.compile(r"[A-Za-z]{1,32}")
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_LONGEST_SHOWN = 120
#: A key that may be a misspelled one of ours; others are not shown.
_WORD = re.compile(r"[A-Za-z_-]{1,20}")
#: Of a file: each pattern takes a millisecond or two to read.
_MOST_PATHS = 2_000
_MOST_LIMITS = 100


class Notes:
    """Gathers what is wrong, each with its place in the file."""

    def __init__(self, file: str, lines: Mapping[Path, int]) -> None:
        self.faults: list[Fault] = []
        #: How many there are, also of those that are not kept.
        self.count = 0
        #: Path patterns that were read.
        self.patterns = 0
        self._file = file
        self._lines = lines

    def add(self, path: Path, said: str, is_sentence: bool = False, hides: bool = False) -> None:
        """Something is wrong at a place: say what it is, and what is accepted.

        ``hides``: the last key may be a secret; the line tells which it is.
        """
        self.count += 1
        if not self.is_full:
            key = spelled((*path[:-1], "*") if hides else path)
            self.faults.append(Fault(self._file, self.line(path), key, said, is_sentence))

    def refuse(self, path: Path, error: LimiterError) -> None:
        """The library refuses what stands at a place."""
        if isinstance(error, Invalid) and error.setting in ("value", "path", path[-1]):
            self.add(path, error.predicate)
        else:
            self.add(path, str(error), True)

    @property
    def is_full(self) -> bool:
        """Whether further faults are counted only."""
        return len(self.faults) >= MOST_FAULTS

    @property
    def all_faults(self) -> list[Fault]:
        """The faults that are kept, by line, and how many there are beside them."""
        found = sorted(self.faults, key=lambda fault: fault.line)
        if self.count > len(found):
            more = f"has {self.count - len(found)} more faults, which are left out"
            found.append(Fault(self._file, 1, "", more))
        return found

    def line(self, path: Path) -> int:
        """The line of a place; where that is missing, of what surrounds it."""
        around = (path[:end] for end in range(len(path), 0, -1))
        return next((self._lines[one] for one in around if one in self._lines), 1)

    def read(self, path: Path, reader: Callable[[Any], Any], value: Any) -> Any:
        """What the reader makes of a value; None, and a note, where it refuses it."""
        try:
            return reader(value)
        except LimiterError as error:
            self.refuse(path, error)
            return None

    def table(
        self, path: Path, value: Any, known: Iterable[str] | None, is_secret: bool = False
    ) -> dict[str, Any]:
        """A table with none but the known keys; what is wrong with it is noted, and left out."""
        if not isinstance(value, dict):
            said = f"a {type(value).__name__}" if is_secret else shown(value)
            self.add(path, f"is {said}: accepted is a table")
            return {}
        if known is None:
            return value
        known = list(known)
        for key in value:
            if key not in known:
                # A subject may stand here by mistake, under the wrong header.
                is_word = _WORD.fullmatch(key) is not None and not self.is_full
                close = difflib.get_close_matches(key, known, 1) if is_word else []
                meant = f"did you mean {close[0]}? " if close else ""
                accepted = f"is no key here: {meant}accepted are {', '.join(known)}"
                self.add((*path, key), accepted, hides=not is_word)
        return {key: value[key] for key in known if key in value}


def spelled(path: Path) -> str:
    """The place as a key, as TOML would spell it."""
    found = ""
    for before, part in zip(("", *path), path, strict=False):
        if before == "overrides":  # a subject, and perhaps a secret: the line tells which
            found += ".*"
        elif isinstance(part, int):
            found += f"[{part}]"
        else:
            part = shortened(part)
            quoted = part if re.fullmatch(r"[A-Za-z0-9_-]+|\*", part) else f'"{part}"'
            found += f".{quoted}" if found else quoted
    return found


def shown(value: object) -> str:
    """A wrong value, for a message: as TOML has it where that is short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return shortened(value.isoformat() if isinstance(value, (date, time)) else python_shown(value))


def shortened(text: str) -> str:
    """A text for a message, which may be as long as the file."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def read_policy(notes: Notes, path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a policy's keys say, read, but for its limits; None for what is wrong."""
    found: dict[str, Any] = {}
    for key, reader in _READERS.items():
        if key in said:
            found[key] = notes.read((*path, key), reader, said[key])
    if "match" in said:
        found["match"] = _read_match(notes, (*path, "match"), said["match"])
    if "cost" in said:
        found["cost"] = _read_cost(notes, (*path, "cost"), said["cost"])
    if "exempt" in said:
        found["exempt"] = _read_exempt(notes, (*path, "exempt"), said["exempt"])
    return found


def read_limits(
    notes: Notes, path: Path, value: Any, algorithm: str | None
) -> tuple[Policy, ...] | None:
    """The policies that a limit string means, or a table, or a list of both; None with a note."""
    if isinstance(value, str) and ";" in value:
        # Each by itself, so that each one's fault is said; together they may still be one too many.
        parts = [part for part in value.split(";") if part.strip()]
        if len(parts) > _MOST_LIMITS:
            notes.add(path, f"has {len(parts)} limits: accepted are up to {_MOST_LIMITS}")
            return None
        if None in [read_limits(notes, path, part, algorithm) for part in parts]:
            return None
    if isinstance(value, list):
        if not value:
            notes.add(path, "is []: accepted is at least one limit")
            return None
        if len(value) > _MOST_LIMITS:
            notes.add(path, f"has {len(value)} limits: accepted are up to {_MOST_LIMITS}")
            return None
        several = [
            read_limits(notes, (*path, place), one, algorithm) for place, one in enumerate(value)
        ]
        whole = [one for one in several if one is not None]
        return sum(whole, ()) if len(whole) == len(several) else None
    if isinstance(value, str):
        found: tuple[Policy, ...] | None = notes.read(
            path, lambda text: parse_limits(text, algorithm), value
        )
        return found
    if isinstance(value, dict):
        return _read_limit_table(notes, path, value, algorithm)
    notes.add(
        path,
        f"is {shown(value)}: accepted are a limit string as in '100/minute', a table as in "
        f"{{algorithm = 'token_bucket', limit = 100, per = 'minute', burst = 20}}, and a list of these",
    )
    return None


def _read_limit_table(
    notes: Notes, path: Path, value: dict[str, Any], algorithm: str | None
) -> tuple[Policy, ...] | None:
    name = value.get("algorithm", algorithm)
    if name is None:
        notes.add((*path, "algorithm"), f"is missing: accepted are {', '.join(_ALGORITHMS)}")
        return None
    if notes.read((*path, "algorithm"), _any_algorithm, name) is None:
        return None
    kind = _ALGORITHMS[name]
    known = ["algorithm", "limit", "name", "lease" if kind is Concurrency else "per"]
    known += ["max_hold"] if kind is Concurrency else []
    known += ["burst"] if kind.has_burst else []
    known += ["align"] if name == "fixed_window" else []
    given = notes.table(path, value, known)
    given.pop("algorithm", None)
    before = notes.count
    for key in known[1:4:2]:
        if key not in given and key != "lease":
            notes.add((*path, key), f"is missing: accepted are {', '.join(known)}")
    # Each by itself, beside others that are right; then all together.
    right: dict[str, Any] = {"limit": 1, "per": 60}
    if kind is Concurrency:
        right = {"limit": 1, "lease": "1ms"}
    for key, one in given.items():
        _try(notes, (*path, key), kind, {**right, key: one})
    return _try(notes, path, kind, given) if notes.count == before else None


def _try(notes: Notes, path: Path, kind: Any, given: Mapping[str, Any]) -> tuple[Policy] | None:
    try:
        return (kind(**given),)
    except InvalidPolicy as error:
        notes.refuse(path, error)
        return None


def _key(value: Any) -> tuple[str, ...]:
    identity(value)
    return (value,) if isinstance(value, str) else tuple(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidSetting.of("value", shown(value), "accepted are true and false")


def _preflights(value: Any) -> bool | str:
    if isinstance(value, bool) or value == "apart":
        return value  # type: ignore[no-any-return]
    raise InvalidSetting.of("value", shown(value), "accepted are 'apart', true and false")


def _choice(*accepted: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if isinstance(value, str) and value in accepted:
            return value
        raise InvalidSetting.of("value", shown(value), f"accepted are {', '.join(accepted)}")

    return read


#: Of rates; leases are counted by a table of their own.
_algorithm = _choice(*ALGORITHMS)
_any_algorithm = _choice(*_ALGORITHMS)


def _percent(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100:
        return float(value)
    raise InvalidSetting.of("value", shown(value), "accepted is a number from 0 to 100")


_READERS: dict[str, Callable[[Any], Any]] = {
    "algorithm": _algorithm,
    "key": _key,
    "on_error": check_on_error,
    "timeout": partial(check_seconds, "timeout"),
    "local_share": check_share,
    "headers": _choice(*FORMS),
    "shadow": _flag,
    "percent": _percent,
    "unidentified": _choice(*UNIDENTIFIED),
    "preflights": _preflights,
    "new_subjects": NewSubjects,
}


def _read_match(notes: Notes, path: Path, value: Any) -> dict[str, Any]:
    readers = {"paths": _pattern, "methods": _method, "hosts": _host}
    return _read_lists(notes, path, value, readers, some=True, flags=("ignore_case",))


def _read_exempt(notes: Notes, path: Path, value: Any) -> dict[str, Any]:
    readers = {"networks": _network, "keys": _subject, "paths": _pattern}
    return _read_lists(notes, path, value, readers, some=False)


def _read_lists(
    notes: Notes,
    path: Path,
    value: Any,
    readers: Mapping[str, Callable[[Any], Any]],
    some: bool,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """A table of lists and flags; ``some``: an empty list would mean the opposite of what it says."""
    found: dict[str, Any] = {}
    known = (*readers, *flags)
    # A table of subjects may have been meant, and those may be secrets.
    for key, listed in notes.table(path, value, known, is_secret="keys" in readers).items():
        if key in flags:
            found[key] = notes.read((*path, key), _flag, listed)
            continue
        if not isinstance(listed, list) or (some and not listed):
            least = "a list of at least one" if some else "a list"
            # Subjects may be secrets.
            said = f"a {type(listed).__name__}" if key == "keys" else shown(listed)
            notes.add((*path, key), f"is {said}: accepted is {least}")
            continue
        if readers[key] is _pattern:
            notes.patterns += len(listed)
            if notes.patterns > _MOST_PATHS:
                notes.add(
                    (*path, key), f"is one pattern too many: accepted are {_MOST_PATHS:,} a file"
                )
                continue
        found[key] = tuple(
            notes.read((*path, key, place), readers[key], one) for place, one in enumerate(listed)
        )
    return found


def _read_cost(notes: Notes, path: Path, value: Any) -> Any:
    if isinstance(value, dict):
        if list(value) == ["header"]:
            return notes.read((*path, "header"), _cost_header, value["header"])
        if list(value) == ["body"]:
            size = notes.read((*path, "body"), costs.size_of, value["body"])
            return None if size is None else costs.by_body(size)
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    notes.add(
        path,
        f"is {shown(value)}: accepted are a whole number from 1, {{header = 'X-Cost'}} and "
        f"{{body = '1KiB'}}",
    )
    return None


def _cost_header(value: Any) -> Any:
    if isinstance(value, str) and HEADER.fullmatch(value):
        return costs.ByHeader(value)
    raise InvalidSetting.of("value", shown(value), "accepted is the name of a header (without _)")


def _pattern(value: Any) -> Any:
    if not isinstance(value, str):
        raise InvalidSetting.of("value", shown(value), "accepted is a pattern that begins with /")
    return pattern(value)


def _method(value: Any) -> str:
    if isinstance(value, str) and _METHOD.fullmatch(value):
        return value.upper()
    raise InvalidSetting.of("value", shown(value), "accepted is a method, as in 'GET'")


def _host(value: Any) -> str:
    if isinstance(value, str) and _HOST.fullmatch(value.lower()):
        return value.lower()
    raise InvalidSetting.of(
        "value",
        shown(value),
        "accepted is a host without a port, as in 'api.example.com' or '*.example.com'",
    )


def _network(value: Any) -> Any:
    try:
        if isinstance(value, str):
            found = ip_network(value)
            if not (isinstance(found, IPv6Network) and found[0].ipv4_mapped):
                return found
        why = " (IPv4 in IPv6)" if isinstance(value, str) else ""
    except ValueError as error:
        why = f" ({error})"
    raise InvalidSetting.of(
        "value", f"{shown(value)}{why}", "accepted is a network, as in '10.0.0.0/8', or an address"
    )


def _subject(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    # Whatever it is, it may be a secret.
    said = f"a {type(value).__name__} that names nobody"
    raise InvalidSetting.of("value", said, "accepted is a text")

"""The keys of a policy file, and the readers of their values, which collect faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import IPv6Network, ip_network
from typing import Any, NamedTuple

from limiter.errors import InvalidSetting
from limiter.keys import NAME
from limiter.policies import ALGORITHMS
from limiter.policyfile import costs
from limiter.policyfile.faults import Notes, shown
from limiter.policyfile.lines import Path
from limiter.settings import (
    check_denial_cache,
    check_on_error,
    check_prepaid,
    check_seconds,
    check_share,
)
from limiter.web.by_response import STATUS, statuses
from limiter.web.headers import FORMS
from limiter.web.match import pattern
from limiter.web.new_subjects import NewSubjects
from limiter.web.plans import Classes
from limiter.web.rules import UNIDENTIFIED
from limiter.web.subjects import HEADER, identity
from limiter.web.trusted_field import TrustedField

_METHOD = re.compile(r"[A-Za-z]{1,32}")
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", re.IGNORECASE | re.ASCII)
#: Reads the value at a place; a wrong value is added to the notes.
Reader = Callable[[Notes, Path, Any], Any]

#: Patterns of a file; each takes a millisecond or two to read.
_MOST_PATHS = 2_000
_MOST_CLASSES = 16
#: What names of policies, plans and classes may have.
NAMES = "expected 1 to 64 of A-Z a-z 0-9 _ . -"


def _key(value: Any) -> tuple[str, ...]:
    identity(value)
    return (value,) if isinstance(value, str) else tuple(value)


def _checked(
    is_right: Callable[[Any], bool],
    accepted: str,
    meaning: Callable[[Any], Any] = lambda value: value,
) -> Callable[[Any], Any]:
    """A reader that checks a value, and returns its meaning."""

    def read(value: Any) -> Any:
        if not is_right(value):
            raise InvalidSetting.of("value", shown(value), accepted)
        return meaning(value)

    return read


def choice(*accepted: str) -> Callable[[Any], Any]:
    """A reader of one of a few texts."""
    return _checked(
        lambda value: isinstance(value, str) and value in accepted,
        f"expected {', '.join(accepted)}",
    )


def _fitting(expression: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and expression.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_percent(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


_A_HEADER = "expected the name of a header field (without _)"
_flag = _checked(lambda value: isinstance(value, bool), "expected true or false")
_preflights = _checked(
    lambda value: isinstance(value, bool) or value == "apart",
    "expected 'apart', true or false",
)
_percent = _checked(_is_percent, "expected a number from 0 to 100", float)
_pattern = _checked(
    lambda value: isinstance(value, str), "expected a pattern that begins with /", pattern
)
_method = _checked(_fitting(_METHOD), "expected a method, as in 'GET'", str.upper)
_host = _checked(
    _fitting(_HOST),
    "expected a host without a port, as in 'api.example.com' or '*.example.com'",
    str.lower,
)
_cost_header = _checked(_fitting(HEADER), _A_HEADER, costs.ByHeader)
_plan_header = _checked(
    _fitting(HEADER), _A_HEADER, lambda name: TrustedField(name, f"plans by {name} do not count")
)
_class_header = _checked(
    _fitting(HEADER),
    _A_HEADER,
    lambda name: TrustedField(name, f"classes by {name} do not count: each call is of the lowest"),
)
_share_of_limits = _checked(_is_share, "expected a number above 0, up to 1", float)
_true_cost_header = _checked(_fitting(HEADER), _A_HEADER)
_status = _checked(lambda value: bool(statuses(value)), STATUS, statuses)


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
        f"is {shown(value)}: expected a whole number from 1, {{header = 'X-Cost'}} and "
        f"{{body = '1KiB'}}",
    )
    return None


def _by_header(read: Callable[[Any], Any], example: str) -> Reader:
    """A reader of a table that names a header field."""

    def read_field(notes: Notes, path: Path, value: Any) -> Any:
        if isinstance(value, dict) and list(value) == ["header"]:
            return notes.read((*path, "header"), read, value["header"])
        notes.add(path, f"is {shown(value)}: expected {{header = '{example}'}}")
        return None

    return read_field


def _read_classes(notes: Notes, path: Path, value: Any) -> Classes | None:
    names = [name for name in value if name != "header"] if isinstance(value, dict) else []
    if not 1 <= len(names) <= _MOST_CLASSES:
        notes.add(
            path,
            f"is {shown(value)}: expected a header field, and 1 to {_MOST_CLASSES} classes with their "
            f"shares of the limits, as in {{header = 'X-Priority', low = 0.8, critical = 1.0}}",
        )
        return None
    before, named_by = notes.count, None
    if "header" in value:
        named_by = notes.read((*path, "header"), _class_header, value["header"])
    else:
        notes.add((*path, "header"), "is missing: expected the name of a header field")
    shares = {}
    for name in names:
        if not NAME.fullmatch(name):
            notes.add((*path, name), f"is not a name of a class: {NAMES}")
        shares[name] = notes.read((*path, name), _share_of_limits, value[name])
    return Classes(shares, named_by) if notes.count == before else None


def _network(value: Any) -> Any:
    try:
        if isinstance(value, str):
            network = ip_network(value)
            if not (isinstance(network, IPv6Network) and network[0].ipv4_mapped):
                return network
        why = " (IPv4 in IPv6)" if isinstance(value, str) else ""
    except ValueError as error:
        why = f" ({error})"
    raise InvalidSetting.of(
        "value", f"{shown(value)}{why}", "expected a network, as in '10.0.0.0/8', or an address"
    )


def _subject(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    # Not shown: it may be a secret.
    what = f"a {type(value).__name__} that names no subject"
    raise InvalidSetting.of("value", what, "expected a text")


def check_prefix(value: Any) -> str:
    """Check and return the ``key_prefix`` of a plan."""
    if isinstance(value, str) and value:
        return value
    what = f"a {type(value).__name__} that begins no subject"  # not shown, as above
    raise InvalidSetting.of("value", what, "expected a text")


def _value(read: Callable[[Any], Any]) -> Reader:
    """A reader of a whole value; a refused value is a fault at its place."""
    return lambda notes, path, value: notes.read(path, read, value)


def _list(read: Callable[[Any], Any], is_filled: bool = False, is_secret: bool = False) -> Reader:
    """A reader of a list; ``is_filled``: it may not be empty, since an empty match matches all."""

    def read_list(notes: Notes, path: Path, value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, list) or (is_filled and not value):
            what = f"a {type(value).__name__}" if is_secret else shown(value)
            least = " of at least one" if is_filled else ""
            notes.add(path, f"is {what}: expected a list{least}")
            return None
        if read is _pattern:
            notes.patterns += len(value)
            if notes.patterns > _MOST_PATHS:
                notes.add(path, f"is one pattern too many: expected {_MOST_PATHS:,} a file")
                return None
        return tuple(notes.read((*path, place), read, part) for place, part in enumerate(value))

    return read_list


def _table(readers: Mapping[str, Reader], is_secret: bool = False) -> Reader:
    """A reader of a table; wrong keys are left out. ``is_secret``: it may contain subjects."""

    def read_table(notes: Notes, path: Path, value: Any) -> dict[str, Any]:
        table = notes.table(path, value, readers, is_secret)
        values = {key: readers[key](notes, (*path, key), part) for key, part in table.items()}
        return {key: value for key, value in values.items() if value is not None}

    return read_table


#: The keys of a plan.
PLAN_KEYS = ("limits", "keys", "key_prefix")
#: Reads a list of names of subjects; a wrong one is None.
read_subjects = _list(_subject, is_secret=True)


class Key(NamedTuple):
    """How a key of a policy is read."""

    read: Reader | None
    """Reads its value; None: it is read when the other keys are known."""
    left_out: Any = None
    """The value if neither the policy nor [defaults] has the key."""
    is_shared: bool = True
    """Whether [defaults] may have it for all policies."""


#: The keys of a policy, in the order of the documentation.
KEYS = {
    "limits": Key(None, is_shared=False),
    "algorithm": Key(_value(choice(*ALGORITHMS))),  # of rates; leases are written as a table
    "key": Key(_value(_key), "address"),
    "match": Key(
        _table(
            {
                "paths": _list(_pattern, is_filled=True),
                "methods": _list(_method, is_filled=True),
                "hosts": _list(_host, is_filled=True),
                "ignore_case": _value(_flag),
            }
        ),
        is_shared=False,
    ),
    "cost": Key(_read_cost, 1),
    "refund_unless": Key(_list(_status, is_filled=True)),
    "true_cost": Key(_by_header(_true_cost_header, "X-Tokens-Used")),
    "cap": Key(_value(_flag)),
    "on_error": Key(_value(check_on_error)),
    "timeout": Key(_value(partial(check_seconds, "timeout"))),
    "local_share": Key(_value(check_share)),
    "denial_cache": Key(_value(check_denial_cache)),
    "prepaid": Key(_value(check_prepaid)),
    "prepaid_hold": Key(_value(partial(check_seconds, "prepaid_hold"))),
    "headers": Key(_value(choice(*FORMS)), "draft-11"),
    "shadow": Key(_value(_flag), False),
    "percent": Key(_value(_percent), 100),
    "exempt": Key(
        _table(
            {
                "networks": _list(_network),
                "keys": read_subjects,
                "paths": _list(_pattern),
            },
            is_secret=True,
        )
    ),
    "overrides": Key(None, is_shared=False),
    "plan": Key(_by_header(_plan_header, "X-Plan")),
    "plans": Key(None, is_shared=False),
    "class": Key(_read_classes),
    "unidentified": Key(_value(choice(*UNIDENTIFIED)), "refuse"),
    "preflights": Key(_value(_preflights), "apart"),
    "new_subjects": Key(_value(NewSubjects)),
}
SHARED_KEYS = tuple(name for name, key in KEYS.items() if key.is_shared)
#: Settings of the policy's limiter; missing ones are those of ``Policies``.
LIMITER_KEYS = (
    "cap",
    "on_error",
    "timeout",
    "local_share",
    "denial_cache",
    "prepaid",
    "prepaid_hold",
)
#: Settings that need the response.
BY_RESPONSE = ("refund_unless", "true_cost")
LEFT_OUT = {name: key.left_out for name, key in KEYS.items() if key.left_out is not None}


def read_keys(notes: Notes, path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a table's keys, except limits, overrides and plans; None for a wrong one."""
    return {
        name: key.read(notes, (*path, name), table[name])
        for name, key in KEYS.items()
        if key.read is not None and name in table
    }

"""The text of a policy file, made into rules; or everything that is wrong with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from limiter.client import Limiter
from limiter.errors import InvalidCost, LimiterError
from limiter.keys import NAME
from limiter.policies import Policy
from limiter.policyfile import costs
from limiter.policyfile.advice import warnings
from limiter.policyfile.faults import Fault, InvalidPolicyFile
from limiter.policyfile.lines import Path, TooMuch, lines_of
from limiter.policyfile.schema import (
    DEFAULT_KEYS,
    POLICY_KEYS,
    Notes,
    read_limits,
    read_policy,
    shortened,
    shown,
)
from limiter.web import limiter_calls
from limiter.web.identity import ADDRESS_FROM
from limiter.web.new_subjects import NewSubjects
from limiter.web.rules import Match, Rule
from limiter.web.subjects import findable, identity, is_chosen, meant

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

#: A longer file is a mistake; it would be read in seconds, while others wait.
MOST_BYTES = 2**19
_MOST_POLICIES = 1_000
#: Of [defaults], times the policies, each of which has its own key and so its own subjects.
_MOST_SHARED_KEYS = 100_000

_TOP = ("default", "address_from", "defaults", "policies")
#: The default policy's name, where the file names no other.
_DEFAULT = "default"
#: What a policy says for itself when neither it nor [defaults] says it.
_LEFT_OUT: dict[str, Any] = {
    "key": "address",
    "cost": 1,
    "headers": "draft-11",
    "shadow": False,
    "percent": 100,
    "unidentified": "refuse",
    "preflights": "apart",
}

_READ_LEFT_OUT = read_policy(Notes("", {}), (), _LEFT_OUT)

#: Subjects by what finds them, where no client chooses them.
_EXAMPLES = {"address": "203.0.113.9", "global": "global"}

#: Makes a policy's limiter out of its limits and settings.
Make = Callable[..., Any]


class Named(NamedTuple):
    """One policy of a file."""

    rule: Rule
    said: dict[str, Any]
    """What the file says of it, with its defaults: without subjects, ready for JSON."""


class PolicyFile(NamedTuple):
    """What a whole file says."""

    text: str
    policies: dict[str, Named]
    default: str | None
    """Which policy is asked where no other with a match of its own is about a request."""
    address_from: str
    """The header in which trusted proxies say who calls."""
    warnings: tuple[Fault, ...] = ()
    """What is not wrong, and still no good idea."""


def text_of(path: str) -> str:
    """The file's text.

    Raises:
        InvalidPolicyFile: Nobody can read it, it is too long, or it is not UTF-8.

    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) <= MOST_BYTES:
            return raw.decode("utf-8-sig")
        said = f"is longer than {MOST_BYTES:,} bytes: accepted is a file up to that"
    except OSError as error:
        said = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        said = f"is not UTF-8 (byte {error.start}): accepted is TOML, which is"
    raise InvalidPolicyFile([Fault(path, 1, "", said)])


def in_memory() -> Make:
    """Makes limiters of no store, for whoever only looks at a file."""
    root = Limiter("1/second", store="memory://")
    return lambda limits, **settings: Limiter(limits, store=root, **settings)


def read(text: str, file: str, make: Make | None = None) -> PolicyFile:
    """The policies that a text says, in its order; without ``make`` they know no store.

    Raises:
        InvalidPolicyFile: With everything that is wrong with it.

    """
    try:
        lines = lines_of(text)  # first, since the parser has no bounds
        said = tomllib.loads(text)
    except TooMuch as error:
        raise InvalidPolicyFile([Fault(file, error.line, "", error.said)]) from None
    except (
        ValueError
    ) as error:  # above all TOMLDecodeError; a number may also be too long for Python
        raise InvalidPolicyFile([_not_toml(text, file, str(error))]) from None
    notes = Notes(file, lines)
    top = notes.table((), said, _TOP)
    defaults = notes.table(("defaults",), top.get("defaults", {}), DEFAULT_KEYS)
    read_defaults = read_policy(notes, ("defaults",), defaults)
    shared = _Shared(defaults, {**_READ_LEFT_OUT, **read_defaults}, are_right=not notes.count)
    address_from = top.get("address_from", ADDRESS_FROM[0])
    if address_from not in ADDRESS_FROM:
        notes.add(
            ("address_from",), f"is {shown(address_from)}: accepted are {', '.join(ADDRESS_FROM)}"
        )
    tables = notes.table(("policies",), top.get("policies", {}), None)
    if not tables:
        notes.add(("policies",), "has no policy: accepted is at least one [policies.NAME]")
    default = top.get("default", _DEFAULT if _DEFAULT in tables else None)
    if tables and default is not None and not (isinstance(default, str) and default in tables):
        names = shortened(", ".join(tables))
        notes.add(("default",), f"is {shown(default)}: accepted is one of {names}")
    if not _is_of_a_size(notes, tables, read_defaults):
        raise InvalidPolicyFile(notes.all_faults)
    make = make or in_memory()
    policies = {}
    for name, table in tables.items():
        path = ("policies", name)
        own = notes.table(path, table, POLICY_KEYS)
        found = _policy(notes, path, name, own, shared, make, name == default)
        if found is not None:
            policies[name] = found
    if notes.count:
        raise InvalidPolicyFile(notes.all_faults)
    advice = warnings([named.said for named in policies.values()], file, notes.line)
    return PolicyFile(text, policies, default, address_from, tuple(advice))


class _Shared(NamedTuple):
    """What holds for every policy that does not say otherwise."""

    said: Mapping[str, Any]
    """[defaults], as the file has it."""
    found: Mapping[str, Any]
    """The same, read, with what holds where the file says nothing."""
    are_right: bool


def _is_of_a_size(notes: Notes, tables: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether there are no more policies, and shared subjects, than can be read in a moment."""
    count = len(tables)
    keys = len((defaults.get("exempt") or {}).get("keys", ()))
    if count > _MOST_POLICIES:
        notes.add(("policies",), f"has {count} policies: accepted are up to {_MOST_POLICIES:,}")
    elif count * keys > _MOST_SHARED_KEYS:
        notes.add(
            ("defaults", "exempt", "keys"),
            f"has {keys} subjects for each of {count} policies: accepted are up to {_MOST_SHARED_KEYS:,} "
            f"together; name them in the policies that they are for",
        )
    else:
        return True
    return False


#: Where the parser's own words quote keys and values, which may be secrets.
_QUOTING = {
    "Cannot declare": "a table is declared twice",
    "Cannot mutate immutable namespace": "a table or list is complete, and is added to",
    "Duplicate inline table key": "a key stands twice in an inline table",
}
#: A quoted character, which the parser shows where it expects another one.
_QUOTED_CHARACTER = re.compile(r"""'(?:[^']|\\(?:x..|u.{4}|U.{8}|.))'|"'\"""")


def _not_toml(text: str, file: str, said: str) -> Fault:
    """The parser's one complaint; it stops at the first. Of the text, it quotes one character at most."""
    found = re.search(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)$", said)
    line = int(found[1]) if found and found[1] else text.count("\n") + 1
    place = found[0] if found else ""
    why = said.removesuffix(place)
    for begins, instead in _QUOTING.items():
        if why.startswith(begins):
            why = instead
    if re.search("['\"]", _QUOTED_CHARACTER.sub("", why)):
        why = "the parser does not understand it"
    return Fault(file, line, "", f"is no TOML: {why}{place}")


def _policy(
    notes: Notes,
    path: Path,
    name: str,
    own: Mapping[str, Any],
    shared: _Shared,
    make: Make,
    is_default: bool,
) -> Named | None:
    before, defaults = notes.count, shared.said
    # As part of a path, .. would not arrive; and what begins with a dot is of the service itself.
    if not NAME.fullmatch(name) or name.startswith("."):
        notes.add(
            path,
            "is no name of a policy: accepted are 1 to 64 of A-Z a-z 0-9 _ . -, the first of them no dot",
        )
        name = "unnamed"
    read_own = read_policy(notes, path, own)
    merged = {**_LEFT_OUT, **defaults, **own}
    if isinstance(own.get("exempt"), dict) and isinstance(defaults.get("exempt"), dict):
        merged["exempt"] = {**defaults["exempt"], **own["exempt"]}
    found = {**shared.found, **read_own}
    if "exempt" in read_own:
        found["exempt"] = {**shared.found.get("exempt", {}), **read_own["exempt"]}
    algorithm = found.get("algorithm")
    _check_parts(notes, (*path, "key"), found)
    is_bounded = any(map(is_chosen, found["key"] or ()))
    if "new_subjects" in own and found["key"] and not is_bounded:
        notes.add(
            (*path, "new_subjects"),
            f"is of no use with key = {shown(merged['key'])}: accepted is a key that clients choose",
        )
    if "key" in own:
        _check_names(notes, path, own, found)
    if "limits" not in own:
        notes.add((*path, "limits"), "is missing: accepted is a limit, as in limits = '100/minute'")
        return None
    limits = read_limits(notes, (*path, "limits"), own["limits"], algorithm)
    if limits is None:
        _overrides(notes, (*path, "overrides"), own.get("overrides", {}), None, algorithm)
        return None
    settings = {key: found[key] for key in ("on_error", "timeout", "local_share") if found.get(key)}
    try:
        limiter = make(limits, name=name, **settings)
    except LimiterError as error:
        notes.refuse((*path, "limits"), error)
        return None
    overrides = _overrides(
        notes, (*path, "overrides"), own.get("overrides", {}), limiter, algorithm
    )
    key, or_address = found["key"] or (), found["unidentified"] == "address"

    def means(name: str) -> frozenset[str]:
        return meant(name, key, or_address)

    exempt = found.get("exempt", {})
    exempt_keys = frozenset().union(*map(means, filter(None, exempt.get("keys", ()))))
    by_subject = _by_subject(notes, (*path, "overrides"), overrides, means, exempt_keys)
    cost = found["cost"]
    if isinstance(cost, int):
        _check_cost(notes, path, cost, limiter, overrides)
        cost = costs.fixed(cost)
    # What [defaults] has wrong is noted there, once.
    if not shared.are_right or notes.count > before:
        return None
    match, bound = found.get("match", {}), found.get("new_subjects")
    rule = Rule(
        limiter,
        match=Match(
            frozenset(match.get("methods", ())),
            frozenset(match.get("hosts", ())),
            match.get("paths", ()),
            bool(match.get("ignore_case")),
        ),
        identity=identity(key),
        cost=cost,
        form=found["headers"],
        shadow=found["shadow"],
        percent=found["percent"],
        exempt_networks=exempt.get("networks", ()),
        exempt_keys=exempt_keys,
        exempt_paths=exempt.get("paths", ()),
        overrides=by_subject,
        unidentified=found["unidentified"],
        preflights=found["preflights"],
        new_subjects=NewSubjects(bound.text) if bound and is_bounded else None,
        is_default=is_default,
    )
    return Named(rule, _described(rule, merged, limits, len(overrides)))


def _overrides(
    notes: Notes, path: Path, value: Any, limiter: Any, algorithm: str | None
) -> dict[str, tuple[Policy, ...]]:
    """Each name's own numbers, for the same limits; where those are wrong, there is no limiter."""
    found = {}
    for subject, limits in notes.table(path, value, None, is_secret=True).items():
        # The subject may be a secret, and is not said: the line tells which.
        try:
            if isinstance(limits, str) and limiter is not None:
                found[subject] = limiter_calls.plan(limiter, limits).policies
                continue
            read = read_limits(notes, (*path, subject), limits, algorithm)
            if read is not None and limiter is not None:
                found[subject] = limiter_calls.plan(limiter, read).policies
        except LimiterError as error:
            notes.refuse((*path, subject), error)
    return found


def _by_subject(
    notes: Notes,
    path: Path,
    overrides: Mapping[str, tuple[Policy, ...]],
    means: Callable[[str], frozenset[str]],
    exempt: frozenset[str],
) -> dict[str, tuple[Policy, ...]]:
    """The same by the subjects that the names mean: for each one word, and no other."""
    found: dict[str, tuple[Policy, ...]] = {}
    names: dict[str, str] = {}
    for name, own in overrides.items():
        subjects = means(name.strip())
        if subjects & exempt:
            notes.add(
                (*path, name),
                "is of a subject that exempt.keys names, too: accepted is one of the two",
            )
        lines = [notes.line((*path, names[one])) for one in subjects if found.get(one, own) != own]
        if lines:
            notes.add(
                (*path, name),
                f"is of a subject to which line {min(lines)} gives other numbers: accepted is one override "
                f"for each",
            )
        for one in subjects:
            found.setdefault(one, own)
            names.setdefault(one, name)
    return found


def _check_names(
    notes: Notes, path: Path, own: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """A policy that says its key names subjects that this can find; others would never be met.

    One that says none may be for who names subjects itself, in /v1/check.
    """
    key, or_address = found["key"], found["unidentified"] == "address"
    if key is None:
        return
    examples = [",".join(_EXAMPLES.get(spec.partition("/")[0], "VALUE") for spec in key)]
    examples += [_EXAMPLES["address"]] if or_address else []
    said = (
        f"is no subject that key = {shown(own['key'])} finds: accepted is one as in "
        f"{' or '.join(map(repr, examples))}"
    )
    exempt, overrides = own.get("exempt"), own.get("overrides")
    if isinstance(exempt, dict) and "keys" in exempt:
        for place, name in enumerate(found["exempt"].get("keys", ())):
            if name and not findable(name, key, or_address):
                notes.add((*path, "exempt", "keys", place), f"{said} (networks: exempt.networks)")
    for name in overrides if isinstance(overrides, dict) else ():
        if not findable(name.strip(), key, or_address):
            hint = " (a comma in a subject is written \\,)" if "," in name else ""
            notes.add((*path, "overrides", name), said + hint)


def _check_parts(notes: Notes, path: Path, found: Mapping[str, Any]) -> None:
    """A part of the path by which callers are told must be in each of the patterns."""
    paths = [one for one in found.get("match", {}).get("paths", ()) if one is not None]
    for spec in found["key"] or ():
        kind, _, part = spec.partition(":")
        if kind == "path" and not (paths and all(part in one.groupindex for one in paths)):
            notes.add(
                path,
                f"is {shown(spec)}: accepted is a part that each pattern of match.paths has, as {{{part}}}",
            )


def _check_cost(
    notes: Notes,
    path: Path,
    cost: int,
    limiter: Any,
    overrides: Mapping[str, tuple[Policy, ...]],
) -> None:
    """A cost that no request could ever pay would refuse them all."""
    for limits in (None, *overrides.values()):
        try:
            limiter_calls.plan(limiter, limits).checked(cost, least=1)
        except InvalidCost as error:
            notes.refuse((*path, "cost"), error)
            return


def _described(
    rule: Rule, merged: Mapping[str, Any], limits: tuple[Policy, ...], overrides: int
) -> dict[str, Any]:
    exempt = merged.get("exempt", {})
    return {
        "name": rule.name,
        "limits": [policy.to_dict() for policy in limits],
        "key": merged["key"],
        "match": merged.get("match", {}),
        "cost": merged["cost"],
        **{key: merged[key] for key in ("on_error", "timeout", "local_share") if key in merged},
        "headers": merged["headers"],
        "shadow": rule.shadow,
        "percent": rule.percent,
        "exempt": {**exempt, "keys": len(exempt.get("keys", []))},
        "overrides": overrides,
        "unidentified": rule.unidentified,
        "preflights": rule.preflights,
        "new_subjects": rule.new_subjects and rule.new_subjects.text,
        "default": rule.is_default,
    }

"""Read the text of a policy file into rules, or report all of its faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from limiter.client import Limiter
from limiter.policyfile import advice
from limiter.policyfile.faults import Fault, InvalidPolicyFile, Notes, shortened, shown
from limiter.policyfile.policy import Defaults, Make, Named, read_policy
from limiter.policyfile.schema import SHARED_KEYS, read_keys
from limiter.policyfile.text import parsed
from limiter.web.identity import ADDRESS_FROM

_MOST_POLICIES = 1_000
#: Subjects in [defaults] times policies: each policy reads them with its own key.
_MOST_SHARED_KEYS = 100_000

TOP_KEYS = ("default", "address_from", "defaults", "policies")
#: The default policy's name, unless the file names another.
_DEFAULT = "default"


class PolicyFile(NamedTuple):
    """The content of a policy file."""

    text: str
    policies: dict[str, Named]
    default: str | None
    """The policy for requests to which no policy with a match applies."""
    address_from: str
    """The header field in which trusted proxies send the client's address."""
    warnings: tuple[Fault, ...] = ()
    """What policies do not do, though they seem to; the file can be used."""
    forward_auth_warnings: tuple[Fault, ...] = ()
    """The same, if a proxy asks the decision service with this file."""


def in_memory(**common: Any) -> Make:
    """Return a function that makes limiters without a store, to check a file; with ``common`` settings."""
    root = Limiter("1/second", store="memory://")
    return lambda limits, **settings: Limiter(limits, store=root, **common, **settings)


def read(text: str, file: str, make: Make | None = None) -> PolicyFile:
    """The policies of a text, in its order; without ``make`` they have no store.

    Raises:
        InvalidPolicyFile: The text has faults; the error has all of them.

    """
    tables, lines = parsed(text, file)
    notes = Notes(file, lines)
    top = notes.table((), tables, TOP_KEYS)
    shared = notes.table(("defaults",), top.get("defaults", {}), SHARED_KEYS)
    defaults = Defaults(shared, read_keys(notes, ("defaults",), shared))
    address_from = top.get("address_from", ADDRESS_FROM[0])
    if address_from not in ADDRESS_FROM:
        notes.add(
            ("address_from",), f"is {shown(address_from)}: expected {', '.join(ADDRESS_FROM)}"
        )
    policy_tables = notes.table(("policies",), top.get("policies", {}), None)
    default = top.get("default", _DEFAULT if _DEFAULT in policy_tables else None)
    _check_default(notes, default, policy_tables)
    if not _is_small_enough(notes, policy_tables, defaults.values):
        raise InvalidPolicyFile(notes.all_faults)
    make = make or in_memory()
    policies = {}
    for name, table in policy_tables.items():
        policy = read_policy(notes, name, table, defaults, make, is_default=name == default)
        if policy is not None:
            policies[name] = policy
    if notes.count:
        raise InvalidPolicyFile(notes.all_faults)
    described = [policy.description for policy in policies.values()]
    warnings = advice.warnings(described, file, notes.line)
    forward_auth_warnings = advice.forward_auth_warnings(described, file, notes.line)
    return PolicyFile(text, policies, default, address_from, warnings, forward_auth_warnings)


def _check_default(notes: Notes, default: Any, tables: Mapping[str, Any]) -> None:
    if not tables:
        notes.add(("policies",), "has no policy: expected at least one [policies.NAME]")
    elif default is not None and not (isinstance(default, str) and default in tables):
        names = shortened(", ".join(tables))
        notes.add(("default",), f"is {shown(default)}: expected one of {names}")


def _is_small_enough(notes: Notes, tables: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether policies and shared subjects are few enough to be read quickly."""
    count = len(tables)
    keys = len((defaults.get("exempt") or {}).get("keys", ()))
    if count > _MOST_POLICIES:
        notes.add(("policies",), f"has {count} policies: expected up to {_MOST_POLICIES:,}")
    elif count * keys > _MOST_SHARED_KEYS:
        notes.add(
            ("defaults", "exempt", "keys"),
            f"has {keys} subjects for each of {count} policies: expected up to {_MOST_SHARED_KEYS:,} "
            f"in all; name them in the policies that need them",
        )
    else:
        return True
    return False

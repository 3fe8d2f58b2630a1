"""Compares the matches of policies by their texts, as in ``Named.description``; it reads no request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_WILDCARD = re.compile(r"[*{]")


def covers(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Whether a match is sure to cover all requests of another one."""
    if narrow.get("ignore_case") and wide.get("paths") and not wide.get("ignore_case"):
        return False
    return all(
        not wide.get(key) or (narrow.get(key) and _words(narrow[key]) <= _words(wide[key]))
        for key in ("paths", "methods", "hosts")
    )


def _words(listed: Sequence[str]) -> set[str]:
    # Paths begin with a slash, and their capitals count.
    return {word if word.startswith("/") else word.lower() for word in listed}


class Reach(NamedTuple):
    """The requests of a match; an empty set stands for all.

    Attributes:
        methods: In capitals.
        hosts: In lower case.
        domains: The ends of hosts that stand for all hosts below them.
        paths: The text of each pattern up to its first wildcard, in lower case.
        folders: Those of patterns with a wildcard.

    """

    methods: frozenset[str]
    hosts: frozenset[str]
    domains: tuple[str, ...]
    paths: frozenset[str]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, match: Mapping[str, Any]) -> Reach:
        """Return the reach of a match."""
        methods = {method.upper() for method in match.get("methods", ())}
        hosts = [host.lower() for host in match.get("hosts", ())]
        patterns = [_WILDCARD.split(path.lower(), maxsplit=1) for path in match.get("paths", ())]
        return cls(
            frozenset(methods | {"HEAD"} if "GET" in methods else methods),
            frozenset(hosts),
            tuple(host[1:] for host in hosts if host.startswith("*.")),
            frozenset(pattern[0] for pattern in patterns),
            tuple(pattern[0] for pattern in patterns if len(pattern) > 1),
        )

    def may_meet(self, other: Reach) -> bool:
        """Whether both may apply to one request; False only if that is sure."""
        return (
            _share(self.methods, other.methods)
            and (
                _share(self.hosts, other.hosts)
                or _is_below(self.hosts, other.domains)
                or _is_below(other.hosts, self.domains)
            )
            and (
                _share(self.paths, other.paths)
                or _is_in(self.paths, other.folders)
                or _is_in(other.paths, self.folders)
            )
        )


def _share(ones: frozenset[str], others: frozenset[str]) -> bool:
    return not (ones and others and ones.isdisjoint(others))


def _is_below(hosts: frozenset[str], domains: tuple[str, ...]) -> bool:
    return bool(domains) and any(host.endswith(domains) for host in hosts)


def _is_in(paths: frozenset[str], folders: tuple[str, ...]) -> bool:
    return bool(folders) and any(path.startswith(folders) for path in paths)

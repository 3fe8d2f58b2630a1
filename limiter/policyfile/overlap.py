"""Compares the matches of policies by their texts, as ``Named.description`` has them; it reads no request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
    """The requests of a match. An empty set stands for all.

    Attributes:
        methods: In capitals.
        hosts: In lower case.
        paths: The text of each pattern up to its first wildcard, in lower case, and whether it has one.

    """

    methods: frozenset[str]
    hosts: frozenset[str]
    paths: frozenset[tuple[str, bool]]

    @classmethod
    def of(cls, match: Mapping[str, Any]) -> Reach:
        """Return the reach of a match."""
        methods = {method.upper() for method in match.get("methods", ())}
        patterns = [_WILDCARD.split(path.lower(), maxsplit=1) for path in match.get("paths", ())]
        return cls(
            frozenset(methods | {"HEAD"} if "GET" in methods else methods),
            frozenset(host.lower() for host in match.get("hosts", ())),
            frozenset((pattern[0], len(pattern) > 1) for pattern in patterns),
        )

    def may_meet(self, other: Reach) -> bool:
        """Whether both may apply to one request; False only if that is sure."""
        return (
            _meet(self.methods, other.methods)
            and _meet(self.hosts, other.hosts, _is_below)
            and _meet(self.paths, other.paths, _begins)
        )


def _meet(
    ones: frozenset[Any], others: frozenset[Any], fits: Callable[[Any, Any], bool] | None = None
) -> bool:
    """Whether a value can be in both sets: in each by itself, or if one ``fits`` the other."""
    if not (ones and others) or not ones.isdisjoint(others):
        return True
    return fits is not None and any(
        fits(one, other) or fits(other, one) for one in ones for other in others
    )


def _is_below(host: str, other: str) -> bool:
    return other.startswith("*.") and host.endswith(other[1:])


def _begins(path: tuple[str, bool], other: tuple[str, bool]) -> bool:
    """Whether the fixed text of a pattern with a wildcard begins another pattern's text."""
    return path[1] and other[0].startswith(path[0])

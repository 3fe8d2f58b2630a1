"""Warn of policies whose keys clients choose, if their number has no bound.

Each made-up key is a new subject: it gets the whole limit, and takes memory in the store. A policy with
``key = "address"`` for the same requests bounds this, and so does ``new_subjects``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from limiter.policies import Concurrency
from limiter.policyfile.faults import Fault
from limiter.policyfile.lines import Path
from limiter.web.subjects import is_chosen

_ADVICE = (
    "clients choose it, so each made-up key gets the whole limit, and takes memory in the store: "
    "add new_subjects = '20/hour' to the policy, or another policy that is not the default one, with "
    "key = 'address'{match}"
)


def warnings(
    policies: Sequence[Mapping[str, Any]], file: str, line: Callable[[Path], int]
) -> list[Fault]:
    """One warning for each policy whose keys clients choose, if their number has no bound.

    ``policies`` are described as in ``Named.description``; ``line`` returns the line of a key.
    """
    faults = []
    for policy in policies:
        specs = [policy["key"]] if isinstance(policy["key"], str) else policy["key"]
        chosen = any(map(is_chosen, specs)) and policy["new_subjects"] is None
        if chosen and not any(_bounds(other, policy) for other in policies):
            path = ("policies", policy["name"], "key")
            match = " and the same match" if policy["match"] else ""
            text = _ADVICE.format(match=match)
            faults.append(Fault(file, line(path), ".".join(path), text, True))
    return faults


def _bounds(other: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
    """Whether ``other`` counts, by address, every request to which ``policy`` applies."""
    if not isinstance(other["key"], str) or other["key"].partition("/")[0] != "address":
        return False
    # A default policy does not apply if a policy with a match does.
    if other["shadow"] or other["percent"] < 100 or other["default"]:
        return False
    if all(limit["algorithm"] == Concurrency.algorithm for limit in other["limits"]):
        return False
    spared = set(other["exempt"].get("paths", ())) - set(policy["exempt"].get("paths", ()))
    return not spared and _covers(other["match"], policy["match"])


def _covers(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Whether a match covers all requests of another one, by comparing their texts."""
    if narrow.get("ignore_case") and wide.get("paths") and not wide.get("ignore_case"):
        return False
    return all(
        not wide.get(key) or (narrow.get(key) and _words(narrow[key]) <= _words(wide[key]))
        for key in ("paths", "methods", "hosts")
    )


def _words(listed: Sequence[str]) -> set[str]:
    # Paths begin with a slash, and their capitals count.
    return {word if word.startswith("/") else word.lower() for word in listed}

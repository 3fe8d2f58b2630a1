"""The header fields that the policies of a file read, and for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from limiter.policyfile.reading import PolicyFile

#: The fields of ``key = "api-key"``.
_API_KEYS = ("x-api-key", "authorization")


class Use(NamedTuple):
    """A use of header fields by a policy."""

    policy: str
    what: str
    """The setting, as in the file."""
    fields: tuple[str, ...]
    """The fields, one of which is enough; in lower case."""
    without: str
    """What holds for a request that has none of them."""


def uses(file: PolicyFile) -> Iterator[Use]:
    """Yield each use of fields by the policies of a file."""
    for name, named in file.policies.items():
        described = named.description
        key = described["key"]
        for spec in [key] if isinstance(key, str) else key:
            if fields := _of_key(spec):
                without = "such requests are left out of this policy"
                if described["unidentified"] == "address":
                    without = "such requests count by their address"
                yield Use(name, f"key = {spec}", fields, without)
        cost = described["cost"]
        if isinstance(cost, Mapping):
            (kind, value) = next(iter(cost.items()))
            fields = ("content-length",) if kind == "body" else (value.lower(),)
            yield Use(name, f"cost by {kind}", fields, "each request costs 1")
        plan, classes = described["plan"], described["class"]
        if isinstance(plan, Mapping) and described["plans"]:
            without = "plans count by the names and prefixes of subjects alone"
            yield Use(name, "plan", (plan["header"].lower(),), without)
        if isinstance(classes, Mapping):
            without = "each request is of the lowest class"
            yield Use(name, "class", (classes["header"].lower(),), without)


def needed(file: PolicyFile) -> tuple[str, ...]:
    """Return all fields that may decide about a request, each once."""
    fields: dict[Any, None] = dict.fromkeys([file.address_from])
    for use in uses(file):
        fields |= dict.fromkeys(use.fields)
    return tuple(fields)


def _of_key(spec: str) -> tuple[str, ...]:
    kind, _, name = spec.partition(":")
    if kind == "cookie":
        return ("cookie",)
    if kind in ("header", "api-key") and name:
        return (name.lower(),)
    return _API_KEYS if kind == "api-key" else ()

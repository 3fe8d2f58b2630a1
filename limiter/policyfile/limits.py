"""Read the limits of a policy, and those of a plan or an override: texts, tables, and lists of these."""

from __future__ import annotations

from typing import Any

from limiter.grammar import parse_limits
from limiter.policies import ALGORITHMS, Concurrency, Policy
from limiter.policyfile.faults import Notes, shown
from limiter.policyfile.lines import Path
from limiter.policyfile.schema import choice

_ALGORITHMS: dict[str, Any] = {**ALGORITHMS, Concurrency.algorithm: Concurrency}
_MOST_LIMITS = 100
_algorithm = choice(*_ALGORITHMS)


def read_limits(
    notes: Notes, path: Path, value: Any, algorithm: str | None
) -> tuple[Policy, ...] | None:
    """The policies of a limit string, a table, or a list of these; None, and a fault, if one is wrong."""
    parts = value if isinstance(value, list) else []
    if isinstance(value, str) and ";" in value:
        parts = [part for part in value.split(";") if part.strip()]
    if len(parts) > _MOST_LIMITS:
        notes.add(path, f"has {len(parts)} limits: expected up to {_MOST_LIMITS}")
        return None
    if isinstance(value, list):
        if not value:
            notes.add(path, "is []: expected at least one limit")
            return None
        policies: tuple[Policy, ...] = ()
        before = notes.count
        for place, limit in enumerate(value):
            policies += read_limits(notes, (*path, place), limit, algorithm) or ()
        return policies if notes.count == before else None
    if isinstance(value, str):
        # First each part alone, so that each gets its fault; then all, which may be too many together.
        if None in [read_limits(notes, path, part, algorithm) for part in parts]:
            return None
        parsed: tuple[Policy, ...] | None = notes.read(
            path, lambda text: parse_limits(text, algorithm), value
        )
        return parsed
    if isinstance(value, dict):
        return _read_limit_table(notes, path, value, algorithm)
    notes.add(
        path,
        f"is {shown(value)}: expected a limit string as in '100/minute', a table as in "
        f"{{algorithm = 'token_bucket', limit = 100, per = 'minute', burst = 20}}, and a list of these",
    )
    return None


def _read_limit_table(
    notes: Notes, path: Path, value: dict[str, Any], algorithm: str | None
) -> tuple[Policy, ...] | None:
    name = value.get("algorithm", algorithm)
    if name is None:
        notes.add((*path, "algorithm"), f"is missing: expected {', '.join(_ALGORITHMS)}")
        return None
    if notes.read((*path, "algorithm"), _algorithm, name) is None:
        return None
    kind = _ALGORITHMS[name]
    known = ["algorithm", "limit", "name", "lease" if kind is Concurrency else "per"]
    known += ["max_hold"] if kind is Concurrency else []
    known += ["burst"] if kind.has_burst else []
    known += ["align"] if name == "fixed_window" else []
    given = notes.table(path, value, known)
    given.pop("algorithm", None)
    before = notes.count
    right: dict[str, Any] = (
        {"limit": 1, "lease": "1ms"} if kind is Concurrency else {"limit": 1, "per": 60}
    )
    for key in right:
        if key not in given and key != "lease":
            notes.add((*path, key), f"is missing: expected {', '.join(known)}")
    # First each key alone, beside right values, so that each gets its fault; then all together.
    for key, setting in given.items():
        notes.read((*path, key), lambda each: kind(**each), {**right, key: setting})
    policy = notes.read(path, lambda each: kind(**each), given) if notes.count == before else None
    return None if policy is None else (policy,)

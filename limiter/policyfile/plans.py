"""Read the plans and the overrides of one policy: other numbers for its limits, and for whom they hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from limiter.keys import NAME
from limiter.policies import Policy
from limiter.policyfile.faults import Notes
from limiter.policyfile.limits import read_limits
from limiter.policyfile.lines import Path
from limiter.policyfile.schema import (
    NAMES,
    PLAN_KEYS,
    check_prefix,
    read_subjects,
)
from limiter.web import limiter_calls
from limiter.web.plans import CustomerPlan

_MOST_PLANS = 100


class NamedSubject(NamedTuple):
    """A subject that a policy's table names."""

    place: Path
    """Where its name is, in the file."""
    name: str
    plan: CustomerPlan | None = None
    """Its plan or override; None: it has none, or a wrong one."""


class PlanReader:
    """Reads ``plans`` and ``overrides`` of a policy's table.

    Attributes:
        by_name: The plans.
        by_prefix: The plans by ``key_prefix``, the longest first.
        on_plans: The subjects in ``keys`` of the plans.
        overridden: The subjects of ``overrides``.

    """

    def __init__(
        self, notes: Notes, path: Path, own: Mapping[str, Any], algorithm: str | None, limiter: Any
    ) -> None:
        self._notes = notes
        self._algorithm = algorithm
        #: The policy's limiter; None if its limits are wrong.
        self._limiter = limiter
        self.by_name: dict[str, CustomerPlan] = {}
        self.on_plans: list[NamedSubject] = []
        self.overridden: list[NamedSubject] = []
        prefixes: dict[str, CustomerPlan] = {}
        for name, table in self._tables((*path, "plans"), own.get("plans", {})).items():
            self._read_plan((*path, "plans", name), table, prefixes)
        self.by_prefix = tuple(
            (prefix, prefixes[prefix]) for prefix in sorted(prefixes, key=len, reverse=True)
        )
        place = (*path, "overrides")
        overrides = notes.table(place, own.get("overrides", {}), None, is_secret=True)
        for name, value in overrides.items():
            plan = self._plan((*place, name), value)
            self.overridden.append(NamedSubject((*place, name), name, plan))

    def _tables(self, path: Path, value: Any) -> dict[str, dict[str, Any]]:
        """The tables of plans; others are left out."""
        plans = self._notes.table(path, value, None, is_secret=True)
        if len(plans) > _MOST_PLANS:
            self._notes.add(path, f"has {len(plans)} plans: expected up to {_MOST_PLANS}")
            return {}
        tables = {}
        for name, table in plans.items():
            # A subject may be here by mistake, as if these were overrides: it is not shown.
            if not NAME.fullmatch(name):
                self._notes.add((*path, name), f"is not a name of a plan: {NAMES}", hides=True)
            elif not isinstance(table, dict):
                what = f"is a {type(table).__name__}: expected a table with limits"
                self._notes.add((*path, name), what, hides=True)
            else:
                tables[name] = table
        return tables

    def _read_plan(
        self, path: Path, value: dict[str, Any], prefixes: dict[str, CustomerPlan]
    ) -> None:
        """Read one table of ``plans``."""
        notes, name, plan = self._notes, str(path[-1]), None
        table = notes.table(path, value, PLAN_KEYS)
        if "limits" in table:
            plan = self._plan((*path, "limits"), table["limits"], name)
        else:
            expected = "expected the limits of the policy with other numbers"
            notes.add((*path, "limits"), f"is missing: {expected}")
        if plan is not None:
            self.by_name[name] = plan
        place = (*path, "keys")
        for number, key in enumerate(read_subjects(notes, place, table.get("keys", [])) or ()):
            if key is not None:
                self.on_plans.append(NamedSubject((*place, number), key, plan))
        if "key_prefix" in table:
            place = (*path, "key_prefix")
            prefix = notes.read(place, check_prefix, table["key_prefix"])
            if prefix in prefixes:
                notes.add(place, "is that of another plan, too: expected one plan for each")
            elif prefix is not None and plan is not None:
                prefixes[prefix] = plan

    def _plan(self, path: Path, value: Any, name: str | None = None) -> CustomerPlan | None:
        """The plan with these limits, the policy's own with other numbers; None if they are wrong."""
        limits: tuple[Policy, ...] | None = value
        if not isinstance(value, str) or self._limiter is None:
            limits = read_limits(self._notes, path, value, self._algorithm)
        if limits is None or self._limiter is None:
            return None
        template = self._notes.read(path, partial(limiter_calls.plan, self._limiter), limits)
        return None if template is None else CustomerPlan(template.policies, name)

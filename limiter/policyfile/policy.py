"""Read one policy's table, and make a rule of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from limiter.errors import InvalidCost
from limiter.keys import NAME
from limiter.policies import Policy
from limiter.policyfile.costs import unit_of
from limiter.policyfile.faults import Notes, shown
from limiter.policyfile.limits import read_limits
from limiter.policyfile.lines import Path
from limiter.policyfile.plans import NamedSubject, PlanReader
from limiter.policyfile.schema import (
    BY_RESPONSE,
    KEYS,
    LEFT_OUT,
    LIMITER_KEYS,
    NAMES,
    read_keys,
)
from limiter.web import limiter_calls
from limiter.web.by_response import StatusOrField, check_rates
from limiter.web.match import Match
from limiter.web.new_subjects import NewSubjects
from limiter.web.plans import Classes, CustomerPlan, Plans
from limiter.web.rules import Rule, fixed_cost
from limiter.web.subjects import findable, identity, is_chosen, meant

#: Example subjects, by kinds of keys that no client chooses.
_EXAMPLES = {"address": "203.0.113.9", "global": "global"}
_READ_LEFT_OUT = read_keys(Notes("", {}), (), LEFT_OUT)

#: Makes a policy's limiter of its limits and settings.
Make = Callable[..., Any]
#: Plans by subject, in the form of ``subjects.spelled``.
_BySubject = dict[str, CustomerPlan]


class Named(NamedTuple):
    """One policy of a file."""

    rule: Rule
    description: dict[str, Any]
    """The policy as in the file, with its defaults: without subjects, ready for JSON."""


class Defaults(NamedTuple):
    """The table [defaults]: values for keys that a policy does not have."""

    written: Mapping[str, Any]
    values: Mapping[str, Any]
    """The values that were read; None for a wrong one."""


def read_policy(
    notes: Notes, name: str, table: Any, defaults: Defaults, make: Make, is_default: bool
) -> Named | None:
    """The rule of a policy's table; None if the file has a fault, here or before."""
    path = ("policies", name)
    own = notes.table(path, table, KEYS, is_secret=True)  # perhaps a list of subjects, by mistake
    # URLs contain the name: clients resolve "..", and a dot begins the service's own names.
    if not NAME.fullmatch(name) or name.startswith("."):
        notes.add(path, f"is not a name of a policy: {NAMES}, not with a dot first")
        name = "unnamed"
    policy = _Policy(
        notes,
        path,
        own,
        written=_merged({**LEFT_OUT, **defaults.written}, own),
        values=_merged({**_READ_LEFT_OUT, **defaults.values}, read_keys(notes, path, own)),
    )
    policy.check_key()
    limits = policy.limits()
    limiter = None if limits is None else policy.limiter(make, name, limits)
    plans = PlanReader(notes, path, own, policy.values.get("algorithm"), limiter)
    exempt = policy.exempt()
    if "key" in own:
        policy.check_subjects(exempt, plans)
    if limits is None or limiter is None:
        return None
    policy.check_cost(limiter, plans)
    policy.check_by_response(limits)
    exempt_keys = frozenset().union(*(policy.subjects(each.name) for each in exempt))
    by_subject = policy.by_subject(plans, exempt_keys)
    if notes.count:
        return None
    rule = policy.rule(limiter, exempt_keys, plans, by_subject, is_default)
    return Named(rule, _described(rule, policy.written, limits, plans))


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's keys over the defaults; exemptions are merged kind by kind."""
    merged = {**defaults, **own}
    if isinstance(own.get("exempt"), dict) and isinstance(defaults.get("exempt"), dict):
        merged["exempt"] = {**defaults["exempt"], **own["exempt"]}
    return merged


@dataclass
class _Policy:
    """One policy's table while it is read.

    Attributes:
        notes: Collects faults.
        path: The place of the table.
        own: Its keys, as they are written.
        written: The same, with the defaults.
        values: The values that were read; None for a wrong one.

    """

    notes: Notes
    path: Path
    own: Mapping[str, Any]
    written: Mapping[str, Any]
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        # Empty if the key is wrong: then subjects are not checked.
        self.key: tuple[str, ...] = self.values["key"] or ()
        self.is_chosen = any(map(is_chosen, self.key))
        self.or_address = self.values["unidentified"] == "address"

    def add(self, *path: str | int, text: str) -> None:
        """Add a fault at a place in the table."""
        self.notes.add((*self.path, *path), text)

    def check_key(self) -> None:
        """Check that each pattern has the part that is the key, and that ``new_subjects`` has a use."""
        paths = [path for path in self.values.get("match", {}).get("paths", ()) if path is not None]
        for spec in self.key:
            kind, _, part = spec.partition(":")
            if kind == "path" and not (paths and all(part in path.groupindex for path in paths)):
                self.add(
                    "key",
                    text=f"is {shown(spec)}: expected a part that each pattern of match.paths has, like "
                    f"{{{part}}}",
                )
        if "plan" in self.own and "plans" not in self.own:
            self.add("plan", text="has no effect without plans: expected also a table plans")
        if "new_subjects" in self.own and self.key and not self.is_chosen:
            self.add(
                "new_subjects",
                text=f"has no effect with key = {shown(self.written['key'])}: expected a key that "
                f"clients choose",
            )

    def exempt(self) -> list[NamedSubject]:
        """The subjects of ``exempt.keys``."""
        place = (*self.path, "exempt", "keys")
        names = self.values.get("exempt", {}).get("keys", ())
        return [NamedSubject((*place, at), name) for at, name in enumerate(names) if name]

    def check_subjects(self, exempt: Sequence[NamedSubject], plans: PlanReader) -> None:
        """Check that the key can find the subjects that are named in the table.

        Not called without a key: callers of /v1/check may name the subjects themselves.
        """
        if not self.key:
            return
        examples = [",".join(_EXAMPLES.get(spec.partition("/")[0], "VALUE") for spec in self.key)]
        examples += [_EXAMPLES["address"]] if self.or_address else []
        text = (
            f"is not a subject that key = {shown(self.own['key'])} finds: expected one like "
            f"{' or '.join(map(repr, examples))}"
        )
        own = self.own.get("exempt")
        if not (isinstance(own, dict) and "keys" in own):  # those of [defaults] are for any key
            exempt = []
        places = {each.place for each in exempt}
        for place, name, _ in [*exempt, *plans.overridden, *plans.on_plans]:
            if not findable(name.strip(), self.key, self.or_address):
                hint = " (a comma in a subject is written \\,)" if "," in name else ""
                hint = " (networks: exempt.networks)" if place in places else hint
                self.notes.add(place, text + hint)

    def limits(self) -> tuple[Policy, ...] | None:
        """The policy's limits; None if they are missing or wrong."""
        if "limits" not in self.own:
            self.add("limits", text="is missing: expected a limit, as in limits = '100/minute'")
            return None
        path = (*self.path, "limits")
        return read_limits(self.notes, path, self.own["limits"], self.values.get("algorithm"))

    def limiter(self, make: Make, name: str, limits: tuple[Policy, ...]) -> Any:
        """The policy's limiter; None if it refuses the limits."""
        settings = {
            key: self.values[key] for key in LIMITER_KEYS if self.values.get(key) is not None
        }
        path = (*self.path, "limits")
        return self.notes.read(path, lambda own: make(own, name=name, **settings), limits)

    def subjects(self, name: str) -> frozenset[str]:
        """The subjects that a name means."""
        return meant(name, self.key, self.or_address)

    def by_subject(self, plans: PlanReader, exempt: frozenset[str]) -> _BySubject:
        """The plan of each subject that the table names; an override replaces a plan."""
        return {
            **self.each_once(plans.on_plans, exempt, "another plan", "plan"),
            **self.each_once(plans.overridden, exempt, "other limits", "override"),
        }

    def each_once(
        self, named: Iterable[NamedSubject], exempt: frozenset[str], other: str, kind: str
    ) -> _BySubject:
        """The plans by subject: a name may mean several subjects, and several names the same one."""
        by_subject: _BySubject = {}
        places: dict[str, Path] = {}
        for place, name, plan in named:
            subjects = self.subjects(name.strip())
            if subjects & exempt:
                self.notes.add(
                    place,
                    "is for a subject that exempt.keys names, too: expected one of the two",
                )
            if plan is None:
                continue
            lines = [
                self.notes.line(places[subject])
                for subject in subjects
                if by_subject.get(subject, plan) != plan
            ]
            if lines:
                self.notes.add(
                    place,
                    f"is for a subject that has {other} in line {min(lines)}: expected one {kind} "
                    f"for each",
                )
            for subject in subjects:
                by_subject.setdefault(subject, plan)
                places.setdefault(subject, place)
        return by_subject

    def check_cost(self, limiter: Any, plans: PlanReader) -> None:
        """Check that a fixed cost is not above every limit, which would refuse all requests."""
        if not isinstance(self.values["cost"], int):
            return
        classes: Classes | None = self.values.get("class")
        overrides = (each.plan for each in plans.overridden)
        others = [plan.limits for plan in (*plans.by_name.values(), *filter(None, overrides))]
        for limits in (limiter.policies, *others):
            if classes is not None:
                limits = classes.limits(classes.lowest, limits)
            try:
                limiter_calls.plan(limiter, limits).checked(self.values["cost"], least=1)
            except InvalidCost as error:
                self.notes.refuse((*self.path, "cost"), error)
                return

    def check_by_response(self, limits: tuple[Policy, ...]) -> None:
        """Check that the settlement by the response has an effect."""
        for key in BY_RESPONSE:
            if key in self.own:
                self.notes.read((*self.path, key), lambda own: check_rates(own, limits), key)

    def by_response(self) -> StatusOrField | None:
        """The true cost of a request by its response; None if the response does not matter."""
        named, field = (self.values.get(key) for key in BY_RESPONSE)
        charged = frozenset().union(*named) if named else None
        return StatusOrField(charged, field) if named or field else None

    def unit(self) -> str:
        """What the limits count, in the plural."""
        unit = unit_of(self.written["cost"])
        return "units" if unit == "requests" and "true_cost" in self.written else unit

    def rule(
        self,
        limiter: Any,
        exempt_keys: frozenset[str],
        plans: PlanReader,
        by_subject: _BySubject,
        is_default: bool,
    ) -> Rule:
        """The rule of a table without faults."""
        values = self.values
        has_plans = bool(plans.by_name or by_subject)
        match, exempt = values.get("match", {}), values.get("exempt", {})
        cost, bound = values["cost"], values.get("new_subjects")
        return Rule(
            limiter,
            match=Match(
                frozenset(match.get("methods", ())),
                frozenset(match.get("hosts", ())),
                match.get("paths", ()),
                bool(match.get("ignore_case")),
            ),
            identity=identity(self.key),
            cost=fixed_cost(cost) if isinstance(cost, int) else cost,
            form=values["headers"],
            shadow=values["shadow"],
            percent=values["percent"],
            exempt_networks=exempt.get("networks", ()),
            exempt_keys=exempt_keys,
            exempt_paths=exempt.get("paths", ()),
            plans=Plans(
                by_subject,
                plans.by_name,
                plans.by_prefix,
                named_by=values.get("plan"),
                written=identity(self.key, are_hashed=False),
            )
            if has_plans
            else None,
            classes=values.get("class"),
            unidentified=values["unidentified"],
            preflights=values["preflights"],
            new_subjects=NewSubjects(bound.text) if bound and self.is_chosen else None,
            is_default=is_default,
            unit=self.unit(),
            by_response=self.by_response(),
        )


def _described(
    rule: Rule, written: Mapping[str, Any], limits: tuple[Policy, ...], plans: PlanReader
) -> dict[str, Any]:
    exempt = written.get("exempt", {})
    return {
        "name": rule.name,
        "limits": [policy.to_dict() for policy in limits],
        "key": written["key"],
        "match": written.get("match", {}),
        "cost": written["cost"],
        **{key: written[key] for key in BY_RESPONSE if key in written},
        **{key: written[key] for key in LIMITER_KEYS if key in written},
        "headers": written["headers"],
        "shadow": rule.shadow,
        "percent": rule.percent,
        "exempt": {**exempt, "keys": len(exempt.get("keys", []))},
        "overrides": len(plans.overridden),
        "plan": written.get("plan"),
        "plans": [
            {
                "name": name,
                "limits": [policy.to_dict() for policy in plan.limits],
                "keys": sum(subject.plan is plan for subject in plans.on_plans),
                "has_prefix": any(each is plan for _, each in plans.by_prefix),
            }
            for name, plan in plans.by_name.items()
        ],
        "class": written.get("class"),
        "unidentified": rule.unidentified,
        "preflights": rule.preflights,
        "new_subjects": rule.new_subjects and rule.new_subjects.text,
        "default": rule.is_default,
    }

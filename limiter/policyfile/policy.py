"""Read one policy's table, and make a rule of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from limiter.errors import InvalidCost
from limiter.keys import NAME
from limiter.policies import Policy
from limiter.policyfile.costs import unit_of
from limiter.policyfile.faults import Notes, shown
from limiter.policyfile.lines import Path
from limiter.policyfile.schema import (
    BY_RESPONSE,
    KEYS,
    LEFT_OUT,
    LIMITER_KEYS,
    read_keys,
    read_limits,
)
from limiter.web import limiter_calls
from limiter.web.by_response import StatusOrField, check_rates
from limiter.web.new_subjects import NewSubjects
from limiter.web.rules import Match, Rule, fixed_cost
from limiter.web.subjects import findable, identity, is_chosen, meant

#: Example subjects, by kinds of keys that no client chooses.
_EXAMPLES = {"address": "203.0.113.9", "global": "global"}
_READ_LEFT_OUT = read_keys(Notes("", {}), (), LEFT_OUT)

#: Makes a policy's limiter of its limits and settings.
Make = Callable[..., Any]
_Numbers = dict[str, tuple[Policy, ...]]


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
    own = notes.table(path, table, KEYS)
    # URLs contain the name: clients resolve "..", and a dot begins the service's own names.
    if not NAME.fullmatch(name) or name.startswith("."):
        notes.add(
            path,
            "is not a name of a policy: accepted are 1 to 64 of A-Z a-z 0-9 _ . -, not with a dot first",
        )
        name = "unnamed"
    policy = _Policy(
        notes,
        path,
        own,
        written=_merged({**LEFT_OUT, **defaults.written}, own),
        values=_merged({**_READ_LEFT_OUT, **defaults.values}, read_keys(notes, path, own)),
    )
    policy.check_key()
    if "key" in own:
        policy.check_subjects()
    limits = policy.limits()
    limiter = None if limits is None else policy.limiter(make, name, limits)
    overrides = policy.overrides(limiter)
    if limits is None or limiter is None:
        return None
    exempt_keys = policy.exempt_keys()
    by_subject = policy.by_subject(overrides, exempt_keys)
    policy.check_cost(limiter, overrides)
    policy.check_by_response(limits)
    if notes.count:
        return None
    rule = policy.rule(limiter, exempt_keys, by_subject, is_default)
    return Named(rule, _described(rule, policy.written, limits, len(overrides)))


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
                    text=f"is {shown(spec)}: accepted is a part that each pattern of match.paths has, like "
                    f"{{{part}}}",
                )
        if "new_subjects" in self.own and self.key and not self.is_chosen:
            self.add(
                "new_subjects",
                text=f"has no effect with key = {shown(self.written['key'])}: accepted is a key that "
                f"clients choose",
            )

    def check_subjects(self) -> None:
        """Check that the key can find the subjects that are named in the table.

        Not called without a key: callers of /v1/check may name the subjects themselves.
        """
        if not self.key:
            return
        examples = [",".join(_EXAMPLES.get(spec.partition("/")[0], "VALUE") for spec in self.key)]
        examples += [_EXAMPLES["address"]] if self.or_address else []
        text = (
            f"is not a subject that key = {shown(self.own['key'])} finds: accepted is one like "
            f"{' or '.join(map(repr, examples))}"
        )
        exempt, overrides = self.own.get("exempt"), self.own.get("overrides")
        if isinstance(exempt, dict) and "keys" in exempt:
            for place, name in enumerate(self.values["exempt"].get("keys", ())):
                if name and not findable(name, self.key, self.or_address):
                    self.add("exempt", "keys", place, text=f"{text} (networks: exempt.networks)")
        for name in overrides if isinstance(overrides, dict) else ():
            if not findable(name.strip(), self.key, self.or_address):
                hint = " (a comma in a subject is written \\,)" if "," in name else ""
                self.add("overrides", name, text=text + hint)

    def limits(self) -> tuple[Policy, ...] | None:
        """The policy's limits; None if they are missing or wrong."""
        if "limits" not in self.own:
            self.add("limits", text="is missing: accepted is a limit, as in limits = '100/minute'")
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

    def overrides(self, limiter: Any) -> _Numbers:
        """The limits of each name in ``overrides``; wrong ones are left out."""
        path = (*self.path, "overrides")
        overrides: _Numbers = {}
        table = self.notes.table(path, self.own.get("overrides", {}), None, is_secret=True)
        for name, limits in table.items():
            if not isinstance(limits, str) or limiter is None:
                limits = read_limits(
                    self.notes, (*path, name), limits, self.values.get("algorithm")
                )
            if limits is not None and limiter is not None:
                plan = self.notes.read((*path, name), partial(limiter_calls.plan, limiter), limits)
                if plan is not None:
                    overrides[name] = plan.policies
        return overrides

    def subjects(self, name: str) -> frozenset[str]:
        """The subjects that a name means."""
        return meant(name, self.key, self.or_address)

    def exempt_keys(self) -> frozenset[str]:
        """The subjects that are exempt."""
        names = filter(None, self.values.get("exempt", {}).get("keys", ()))
        return frozenset().union(*map(self.subjects, names))

    def by_subject(self, overrides: _Numbers, exempt: frozenset[str]) -> _Numbers:
        """The overrides by subject: a name may mean several subjects."""
        by_subject: _Numbers = {}
        names: dict[str, str] = {}
        for name, own in overrides.items():
            subjects = self.subjects(name.strip())
            if subjects & exempt:
                self.add(
                    "overrides",
                    name,
                    text="is for a subject that exempt.keys names, too: accepted is one of the two",
                )
            lines = [
                self.notes.line((*self.path, "overrides", names[subject]))
                for subject in subjects
                if by_subject.get(subject, own) != own
            ]
            if lines:
                self.add(
                    "overrides",
                    name,
                    text=f"is for a subject that has other limits in line {min(lines)}: accepted is one "
                    f"override for each",
                )
            for subject in subjects:
                by_subject.setdefault(subject, own)
                names.setdefault(subject, name)
        return by_subject

    def check_cost(self, limiter: Any, overrides: _Numbers) -> None:
        """Check that a fixed cost is not above every limit, which would refuse all requests."""
        if not isinstance(self.values["cost"], int):
            return
        for limits in (None, *overrides.values()):
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
        self, limiter: Any, exempt_keys: frozenset[str], overrides: _Numbers, is_default: bool
    ) -> Rule:
        """The rule of a table without faults."""
        values = self.values
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
            overrides=overrides,
            unidentified=values["unidentified"],
            preflights=values["preflights"],
            new_subjects=NewSubjects(bound.text) if bound and self.is_chosen else None,
            is_default=is_default,
            unit=self.unit(),
            by_response=self.by_response(),
        )


def _described(
    rule: Rule, written: Mapping[str, Any], limits: tuple[Policy, ...], overrides: int
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
        "overrides": overrides,
        "unidentified": rule.unidentified,
        "preflights": rule.preflights,
        "new_subjects": rule.new_subjects and rule.new_subjects.text,
        "default": rule.is_default,
    }

"""Find the checks of an entry: which policies apply to it, to which subjects, and at which cost.

The rules are those of the service. Requests that look the same to all rules share what was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from limiter.call import Block, CallTemplate
from limiter.errors import InvalidCost
from limiter.keys import Key
from limiter.plan import Plan
from limiter.policies import Policy
from limiter.policyfile.reading import PolicyFile
from limiter.simulate.entry import Entry
from limiter.web import limiter_calls
from limiter.web.guard import Guard
from limiter.web.identity import Ambiguous, Network, Unidentified, is_trusted
from limiter.web.paths import path_of_target
from limiter.web.request import Request, bare_host
from limiter.web.rules import Check, Rule

#: Results that are kept for requests that look the same; if there are more, all are found again.
_MOST_KEPT = 50_000


class Applied(NamedTuple):
    """A rule that applies to a request."""

    rule: int
    """The place of the rule."""
    subject: Key
    cost: int
    blocks: range
    """The places of its blocks in the call."""
    limits: tuple[Policy, ...]
    """The limits of the subject: the rule's own, or those of its plan, override or class."""


class Found:
    """The checks of a request.

    Attributes:
        applied: The rules that apply, in the order of the file.
        template: The call that decides all of them.
        is_single: Whether the call has one block, and no rule is missing.
        unidentified: The places of the rules for which the request has no usable key.
        too_large: The places of the rules whose limits never admit the cost.
        is_refused: Whether the request is refused, whatever the limits have counted.

    """

    __slots__ = ("applied", "is_refused", "is_single", "template", "too_large", "unidentified")

    applied: tuple[Applied, ...]
    template: CallTemplate
    is_single: bool

    def __init__(self) -> None:
        self.unidentified: tuple[int, ...] = ()
        self.too_large: tuple[int, ...] = ()
        self.is_refused = False


def plan_of_rates(rule: Rule) -> Plan | None:
    """Return the plan of a rule without leases: a log does not show for how long these are held."""
    return limiter_calls.plan(rule.limiter).of_rates


class Finder:
    """Finds the checks of requests by the rules of a policy file; ``needed`` are the fields they read."""

    def __init__(self, file: PolicyFile, trusted: Sequence[Network], needed: Sequence[str]) -> None:
        self.rules = [named.rule for named in file.policies.values()]
        self._guard = Guard(self.rules, trusted, address_from=file.address_from)
        self._needed = tuple(needed)
        #: The needed fields that a request had.
        self.seen: set[str] = set()
        #: Whether a trusted proxy has reported the address of a client.
        self.has_proxy = False
        self._by_path = any(rule.match.paths or rule.exempt_paths for rule in self.rules)
        keys = [named.description["key"] for named in file.policies.values()]
        self._by_host = any(rule.match.hosts for rule in self.rules) or any(
            "host" in ([key] if isinstance(key, str) else key) for key in keys
        )
        self._numbers = count()
        #: What the rules see of a method, host and path, as a number; equal for all that they see alike.
        self._views: dict[Any, int | None] = {}
        self._number_of: dict[Any, int] = {}
        self._found: dict[Any, Found] = {}
        #: By rule, cost and limits: the limits that count units, and their blocks.
        self._blocks: dict[Any, tuple[tuple[Policy, ...], tuple[Block, ...]]] = {}
        self._templates: dict[Any, CallTemplate] = {}

    def find(self, entry: Entry) -> Found:
        """Return the checks of an entry's request."""
        _, method, host, target, address, headers, _ = entry
        name: Any = method
        if self._by_path:
            name = method, host, target.partition("?")[0]
        elif self._by_host:
            name = method, host
        view = self._views.get(name, -1)
        if view == -1:
            view = self._view(name, entry)
        if view is None:
            return self._find(_request(entry))
        known: Any = view, address
        if headers:
            known = view, address, *[headers.get(field) for field in self._needed]
        found = self._found.get(known)
        if found is None:
            _bound(self._found)
            self._note(address, headers)
            found = self._found[known] = self._find(_request(entry))
        return found

    def _view(self, name: Any, entry: Entry) -> int | None:
        """Return the number of what the rules see of a request; None if it must be found each time."""
        view: Any = None
        if entry.method != "OPTIONS":  # whether it is a preflight depends on other fields
            request = _request(entry)
            try:
                view = (
                    request.host if self._by_host else "",
                    *[_view(rule, request) for rule in self.rules],
                )
            except Ambiguous:
                view = None
        _bound(self._views)
        if view is None:
            self._views[name] = None
            return None
        if view not in self._number_of:
            _bound(self._number_of)
            self._number_of[view] = next(self._numbers)
        number = self._views[name] = self._number_of[view]
        return number

    def _note(self, address: str, headers: Mapping[str, str]) -> None:
        """Remember which fields the log has."""
        self.seen.update(headers)
        if not self.has_proxy and self._guard.address_from in headers:
            self.has_proxy = is_trusted(address, self._guard.trusted)

    def _find(self, request: Request) -> Found:
        found = Found()
        applied: list[Applied] = []
        names: list[Any] = []
        blocks: list[Block] = []
        for place, rule in enumerate(self.rules):
            try:
                check = self._guard.consider(request, rule)
                if isinstance(check, Check):
                    name = place, check.cost, check.limits
                    limits, own = self._blocks.get(name) or self._prepare(name, check)
                    if own:
                        names.append(name)
                        places = range(len(blocks), len(blocks) + len(own))
                        blocks += own
                        applied.append(Applied(place, check.key, check.cost, places, limits))
            except Ambiguous:
                found.unidentified += (place,)
                found.is_refused |= not rule.shadow
            except Unidentified:
                found.unidentified += (place,)
            except InvalidCost:
                found.too_large += (place,)
                found.is_refused |= not rule.shadow
        found.applied = tuple(applied)
        found.template = self._template(tuple(names), blocks)
        is_whole = not (found.unidentified or found.too_large)
        found.is_single = is_whole and len(blocks) == 1
        return found

    def _prepare(self, name: Any, check: Check) -> tuple[tuple[Policy, ...], tuple[Block, ...]]:
        """Return the limits of a check that count units, and their blocks; both may be empty.

        Raises:
            InvalidCost: The cost is more than the limits ever admit at once.

        """
        part = check.part()
        plan = part.plan.of_rates
        limits: tuple[Policy, ...] = ()
        blocks: tuple[Block, ...] = ()
        if plan is not None:
            costs = part.plan.each_cost(part.cost)
            pairs = zip(costs, part.plan.policies, strict=True)
            rates = tuple(cost for cost, policy in pairs if not policy.leases)
            limits, blocks = plan.policies, plan.blocks(rates, 0, "", part.shadow)
        _bound(self._blocks)
        self._blocks[name] = limits, blocks
        return limits, blocks

    def _template(self, names: tuple[Any, ...], blocks: Sequence[Block]) -> CallTemplate:
        """Return the call of these blocks, by their names."""
        template = self._templates.get(names)
        if template is None:
            _bound(self._templates)
            template = self._templates[names] = CallTemplate("hit", 0, 0, tuple(blocks))
        return template


def _bound(kept: dict[Any, Any]) -> None:
    """Forget all that is kept, if it is too much."""
    if len(kept) >= _MOST_KEPT:
        kept.clear()


def _view(rule: Rule, request: Request) -> Any:
    """Return what a rule sees of a request's method, host and path."""
    parts = rule.match.parts(request)
    if parts is None:
        return rule.match.missed(request)
    is_exempt = bool(rule.exempt_paths) and all(
        any(expression.fullmatch(path) for expression in rule.exempt_paths)
        for path in request.readings
    )
    return is_exempt, tuple(parts.items())


def _request(entry: Entry) -> Request:
    """Make the request of an entry."""
    return Request(
        entry.method.upper(),
        bare_host(entry.host) if entry.host else "",
        path_of_target(entry.target),
        entry.headers,
        entry.address or None,
        target=entry.target,
    )

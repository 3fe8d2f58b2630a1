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
_MOST_KEPT = 100_000


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
        places: Of each of its blocks, the place of its rule, and the subject.
        unidentified: The places of the rules for which the request has no usable key.
        too_large: The places of the rules whose limits never admit the cost.
        is_refused: Whether the request is refused, whatever the limits have counted.
        only: The place of the rule, the block and the subject, if there is nothing else.

    """

    __slots__ = (
        *("applied", "is_refused", "only", "places", "template", "too_large", "unidentified"),
    )

    def __init__(self) -> None:
        self.applied: list[Applied] = []
        self.template = CallTemplate("hit", 0, 0, ())
        self.places: list[tuple[int, Key]] = []
        self.unidentified: list[int] = []
        self.too_large: list[int] = []
        self.is_refused = False
        self.only: tuple[int, Block, Key] | None = None


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
        self._templates: dict[tuple[Block, ...], CallTemplate] = {}

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
            if len(self._found) >= _MOST_KEPT:
                self._found.clear()
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
        if len(self._views) >= _MOST_KEPT:
            self._views.clear()
        if view is None:
            self._views[name] = None
            return None
        if view not in self._number_of:
            if len(self._number_of) >= _MOST_KEPT:
                self._number_of.clear()
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
        blocks: list[Block] = []
        for place, rule in enumerate(self.rules):
            try:
                check = self._guard.consider(request, rule)
                if isinstance(check, Check):
                    self._add(found, place, check, blocks)
            except Ambiguous:
                found.unidentified.append(place)
                found.is_refused |= not rule.shadow
            except Unidentified:
                found.unidentified.append(place)
            except InvalidCost:
                found.too_large.append(place)
                found.is_refused |= not rule.shadow
        named = tuple(blocks)
        template = self._templates.get(named)
        if template is None:
            if len(self._templates) >= _MOST_KEPT:
                self._templates.clear()
            template = self._templates[named] = CallTemplate("hit", 0, 0, named)
        found.template = template
        if len(blocks) == 1 and not (found.unidentified or found.too_large):
            place, subject = found.places[0]
            found.only = place, blocks[0], subject
        return found

    def _add(self, found: Found, place: int, check: Check, blocks: list[Block]) -> None:
        part = check.part()
        plan = part.plan.of_rates
        if plan is None:
            return
        costs = part.plan.each_cost(part.cost)
        rates = [
            cost
            for cost, policy in zip(costs, part.plan.policies, strict=True)
            if not policy.leases
        ]
        own = plan.blocks(tuple(rates), 0, "", part.shadow)
        begin = len(blocks)
        blocks += own
        found.places += [(place, check.key)] * len(own)
        cost = check.cost
        found.applied.append(
            Applied(place, check.key, cost, range(begin, len(blocks)), plan.policies)
        )


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
        bare_host(entry.host),
        path_of_target(entry.target),
        entry.headers,
        entry.address or None,
        target=entry.target,
    )

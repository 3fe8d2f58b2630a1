"""Find the checks of an entry: which policies apply to it, to which subjects, and at which cost.

The rules are those of the service. Requests that look the same to all rules share what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from limiter.call import Block, CallTemplate
from limiter.errors import InvalidCost
from limiter.keys import Key
from limiter.plan import Plan
from limiter.policies import Policy
from limiter.policyfile.reading import PolicyFile
from limiter.simulate.entry import Entry
from limiter.simulate.states import States
from limiter.web import limiter_calls
from limiter.web.guard import Guard
from limiter.web.identity import Ambiguous, Network, Unidentified, is_trusted
from limiter.web.paths import path_of_target
from limiter.web.request import Request, bare_host
from limiter.web.rules import Check, Rule

#: Results that are kept for requests that look the same; if there are more, all are found again.
_MOST_KEPT = 50_000


class Charge(NamedTuple):
    """A rule that applies to requests, without its subject."""

    rule: int
    """The place of the rule."""
    cost: int
    limits: tuple[Policy, ...]
    """The limits of the subject: the rule's own, or those of its plan, override or class."""
    blocks: range
    """The places of its blocks in the call."""


class Place(NamedTuple):
    """Where the state of a block is."""

    charge: int
    """The place of its charge, which is also that of its subject."""
    states: States
    policy: Policy


class Checks(NamedTuple):
    """The checks of all requests to which the same rules apply at the same costs."""

    charges: tuple[Charge, ...]
    """The rules that apply, in the order of the file."""
    template: CallTemplate
    """The call that decides all of them."""
    places: tuple[Place, ...]
    """One for each block of the call."""
    unidentified: tuple[int, ...]
    """The places of the rules for which the requests have no usable key."""
    too_large: tuple[int, ...]
    """The places of the rules whose limits never admit the cost."""
    is_refused: bool
    """Whether the requests are refused, whatever the limits have counted."""
    is_single: bool
    """Whether the call has one block, and no rule is missing."""


class _Prepared(NamedTuple):
    """What is known of a rule's checks at one cost and with the same limits."""

    rule: int
    cost: int
    limits: tuple[Policy, ...]
    """Those that count units; perhaps none."""
    blocks: tuple[Block, ...]


#: The checks of a request, and the subject of each charge.
Found = tuple[Checks, tuple[Key, ...]]


def plan_of_rates(rule: Rule) -> Plan | None:
    """Return the plan of a rule without leases: a log does not show for how long these are held."""
    return limiter_calls.plan(rule.limiter).of_rates


class Finder:
    """Finds the checks of requests by the rules of a policy file; ``states`` are those of each rule."""

    def __init__(
        self, file: PolicyFile, trusted: Sequence[Network], states: Sequence[Sequence[States]]
    ) -> None:
        self.rules = [named.rule for named in file.policies.values()]
        self._states = states
        self._guard = Guard(self.rules, trusted, address_from=file.address_from)
        #: The needed fields that a request had.
        self.seen: set[str] = set()
        #: Whether a trusted proxy has reported the address of a client.
        self.has_proxy = False
        self._by_path = any(rule.match.paths or rule.exempt_paths for rule in self.rules)
        keys = [named.description["key"] for named in file.policies.values()]
        self._by_host = any(rule.match.hosts for rule in self.rules) or any(
            "host" in ([key] if isinstance(key, str) else key) for key in keys
        )
        usual = Request("", "", "/", {}, None, address_from=file.address_from)
        self._usual = usual.__dict__
        self._numbers = count(1)
        #: What the rules see of a method, host and path, as a number; equal for all that they see alike.
        self._views: dict[Any, int | None] = {}
        self._number_of: dict[Any, int] = {}
        self._found: dict[Any, Found] = {}
        #: By rule, cost and limits.
        self._prepared: dict[Any, _Prepared] = {}
        self._checks: dict[Any, Checks] = {}

    def find(self, entry: Entry) -> Found:
        """Return the checks of an entry's request, and their subjects."""
        _, method, host, target, address, headers, _ = entry
        name: Any = method
        if self._by_path:
            name = method, host, target.partition("?")[0]
        elif self._by_host:
            name = method, host
        request = None
        view = self._views.get(name, 0)
        if view == 0:
            request = self._request(entry)
            view = self._view(name, request)
        if view is None:
            return self._find(request or self._request(entry))
        known: Any = (view, address, *headers.items()) if headers else (view, address)
        found = self._found.get(known)
        if found is None:
            _bound(self._found)
            self._note(entry)
            found = self._found[known] = self._find(request or self._request(entry))
        return found

    def _request(self, entry: Entry) -> Request:
        """Make the request of an entry, with the parts that a rule reads."""
        request = object.__new__(Request)  # __init__ takes longer than all the rest
        request.__dict__.update(
            self._usual,
            method=entry.method.upper(),
            headers=entry.headers,
            peer=entry.address or None,
        )
        if self._by_path:
            request.__dict__.update(path=path_of_target(entry.target), target=entry.target)
        if self._by_host:
            request.__dict__["host"] = bare_host(entry.host) if entry.host else ""
        return request

    def _view(self, name: Any, request: Request) -> int | None:
        """Return the number of what the rules see of a request; None if it must be found each time."""
        view: Any = None
        if request.method != "OPTIONS":  # whether it is a preflight depends on other fields
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

    def _note(self, entry: Entry) -> None:
        """Remember which fields the log has."""
        if entry.headers:
            self.seen.update(entry.headers)
            if not self.has_proxy and self._guard.address_from in entry.headers:
                self.has_proxy = is_trusted(entry.address, self._guard.trusted)

    def _find(self, request: Request) -> Found:
        consider, prepared = self._guard.consider, self._prepared
        names: list[Any] = []
        applied: list[_Prepared] = []
        subjects: list[Key] = []
        unidentified: tuple[int, ...] = ()
        too_large: tuple[int, ...] = ()
        is_refused = False
        for place, rule in enumerate(self.rules):
            try:
                check = consider(request, rule)
                if isinstance(check, Check):
                    _, subject, cost, limits, *_ = check
                    name = place, cost, limits
                    own = prepared.get(name) or self._prepare(name, check)
                    if own.blocks:
                        names.append(name)
                        applied.append(own)
                        subjects.append(subject)
            except Ambiguous:
                unidentified += (place,)
                is_refused |= not rule.shadow
            except Unidentified:
                unidentified += (place,)
            except InvalidCost:
                too_large += (place,)
                is_refused |= not rule.shadow
        known = tuple(names), unidentified, too_large, is_refused
        return self._checks.get(known) or self._join(applied, *known), tuple(subjects)

    def _prepare(self, name: Any, check: Check) -> _Prepared:
        """Prepare a check.

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
        _bound(self._prepared)
        prepared = self._prepared[name] = _Prepared(name[0], check.cost, limits, blocks)
        return prepared

    def _join(
        self,
        applied: Sequence[_Prepared],
        names: tuple[Any, ...],
        unidentified: tuple[int, ...],
        too_large: tuple[int, ...],
        is_refused: bool,
    ) -> Checks:
        """Return the checks of the rules that apply."""
        charges: list[Charge] = []
        blocks: list[Block] = []
        places: list[Place] = []
        for number, (rule, cost, limits, own) in enumerate(applied):
            charges.append(Charge(rule, cost, limits, range(len(blocks), len(blocks) + len(own))))
            blocks += own
            places += [Place(number, self._states[rule][each.key], each.policy) for each in own]
        template = CallTemplate("hit", 0, 0, tuple(blocks))
        is_single = len(blocks) == 1 and not (unidentified or too_large)
        _bound(self._checks)
        checks = self._checks[names, unidentified, too_large, is_refused] = Checks(
            tuple(charges),
            template,
            tuple(places),
            unidentified,
            too_large,
            is_refused,
            is_single,
        )
        return checks


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

"""Which limits hold for a route and a method, as rules that are asked together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from flask import Flask

from limiter.errors import InvalidSetting
from limiter.flask.dynamic import ByAmount
from limiter.flask.limits import Limit, ViewRule, spoken_name, state_name
from limiter.flask.registry import Place, Registry, place
from limiter.flask.setup import Make, Setup
from limiter.web.guard import Guard

#: Methods that have a count of their own where nobody routed the request; all others share one.
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)

#: So many guards of functions that are no views are kept.
_LATE_KEPT = 1024


class Where(NamedTuple):
    """What decides which limits hold."""

    endpoint: str | None
    """None: no route matches."""
    method: str
    silent: frozenset[Limit] = frozenset()
    """Those whose function says that there is none."""


class Found(NamedTuple):
    """What holds somewhere."""

    guard: Guard | None
    own: frozenset[Limit]
    """Those on the route's functions, which need not be asked again when these are called."""
    dynamic: tuple[Limit, ...]
    """Those that a function says for each request."""


class Finder:
    """The limits of an application, by route and method; each is worked out once."""

    def __init__(self, registry: Registry, app: Flask, setup: Setup) -> None:
        self._registry, self._app, self._setup = registry, app, setup
        self._found: dict[Where, Found] = {}
        self._fallbacks: dict[tuple[str | None, str], Guard] = {}
        self._late: dict[tuple[Limit, str], Guard] = {}
        #: Whether a limit waits for the response before it is charged for good.
        self.settles = False
        for limits in (setup.application, setup.default, setup.fallback):
            self._rules(_wide("", limits, (), ""), "GET")  # what is wrong shows at the start

    def forget(self) -> None:
        """Work all out anew: something was declared."""
        self._found.clear()
        self._fallbacks.clear()

    def where(self, current: Any) -> Where | None:
        """Where a request belongs; None where no limit is about it."""
        rule, method = current.url_rule, current.method
        if rule is None:
            return Where(None, method if method in _METHODS else "OTHER")
        if (
            method == "OPTIONS"
            and getattr(rule, "provide_automatic_options", False)
            and not self._setup.limit_options
        ):
            return None
        return Where(rule.endpoint, method)

    def find(self, where: Where) -> Found:
        """What holds there."""
        found = self._found.get(where)
        if found is None:
            own = []
            if where.endpoint is not None:
                own = self._registry.own(self._app, where.endpoint, where.method)
            places = [
                one
                for one in self._places(where, own)
                if one.limit.is_about(where.method) and one.limit not in where.silent
            ]
            found = self._found[where] = Found(
                self._guard(places, where.method) if places else None,
                frozenset(one.limit for one in own),
                tuple(one.limit for one in places if callable(one.limit.amount)),
            )
        return found

    def late(self, limit: Limit, function: Callable[..., Any], method: str) -> Guard:
        """The guard of a limit on a function that is no view."""
        key = (limit, method if limit.per_method else "")
        guard = self._late.get(key)
        if guard is None:
            where = (f"{function.__module__}.{function.__qualname__}",)
            found = place(limit, "-function", where, function.__name__)
            guard = self._guard([found], method)
            while len(self._late) >= _LATE_KEPT:  # somebody declares limits in a view
                self._late.pop(next(iter(self._late)), None)
            self._late[key] = guard
        return guard

    def fallback(self, where: Where) -> Guard:
        """What this process asks by itself while the store does not decide."""
        key = (where.endpoint, where.method)
        guard = self._fallbacks.get(key)
        if guard is None:
            places = _wide("-fallback", self._setup.fallback, (where.endpoint or "",), "fallback")
            guard = self._guard(places, where.method, self._setup.make_fallback)
            self._fallbacks[key] = guard
        return guard

    # --- limits of a route ---

    def _places(self, where: Where, own: Sequence[Place]) -> list[Place]:
        """The application's limits, the route's own, its blueprints', and the default."""
        endpoint, method, silent = where
        setup = self._setup
        application = _wide("", setup.application, (), "application")
        if endpoint is None:
            if not setup.default_unmatched:
                return application
            return application + _wide("-unmatched", setup.default, (), "default")
        if not setup.limit_static and self._is_static(endpoint):
            return []
        exempt, also_own = self._registry.exemption(self._app, endpoint, method)
        found = [] if exempt.application else application
        mine = [one for one in own if one.limit.is_about(method) and one.limit not in silent]
        if not also_own:
            found += mine
        if exempt.others or _overrides(mine):
            return found
        near = self._registry.of_blueprints(self._app, endpoint, method, silent)
        if not _overrides(near):
            near += _wide("-default", setup.default, (endpoint,), "default")
        return found + near

    def _is_static(self, endpoint: str) -> bool:
        """Whether a route is Flask's own for static files; another of that name is not."""
        before, _, last = endpoint.rpartition(".")
        if last != "static":
            return False
        owner = self._app.blueprints.get(before) if before else self._app
        return owner is not None and owner.has_static_folder

    # --- rules ---

    def _guard(self, places: Sequence[Place], method: str, make: Make | None = None) -> Guard:
        rules = self._rules(places, method, make)
        return Guard(rules, self._setup.trusted, self._setup.observe)

    def _rules(
        self, places: Sequence[Place], method: str, make: Make | None = None
    ) -> list[ViewRule]:
        rules: list[ViewRule] = []
        states: set[str] = set()
        called: list[str] = []
        for one in dict.fromkeys(places):
            kind, *where = one.state
            parts = [*where, *([method] if one.limit.per_method else [])]
            state = state_name(self._setup.name + kind, *parts)
            if state in states:
                raise InvalidSetting(
                    f"scope is {one.called!r} of two limits of one route: they would count in one place"
                )
            states.add(state)
            called.append(spoken_name(one.called))
            count = called.count(called[-1])
            name = called[-1] if count == 1 else f"{called[-1]}-{count}"
            rules.append(self._rule(one.limit, state, name, make or self._setup.make))
        return rules

    def _rule(self, limit: Limit, state: str, called: str, make: Make) -> ViewRule:
        dynamic = callable(limit.amount)
        amount: Any = "1/second" if dynamic else limit.amount
        limiter = make(state, amount)
        if limit.deduct_when is not None:
            if any(policy.leases for policy in limiter.policies):
                raise InvalidSetting("deduct_when is of no use here: a lease is given back anyway")
            self.settles = True
        rule = ViewRule(
            limiter,
            identity=limit.identity or self._setup.identity,
            form=self._setup.form,
            shadow=limit.shadow,
            percent=limit.percent,
            unidentified=limit.unidentified,
            limit=limit,
            called=called,
        )
        if dynamic:
            object.__setattr__(rule, "make", ByAmount(rule, partial(make, state)))
        return rule


def _wide(kind: str, limits: Iterable[Limit], where: tuple[str, ...], called: str) -> list[Place]:
    """The places of limits that no function or blueprint carries."""
    return [
        Place(limit, (kind if number == 1 else f"{kind}-{number}", *where), called)
        for number, limit in enumerate(limits, 1)
    ]


def _overrides(places: Sequence[Place]) -> bool:
    return any(one.limit.override_defaults for one in places)

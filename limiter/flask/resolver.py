"""Which limits hold for a route and a method, as rules that are asked together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from flask import Flask, current_app

from limiter.client import Limiter
from limiter.errors import InvalidSetting
from limiter.flask.dynamic import ByAmount
from limiter.flask.limits import DeclaredLimit, ViewRule, spoken_name, state_name
from limiter.flask.registry import PlacedLimit, Registry, blueprints, place
from limiter.flask.setup import Make, Setup
from limiter.web import limiter_calls
from limiter.web.guard import Guard

#: Methods that have a count of their own where nobody routed the request; all others share one.
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)

#: So many guards of functions that are no views are kept.
_LATE_KEPT = 1024


log = logging.getLogger("limiter.flask")


class RouteKey(NamedTuple):
    """What decides which limits hold."""

    endpoint: str | None
    """None: no route matches."""
    method: str
    silent: frozenset[DeclaredLimit] = frozenset()
    """Those whose function says that there is none."""


class LimitGroup(NamedTuple):
    """Limits that are asked together."""

    guard: Guard | None
    """None: there are none."""
    dynamic: tuple[DeclaredLimit, ...] = ()
    """Those that a function says for each request."""


class RouteLimits(NamedTuple):
    """What holds somewhere."""

    before: LimitGroup
    """What is asked before the view."""
    at_view: LimitGroup
    """What is asked when one of the route's own functions is called before its limits are met."""
    own: frozenset[DeclaredLimit]
    """The limits on the route's functions."""


class LimitResolver:
    """The limits of an application, by route and method; each is worked out once."""

    #: False: all limits of a route are asked before its view, those of other functions once in a request.
    #: True: a function's limits are asked when it is called, and each time.
    as_called: ClassVar[bool] = False

    def __init__(self, registry: Registry, setup: Setup) -> None:
        self._registry, self._setup = registry, setup
        self._found: dict[RouteKey, RouteLimits] = {}
        self._fallbacks: dict[RouteKey, LimitGroup] = {}
        self._late: dict[tuple[DeclaredLimit, tuple[str, ...], str], Guard] = {}
        self._warned: set[str] = set()
        #: Whether a limit waits for the response before it is charged for good.
        self.settles = False
        for limit in (*setup.application, *setup.default, *setup.fallback, *registry.limits):
            self.check(limit)

    def check(self, limit: DeclaredLimit) -> None:
        """Raise what is wrong with a limit, by the algorithm that holds here."""
        self._rules(_wide("", [limit], (), ""), "GET")

    def forget(self) -> None:
        """Work all out anew: something was declared."""
        self._found.clear()
        self._fallbacks.clear()

    def where(self, current: Any) -> RouteKey | None:
        """Where a request belongs; None where no limit is about it."""
        rule, method = current.url_rule, current.method
        if rule is None:
            return RouteKey(None, method if method in _METHODS else "OTHER")
        if (
            method == "OPTIONS"
            and getattr(rule, "provide_automatic_options", False)
            and not self._setup.limit_options
        ):
            return None
        return RouteKey(rule.endpoint, method)

    def _warn(self, app: Flask, endpoint: str) -> None:
        """Warn, once, that a route has no part in a limit that was likely meant for it.

        Raises:
            InvalidSetting: The limit was given the view in the place of limits.

        """
        self._registry.check_view(app.view_functions.get(endpoint))
        if endpoint not in self._warned and self._registry.is_passed_by(app, endpoint):
            self._warned.add(endpoint)
            log.warning(
                "the function of route %s was limited after it had become the route's view, which has no "
                "part in that: put the limit between the route's decorator and the function",
                endpoint,
            )

    def find(self, where: RouteKey) -> RouteLimits:
        """What holds there, in the current application."""
        found = self._found.get(where)
        if found is None:
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            own = []
            if where.endpoint is not None:
                own = self._registry.own(app, where.endpoint, where.method)
                self._warn(app, where.endpoint)
            before, at_view = self._places(app, where, own)
            asked = self._asking(before, where)
            found = self._found[where] = RouteLimits(
                asked,
                asked if at_view is None else self._asking(at_view, where),
                frozenset(one.limit for one in own),
            )
        return found

    def before(self, where: RouteKey) -> LimitGroup:
        """What is asked before the view."""
        return self.find(where).before

    def at_view(self, where: RouteKey) -> LimitGroup:
        """What is asked when one of the route's own functions is called before its limits are met."""
        return self.find(where).at_view

    def late(
        self, limit: DeclaredLimit, function: Callable[..., Any], where: RouteKey
    ) -> LimitGroup:
        """What a limit on a function that is no view asks."""
        if limit in where.silent or not limit.is_about(where.method):
            return LimitGroup(None)
        spot = self._spot(function, where)
        key = (limit, spot, where.method if limit.per_method else "")
        guard = self._late.get(key)
        if guard is None:
            found = place(limit, "-function", spot, function.__name__)
            guard = self._guard([found], where.method)
            while len(self._late) >= _LATE_KEPT:  # somebody declares limits in a view
                self._late.pop(next(iter(self._late)), None)
            self._late[key] = guard
        return LimitGroup(guard, _dynamic([limit]))

    def fallback(self, where: RouteKey) -> LimitGroup:
        """What this process asks by itself while the store does not decide."""
        found = self._fallbacks.get(where)
        if found is None:
            places = _wide("-fallback", self._setup.fallback, (where.endpoint or "",), "fallback")
            found = self._asking(places, where, self._setup.make_fallback)
            self._fallbacks[where] = found
        return found

    def _asking(
        self, places: Sequence[PlacedLimit], where: RouteKey, make: Make | None = None
    ) -> LimitGroup:
        """The guard of those that hold there."""
        held = [one for one in places if one.limit.is_about(where.method)]
        held = [one for one in held if one.limit not in where.silent]
        guard = self._guard(held, where.method, make) if held else None
        return LimitGroup(guard, _dynamic(one.limit for one in held))

    # --- limits of a route ---

    def _places(
        self, app: Flask, where: RouteKey, own: Sequence[PlacedLimit]
    ) -> tuple[list[PlacedLimit], list[PlacedLimit] | None]:
        """The application's limits, the route's own, its blueprints', and the default.

        Before the view, and at it; None: all are asked before it. Who asks leaves out those that are
        about other methods, and those that are silent.
        """
        endpoint, method, _ = where
        setup, registry = self._setup, self._registry
        application = self._application()
        if endpoint is None:
            return application + _wide("-unmatched", setup.default, (), "default"), None
        if not setup.limit_static and self._is_static(app, endpoint):
            return [], None
        names = blueprints(endpoint)
        by_itself = registry.exemptions(app, endpoint, method)
        exemptions = by_itself + [
            one
            for depth, one in enumerate(registry.exemption_of(app, name) for name in names)
            if one is not None and (depth == 0 or one.nested)
        ]
        found = [] if any(one.application for one in exemptions) else application
        if not by_itself:
            found += own
        if exemptions or _overrides(own, where):
            return found, None
        for name in names:
            near = registry.of_blueprint(app, name, endpoint)
            found += near
            if _overrides(near, where):
                return found, None
        return found + self._default(endpoint), None

    def _application(self) -> list[PlacedLimit]:
        return _wide("", self._setup.application, (), "application")

    def _default(self, endpoint: str) -> list[PlacedLimit]:
        return _wide("-default", self._setup.default, (endpoint,), "default")

    def _spot(self, function: Callable[..., Any], where: RouteKey) -> tuple[str, ...]:
        """By what the count of a function that is no view is named."""
        return (f"{function.__module__}.{function.__qualname__}",)

    def _is_static(self, app: Flask, endpoint: str) -> bool:
        """Whether a route is Flask's own for static files; another of that name is not."""
        before, _, last = endpoint.rpartition(".")
        if last != "static":
            return False
        owner = app.blueprints.get(before) if before else app
        return owner is not None and owner.has_static_folder

    # --- rules ---

    def _guard(self, places: Sequence[PlacedLimit], method: str, make: Make | None = None) -> Guard:
        rules = self._rules(places, method, make)
        return Guard(rules, self._setup.trusted, self._setup.observe)

    def _rules(
        self, places: Sequence[PlacedLimit], method: str, make: Make | None = None
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

    def _rule(self, limit: DeclaredLimit, state: str, called: str, make: Make) -> ViewRule:
        dynamic = callable(limit.amount)
        amount: Any = "1/second" if dynamic else limit.amount
        limiter = make(state, amount)
        if not (dynamic or callable(limit.cost)):
            self._check_cost(limit.cost, limiter)
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
            preflights=self._setup.preflights,
            limit=limit,
            called=called,
        )
        if dynamic:
            object.__setattr__(rule, "make", ByAmount(rule, partial(make, state)))
        return rule

    def _check_cost(self, cost: int, limiter: Limiter) -> None:
        """Raise InvalidCost where no request could ever pass."""
        limiter_calls.plan(limiter).checked(cost)


def _wide(
    kind: str, limits: Iterable[DeclaredLimit], where: tuple[str, ...], called: str
) -> list[PlacedLimit]:
    """The places of limits that no function or blueprint carries."""
    return [
        PlacedLimit(limit, (kind if number == 1 else f"{kind}-{number}", *where), called)
        for number, limit in enumerate(limits, 1)
    ]


def _overrides(places: Iterable[PlacedLimit], where: RouteKey) -> bool:
    """Whether one of those that hold there is in the place of what is further out."""
    return any(
        one.limit.override_defaults
        and one.limit.is_about(where.method)
        and one.limit not in where.silent
        for one in places
    )


def _dynamic(limits: Iterable[DeclaredLimit]) -> tuple[DeclaredLimit, ...]:
    return tuple(limit for limit in limits if callable(limit.amount))

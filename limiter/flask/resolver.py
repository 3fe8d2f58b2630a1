"""Find the limits of a route and a method, as rules that are checked together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from flask import Flask, current_app

from limiter.client import Limiter
from limiter.errors import InvalidSetting
from limiter.flask.dynamic import dynamic_rule
from limiter.flask.limits import DeclaredLimit, ViewRule, header_name, state_name
from limiter.flask.plain import PlainLimit
from limiter.flask.registry import PlacedLimit, Registry, blueprints, placed
from limiter.flask.setup import Make, Setup
from limiter.web import limiter_calls
from limiter.web.guard import Guard

#: Methods with a count of their own if no route matches the request; all others share one.
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)

#: How many guards of functions that are not views are kept.
_MOST_FUNCTIONS = 1024


log = logging.getLogger("limiter.flask")


class RouteKey(NamedTuple):
    """What decides which limits apply."""

    endpoint: str | None
    """None: no route matches."""
    method: str
    silent: frozenset[DeclaredLimit] = frozenset()
    """Limits whose function returned None."""


class LimitGroup(NamedTuple):
    """Limits that are checked together."""

    guard: Guard | None
    """None: there are none."""
    dynamic: tuple[DeclaredLimit, ...] = ()
    """Limits whose amount a function returns for each request."""
    plain: PlainLimit | None = None
    """The only limit, if it needs no more of a request than its client's address."""


class RouteLimits(NamedTuple):
    """The limits of a route."""

    before: LimitGroup
    """The limits that are checked before the view."""
    at_view: LimitGroup
    """The limits that are checked at a call of the route's function, unless checked before."""
    own: frozenset[DeclaredLimit]
    """The limits on the route's functions."""


class LimitResolver:
    """The limits of an application by route and method; each result is kept."""

    #: False: all limits of a route are checked before its view, and those of other functions once in a
    #: request. True: the limits of a function are checked at each call of it.
    as_called: ClassVar[bool] = False

    def __init__(self, registry: Registry, setup: Setup) -> None:
        self._registry, self._setup = registry, setup
        self._routes: dict[RouteKey, RouteLimits] = {}
        self._fallbacks: dict[RouteKey, LimitGroup] = {}
        self._functions: dict[tuple[DeclaredLimit, tuple[str, ...], str], Guard] = {}
        self._warned: set[str] = set()
        #: Whether one of the limits counts leases, or may: a function returns it.
        self.may_lease = False
        for limit in (*setup.application, *setup.default, *setup.fallback, *registry.limits):
            self.check(limit)

    def check(self, limit: DeclaredLimit) -> None:
        """Raise an error if a limit is wrong with this application's algorithm."""
        for rule in self._rules(placed([limit], "", (), ""), "GET"):
            self.may_lease |= rule.counts_leases or rule.by_amount is not None

    def forget(self) -> None:
        """Drop the results that are kept: a limit or an exemption was declared."""
        self._routes.clear()
        self._fallbacks.clear()

    def key_of(self, current: Any) -> RouteKey | None:
        """The key of a request's route; None if no limit applies to the request."""
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
        """Log, once, that a limit on a route's function does not apply to the route.

        Raises:
            InvalidSetting: The limit got the view in place of limits.

        """
        self._registry.check_view(app.view_functions.get(endpoint))
        if endpoint not in self._warned and self._registry.is_passed_by(app, endpoint):
            self._warned.add(endpoint)
            log.warning(
                "the function of route %s was limited after it had become the route's view, which is not "
                "limited: put the limit between the route's decorator and the function",
                endpoint,
            )

    def of_route(self, key: RouteKey) -> RouteLimits:
        """The limits of a route of the current application."""
        limits = self._routes.get(key)
        if limits is None:
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            own = []
            if key.endpoint is not None:
                own = self._registry.own(app, key.endpoint, key.method)
                self._warn(app, key.endpoint)
            before, at_view = self._of_route(app, key, own)
            group = self._group(before, key)
            limits = self._routes[key] = RouteLimits(
                group,
                group if at_view is None else self._group(at_view, key),
                frozenset(place.limit for place in own),
            )
        return limits

    def of_function(
        self, limit: DeclaredLimit, function: Callable[..., Any], key: RouteKey
    ) -> LimitGroup:
        """The limit on a function that is not a view."""
        if limit in key.silent or not limit.is_about(key.method):
            return LimitGroup(None)
        state = self._function_state(function, key)
        known = (limit, state, key.method if limit.per_method else "")
        guard = self._functions.get(known)
        if guard is None:
            guard = self._guard(placed([limit], "-function", state, function.__name__), key.method)
            while len(self._functions) >= _MOST_FUNCTIONS:  # a view may declare limits
                self._functions.pop(next(iter(self._functions)), None)
            self._functions[known] = guard
        return LimitGroup(guard, _dynamic([limit]))

    def of_fallback(self, key: RouteKey) -> LimitGroup:
        """The limits that this process decides by itself while the store does not."""
        group = self._fallbacks.get(key)
        if group is None:
            places = placed(self._setup.fallback, "-fallback", (key.endpoint or "",), "fallback")
            group = self._group(places, key, self._setup.make_fallback)
            self._fallbacks[key] = group
        return group

    def _group(
        self, places: Sequence[PlacedLimit], key: RouteKey, make: Make | None = None
    ) -> LimitGroup:
        """The limits that apply to the key, as a group."""
        applying = [place for place in places if _applies(place.limit, key)]
        if not applying:
            return LimitGroup(None)
        guard = self._guard(applying, key.method, make)
        dynamic = _dynamic(place.limit for place in applying)
        return LimitGroup(guard, dynamic, PlainLimit.of(guard, key.method))

    # --- limits of a route ---

    def _of_route(
        self, app: Flask, key: RouteKey, own: Sequence[PlacedLimit]
    ) -> tuple[list[PlacedLimit], list[PlacedLimit] | None]:
        """The application's limits, the route's own, its blueprints', and the default.

        First the limits before the view, then those at the view; None: all are checked before it. Both
        include limits of other methods, and silent ones.
        """
        endpoint, method, _ = key
        setup, registry = self._setup, self._registry
        application = self._application()
        if endpoint is None:
            return application + placed(setup.default, "-unmatched", (), "default"), None
        if not setup.limit_static and self._is_static(app, endpoint):
            return [], None
        names = blueprints(endpoint)
        by_itself = registry.exemptions(app, endpoint, method)
        exemptions = by_itself + [
            exemption
            for depth, exemption in enumerate(registry.exemption_of(app, name) for name in names)
            if exemption is not None and (depth == 0 or exemption.nested)
        ]
        places = [] if any(exemption.application for exemption in exemptions) else application
        if not by_itself:
            places += own
        if exemptions or _overrides(own, key):
            return places, None
        for name in names:
            near = registry.of_blueprint(app, name, endpoint)
            places += near
            if _overrides(near, key):
                return places, None
        return places + self._default(endpoint), None

    def _application(self) -> list[PlacedLimit]:
        return placed(self._setup.application, "", (), "application")

    def _default(self, endpoint: str) -> list[PlacedLimit]:
        return placed(self._setup.default, "-default", (endpoint,), "default")

    def _function_state(self, function: Callable[..., Any], key: RouteKey) -> tuple[str, ...]:
        """The name of the count of a function that is not a view."""
        return (f"{function.__module__}.{function.__qualname__}",)

    def _is_static(self, app: Flask, endpoint: str) -> bool:
        """Whether a route is Flask's own for static files, not another route named ``static``."""
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
        names: list[str] = []
        for place in dict.fromkeys(places):
            kind, *where = place.state
            parts = [*where, *([method] if place.limit.per_method else [])]
            state = state_name(self._setup.name + kind, *parts)
            if state in states:
                raise InvalidSetting(
                    f"scope is {place.called!r} of two limits of one route: give each its own"
                )
            states.add(state)
            names.append(header_name(place.called))
            count = names.count(names[-1])
            name = names[-1] if count == 1 else f"{names[-1]}-{count}"
            rules.append(self._rule(place.limit, state, name, make or self._setup.make))
        return rules

    def _rule(self, limit: DeclaredLimit, state: str, called: str, make: Make) -> ViewRule:
        is_dynamic = callable(limit.amount)
        if isinstance(limit.amount, Limiter):
            limiter = limit.amount
        else:
            limiter = make(state, "1/day" if callable(limit.amount) else limit.amount)
        if not (is_dynamic or callable(limit.cost)):
            self._check_cost(limit.cost, limiter)
        if limit.deduct_when is not None and any(policy.leases for policy in limiter.policies):
            raise InvalidSetting("deduct_when has no effect on Concurrency: leases are released")
        rule = ViewRule(
            limiter,
            identity=limit.identity or self._setup.identity,
            form=self._setup.form,
            shadow=limit.shadow,
            percent=limit.percent,
            unidentified=limit.unidentified,
            preflights=self._setup.preflights,
            by_response=limit.by_response,
            unit="requests" if limit.cost == 1 else "units",
            limit=limit,
            called=called,
        )
        return dynamic_rule(rule, partial(make, state)) if is_dynamic else rule

    def _check_cost(self, cost: int, limiter: Limiter) -> None:
        """Raise InvalidCost if no request could ever pass."""
        limiter_calls.plan(limiter).checked(cost)


def _applies(limit: DeclaredLimit, key: RouteKey) -> bool:
    return limit.is_about(key.method) and limit not in key.silent


def _overrides(places: Iterable[PlacedLimit], key: RouteKey) -> bool:
    """Whether one of the limits that apply replaces those of outer blueprints, and the default."""
    return any(place.limit.override_defaults and _applies(place.limit, key) for place in places)


def _dynamic(limits: Iterable[DeclaredLimit]) -> tuple[DeclaredLimit, ...]:
    return tuple(limit for limit in limits if callable(limit.amount))

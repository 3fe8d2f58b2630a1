"""Find the limits of a route by Flask-Limiter's rules, and when they are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Any, ClassVar

from flask import Flask

from limiter.client import Limiter
from limiter.compat.flask_limiter.constants import ExemptionScope as Scope
from limiter.flask.registry import PlacedLimit, blueprints
from limiter.flask.resolver import LimitResolver, RouteKey

#: If a blueprint is exempt with one of these, its limits and those of its parents do not apply.
_CLEARS = Scope.META | Scope.DESCENDENTS


class CompatResolver(LimitResolver):
    """Resolves limits as ``LimitManager.resolve_limits`` of Flask-Limiter 4.1."""

    as_called: ClassVar[bool] = True

    def _of_route(
        self, app: Flask, key: RouteKey, own: Sequence[PlacedLimit]
    ) -> tuple[list[PlacedLimit], list[PlacedLimit] | None]:
        endpoint = key.endpoint
        application = self._application()
        if endpoint is None:
            return application, None
        if self._is_static(app, endpoint):
            return [], None
        names = blueprints(endpoint)
        flags = [self._registry.exemption_of(app, name) or Scope.NONE for name in names]
        by_itself = reduce(or_, self._registry.exemptions(app, endpoint, key.method), Scope.NONE)
        exempt = reduce(or_, [flag for flag in flags if flag & Scope.DESCENDENTS], by_itself)
        exempt |= flags[0] & ~Scope.ANCESTORS if flags else Scope.NONE
        places = [] if by_itself else [place for place in own if place.limit not in key.silent]
        if names and not _overrides(places):
            near = self._of_blueprints(app, endpoint, names, flags)
            places += [place for place in near if place.limit not in key.silent]
        none_applies = not any(place.limit.is_about(key.method) for place in places)
        if (none_applies or not _overrides(places)) and not exempt & Scope.DEFAULT:
            places += self._default(endpoint)
        before = [] if exempt & Scope.APPLICATION else application
        return (before, places) if own else (before + places, None)

    def _of_blueprints(
        self, app: Flask, endpoint: str, names: Sequence[str], flags: Sequence[Scope]
    ) -> list[PlacedLimit]:
        if flags[0] & _CLEARS:
            return []
        by_blueprint = [self._registry.of_blueprint(app, name, endpoint) for name in names]
        nearest = by_blueprint[0]
        if flags[0] & Scope.ANCESTORS or (
            nearest and all(place.limit.override_defaults for place in nearest)
        ):
            return nearest
        pairs = zip(by_blueprint, flags, strict=True)
        return [place for places, flag in pairs if not flag & Scope.DESCENDENTS for place in places]

    def _check_cost(self, cost: int, limiter: Limiter) -> None:
        """Raise no error: Flask-Limiter denies each request instead."""

    def _function_state(self, function: Callable[..., Any], key: RouteKey) -> tuple[str, ...]:
        """Each route that calls the function has a count of its own."""
        return (key.endpoint or "", *super()._function_state(function, key))


def _overrides(places: Sequence[PlacedLimit]) -> bool:
    return any(place.limit.override_defaults for place in places)

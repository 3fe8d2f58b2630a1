"""Which limits hold for a route, as Flask-Limiter has it, and when they are asked."""

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

#: A blueprint that is exempt with one of these has no limits, nor do those that it is registered on.
_CLEARS = Scope.META | Scope.DESCENDENTS


class CompatResolver(LimitResolver):
    """As ``LimitManager.resolve_limits`` of Flask-Limiter 4.1."""

    as_called: ClassVar[bool] = True

    def _places(
        self, app: Flask, where: RouteKey, own: Sequence[PlacedLimit]
    ) -> tuple[list[PlacedLimit], list[PlacedLimit] | None]:
        endpoint = where.endpoint
        application = self._application()
        if endpoint is None:
            return application, None
        if self._is_static(app, endpoint):
            return [], None
        names = blueprints(endpoint)
        flags = [self._registry.exemption_of(app, name) or Scope.NONE for name in names]
        by_itself = reduce(or_, self._registry.exemptions(app, endpoint, where.method), Scope.NONE)
        exempt = reduce(or_, [one for one in flags if one & Scope.DESCENDENTS], by_itself)
        exempt |= flags[0] & ~Scope.ANCESTORS if flags else Scope.NONE
        limits = [one for one in ([] if by_itself else own) if one.limit not in where.silent]
        if names and not _overrides(limits):
            near = self._of_blueprints(app, endpoint, names, flags)
            limits += [one for one in near if one.limit not in where.silent]
        means_others = not any(one.limit.is_about(where.method) for one in limits)
        if (means_others or not _overrides(limits)) and not exempt & Scope.DEFAULT:
            limits += self._default(endpoint)
        before = [] if exempt & Scope.APPLICATION else application
        return (before, limits) if own else (before + limits, None)

    def _of_blueprints(
        self, app: Flask, endpoint: str, names: Sequence[str], flags: Sequence[Scope]
    ) -> list[PlacedLimit]:
        if flags[0] & _CLEARS:
            return []
        limits = [self._registry.of_blueprint(app, name, endpoint) for name in names]
        nearest = limits[0]
        if flags[0] & Scope.ANCESTORS or (
            nearest and all(one.limit.override_defaults for one in nearest)
        ):
            return nearest
        pairs = zip(limits, flags, strict=True)
        return [one for some, flag in pairs if not flag & Scope.DESCENDENTS for one in some]

    def _check_cost(self, cost: int, limiter: Limiter) -> None:
        """Flask-Limiter denies each request, and says nothing before."""

    def _spot(self, function: Callable[..., Any], where: RouteKey) -> tuple[str, ...]:
        """Each route that calls a function has a count of its own."""
        return (where.endpoint or "", *super()._spot(function, where))


def _overrides(places: Sequence[PlacedLimit]) -> bool:
    return any(one.limit.override_defaults for one in places)

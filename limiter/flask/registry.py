"""What a user has limited and exempted, before and while there is an application."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from flask import Blueprint, Flask, current_app
from flask.views import View

from limiter.flask.limits import Limit

_LIMITS = "__limiter_limits__"
_EXEMPT = "__limiter_exempt__"

Target = TypeVar("Target")


class Exemption(NamedTuple):
    """From which limits a route or a blueprint is exempt."""

    application: bool = True
    """From those of the application as a whole."""
    others: bool = True
    """From all others; a route of an exempt blueprint keeps its own."""
    nested: bool = False
    """Of a blueprint: with those that are registered on it."""
    inherited: bool = False
    """Of a blueprint: only from the limits of those that it is registered on."""


class Place(NamedTuple):
    """A limit, and where it was met: by what its counts are named, and how it is called."""

    limit: Limit
    state: tuple[str, ...]
    called: str


class Registry:
    """Limits by view and blueprint; the functions carry theirs, so that other decorators may wrap them."""

    def __init__(self) -> None:
        self._blueprints: dict[Any, list[Limit]] = {}
        self._exempt_blueprints: dict[Any, Exemption] = {}
        #: Says of a request that no limit is about it.
        self.exempt_when: list[Callable[[], Any]] = []

    # --- what a user says ---

    def limit(self, target: Target, limit: Limit, meet: Callable[[Limit, Any], None]) -> Target:
        """Limit a blueprint, a class of views, or a function; ``meet`` is called with each call of it."""
        if isinstance(target, Blueprint):
            self._blueprints.setdefault(target, []).append(limit)
            return target
        if isinstance(target, type) and issubclass(target, View):
            decorator = _Decorating(self, limit, meet)
            target.decorators = [*target.decorators, decorator]
            return target
        if not callable(target):
            raise TypeError(f"{target!r} cannot be limited: accepted are views and blueprints")
        function: Any = target

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            meet(limit, function)
            return current_app.ensure_sync(function)(*args, **kwargs)

        setattr(limited, _LIMITS, (*getattr(function, _LIMITS, ()), (self, limit)))
        return limited  # type: ignore[return-value]  # it takes and returns the same

    def exempt(self, target: Target, exemption: Exemption) -> Target:
        """Exempt a blueprint, a class of views, or a view."""
        if isinstance(target, Blueprint):
            self._exempt_blueprints[target] = exemption
            return target
        if not callable(target):
            raise TypeError(f"{target!r} cannot be exempted: accepted are views and blueprints")
        # On the function itself, so that it is found behind other decorators too.
        setattr(target, _EXEMPT, (*getattr(target, _EXEMPT, ()), (self, exemption)))
        return target

    # --- what holds for a route ---

    def own(self, app: Flask, endpoint: str, method: str) -> list[Place]:
        """The limits of a route's own, on its view or on its class's method; whichever method they mean."""
        view = app.view_functions.get(endpoint)
        found = _numbered(self._on(view), "", (endpoint,), endpoint)
        name, function = _method_of(view, method)
        if function is not None:
            found += _numbered(self._on(function), "", (endpoint, name), endpoint)
        return found

    def of_blueprints(
        self, app: Flask, endpoint: str, method: str, silent: frozenset[Limit]
    ) -> list[Place]:
        """The limits of a route's blueprints, from the nearest to one that overrides those further out."""
        found: list[Place] = []
        for name in _blueprints(endpoint):
            blueprint = app.blueprints.get(name)
            if blueprint is None:
                continue
            limits = self._blueprints.get(blueprint, [])
            places = _numbered(limits, "-blueprint", (name, endpoint), name)
            found += [
                place
                for place in places
                if place.limit.is_about(method) and place.limit not in silent
            ]
            if any(place.limit.override_defaults for place in found):
                break
            if self._exempt_blueprints.get(blueprint, _NOT).inherited:
                break
        return found

    def exemption(self, app: Flask, endpoint: str, method: str) -> tuple[Exemption, bool]:
        """From what a route is exempt; and whether it is by itself, and so from its own limits too."""
        view = app.view_functions.get(endpoint)
        carriers = [view, getattr(view, "view_class", None), _method_of(view, method)[1]]
        found = [
            exemption
            for carrier in carriers
            for owner, exemption in getattr(carrier, _EXEMPT, ())
            if owner is self
        ]
        own = any(one.others for one in found)
        for depth, name in enumerate(_blueprints(endpoint)):
            exemption = self._exempt_blueprints.get(app.blueprints.get(name), _NOT)
            if depth == 0 or exemption.nested:
                found.append(exemption)
        return Exemption(
            any(one.application for one in found), any(one.others for one in found)
        ), own

    def _on(self, function: Any) -> list[Limit]:
        return [limit for owner, limit in getattr(function, _LIMITS, ()) if owner is self]


class _Decorating:
    """A limit as one of the decorators of a class of views."""

    def __init__(
        self, registry: Registry, limit: Limit, meet: Callable[[Limit, Any], None]
    ) -> None:
        self._registry, self._limit, self._meet = registry, limit, meet

    def __call__(self, view: Any) -> Any:
        return self._registry.limit(view, self._limit, self._meet)


_NOT = Exemption(application=False, others=False)


def _numbered(limits: list[Limit], kind: str, where: tuple[str, ...], called: str) -> list[Place]:
    """Each limit's place: the first that was declared keeps its name when others are added."""
    return [
        place(limit, kind if number == 1 else f"{kind}-{number}", where, called)
        for number, limit in enumerate(limits, 1)
    ]


def place(limit: Limit, kind: str, where: tuple[str, ...], called: str) -> Place:
    """The place of a limit; that of a shared one is its scope's."""
    if limit.scope is None:
        return Place(limit, (kind, *where), called)
    scope = limit.scope(where[-1] if where else "") if callable(limit.scope) else limit.scope
    return Place(limit, ("-shared", scope), scope)


def _blueprints(endpoint: str) -> list[str]:
    """The names of a route's blueprints, the nearest first."""
    parts = endpoint.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _method_of(view: Any, method: str) -> tuple[str, Any]:
    """The function of a class of views that serves a method; HEAD is GET's where nobody else is."""
    view_class = getattr(view, "view_class", None)
    for name in (method.lower(), *(["get"] if method == "HEAD" else [])):
        function = getattr(view_class, name, None)
        if function is not None:
            return name, function
    return "", None

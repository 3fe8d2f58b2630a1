"""What a user has limited and exempted, before and while there is an application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from types import FunctionType
from typing import Any, NamedTuple, NoReturn, TypeVar
from weakref import WeakSet

from flask import Blueprint, Flask, current_app
from flask.views import View

from limiter.errors import InvalidSetting
from limiter.flask.limits import AMOUNTS, PARENTHESES, DeclaredLimit

_LIMITS = "__limiter_limits__"
_EXEMPT = "__limiter_exempt__"

Target = TypeVar("Target")


class Exemption(NamedTuple):
    """A route or a blueprint is exempt; a route of an exempt blueprint keeps its own limits."""

    application: bool = True
    """Also from the limits of the application as a whole."""
    nested: bool = False
    """Of a blueprint: with those that are registered on it."""


class PlacedLimit(NamedTuple):
    """A limit, and where it was met: by what its counts are named, and how it is called."""

    limit: DeclaredLimit
    state: tuple[str, ...]
    called: str


class Declaration:
    """What declares a limit: a decorator of views, classes of views, blueprints and functions.

    A view that is limited without parentheses (``@limits.limit``) is taken for a function that returns
    limits, and Flask is given this object as the view. Reading an attribute of a view is then an error.
    """

    def __init__(self, declare: Callable[[Any], Any]) -> None:
        self._declare = declare

    def __call__(self, target: Target) -> Target:
        """Limit the target, and return what stands in its place."""
        limited: Target = self._declare(target)
        return limited

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OF_VIEWS:
            raise InvalidSetting.of(
                "view",
                "a limit that is put on no function",
                f"accepted is a function; {PARENTHESES}",
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


#: What Flask reads of a view when it becomes one, and ``functools.wraps`` of what it wraps.
_OF_VIEWS = ("__name__", "methods", "provide_automatic_options")


class Registry:
    """Limits by view and blueprint; the functions carry theirs, so that other decorators may wrap them."""

    def __init__(self) -> None:
        self._blueprints: dict[Any, list[DeclaredLimit]] = {}
        self._exempt_blueprints: dict[Any, Any] = {}
        #: All that are in use.
        self.limits: WeakSet[DeclaredLimit] = WeakSet()
        self._wrapped: WeakSet[FunctionType] = WeakSet()
        #: Functions that return limits, and are no views.
        self._amounts: WeakSet[FunctionType] = WeakSet()
        #: Methods of objects, which have no place for a mark.
        self._exempt_methods: list[tuple[Any, Any]] = []
        #: Says of a request that no limit is about it.
        self.exempt_when: list[Callable[[], Any]] = []

    # --- what a user says ---

    def declared(self, limit: DeclaredLimit) -> None:
        """Note a limit that was declared, and perhaps not put on a target."""
        if isinstance(limit.amount, FunctionType):
            self._amounts.add(limit.amount)

    def limit(
        self, target: Target, limit: DeclaredLimit, meet: Callable[[DeclaredLimit, Any], None]
    ) -> Target:
        """Limit a blueprint, a class of views, or a function; ``meet`` is called with each call of it."""
        self.limits.add(limit)
        if isinstance(target, Blueprint):
            self._blueprints.setdefault(target, []).append(limit)
            return target
        if isinstance(target, type) and issubclass(target, View):
            decorator = partial(self.limit, limit=limit, meet=meet)
            target.decorators = [*target.decorators, decorator]
            return target
        if not callable(target):
            raise TypeError(f"{target!r} cannot be limited: accepted are views and blueprints")
        function: Any = target

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            meet(limit, function)
            return current_app.ensure_sync(function)(*args, **kwargs)

        if isinstance(function, FunctionType):
            self._wrapped.add(function)
        setattr(limited, _LIMITS, (*getattr(function, _LIMITS, ()), (self, limit)))
        return limited  # type: ignore[return-value]  # it takes and returns the same

    def exempt(self, target: Target, exemption: object) -> Target:
        """Exempt a blueprint, a class of views, or a view; what that means is the resolver's to say."""
        if isinstance(target, Blueprint):
            self._exempt_blueprints[target] = exemption
            return target
        if not callable(target):
            raise TypeError(f"{target!r} cannot be exempted: accepted are views and blueprints")
        marks = (*getattr(target, _EXEMPT, ()), (self, exemption))
        try:
            # On the function itself, so that it is found behind other decorators too.
            setattr(target, _EXEMPT, marks)
        except AttributeError:
            self._exempt_methods.append((target, exemption))
        return target

    # --- what holds for a route ---

    def check_view(self, view: object) -> None:
        """Raise InvalidSetting where a view was taken for a function that returns limits."""
        if isinstance(view, FunctionType) and view in self._amounts:
            raise InvalidSetting.of(
                "limits",
                f"{view.__name__}, which is the view of a route",
                f"accepted are {AMOUNTS}; {PARENTHESES}, and below the route's decorator",
            )

    def is_passed_by(self, app: Flask, endpoint: str) -> bool:
        """Whether a view is a function that was limited too late, when it was a view already.

        Where another view is the limited one, that may well be meant.
        """
        view = app.view_functions.get(endpoint)
        return (
            isinstance(view, FunctionType)
            and view in self._wrapped
            and not any(view in _layers(other) for other in app.view_functions.values())
        )

    def own(self, app: Flask, endpoint: str, method: str) -> list[PlacedLimit]:
        """The limits of a route's own, on its view or on its class's method; whichever method they mean."""
        view = app.view_functions.get(endpoint)
        places = placed(self.on(view), "", (endpoint,), endpoint)
        name, function = _method_of(view, method)
        if function is not None:
            places += placed(self.on(function), "-method", (endpoint, name), endpoint)
        return places

    def of_blueprint(self, app: Flask, name: str, endpoint: str) -> list[PlacedLimit]:
        """The limits of the blueprint of that name, for a route; whichever method they mean."""
        limits = self._blueprints.get(app.blueprints.get(name), [])
        return placed(limits, "-blueprint", (name, endpoint), name)

    def exemptions(self, app: Flask, endpoint: str, method: str) -> list[Any]:
        """How a route is exempt by itself: by its view, that one's class, or the class's method."""
        view = app.view_functions.get(endpoint)
        marks = [
            *getattr(view, _EXEMPT, ()),
            # Not what its class inherits: who writes another class has said nothing of it.
            *vars(getattr(view, "view_class", object)).get(_EXEMPT, ()),
            *getattr(_method_of(view, method)[1], _EXEMPT, ()),
        ]
        if self._exempt_methods:
            inner = [view, *_layers(view)]
            marks += [(self, mark) for method, mark in self._exempt_methods if method in inner]
        return [exemption for owner, exemption in marks if owner is self]

    def exemption_of(self, app: Flask, name: str) -> Any:
        """How the blueprint of that name is exempt; None: it is not."""
        return self._exempt_blueprints.get(app.blueprints.get(name))

    def on(self, function: Any) -> list[DeclaredLimit]:
        """The limits that a function carries."""
        return [limit for owner, limit in getattr(function, _LIMITS, ()) if owner is self]


def _layers(function: Any) -> list[Any]:
    """The functions that ``functools.wraps`` has wrapped, the outermost first."""
    layers: list[Any] = []
    while (function := getattr(function, "__wrapped__", None)) is not None:
        layers.append(function)
    return layers


def placed(
    limits: Iterable[DeclaredLimit], kind: str, where: tuple[str, ...], called: str
) -> list[PlacedLimit]:
    """Each limit in its place: the first that was declared keeps its name when others are added."""
    return [
        _place(limit, kind if number == 1 else f"{kind}-{number}", where, called)
        for number, limit in enumerate(limits, 1)
    ]


def _place(limit: DeclaredLimit, kind: str, where: tuple[str, ...], called: str) -> PlacedLimit:
    """The place of a limit; that of a shared one is its scope's, or its scope function's."""
    scope = limit.scope
    if scope is None:
        return PlacedLimit(limit, (kind, *where), called)
    if not callable(scope):
        return PlacedLimit(limit, ("-shared", scope), scope)
    name = f"{scope.__module__}.{getattr(scope, '__qualname__', type(scope).__qualname__)}"
    amount = limit.amount if isinstance(limit.amount, str) else ""
    return PlacedLimit(limit, ("-shared", name, amount), "shared")


def blueprints(endpoint: str) -> list[str]:
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

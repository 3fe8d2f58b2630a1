"""The limits and exemptions that an application declares, also before it exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from types import FunctionType
from typing import Any, NamedTuple, NoReturn, TypeVar
from weakref import WeakSet

from flask import Blueprint, Flask, current_app
from flask.views import View

from limiter.client import Limiter
from limiter.errors import InvalidSetting
from limiter.flask.limits import AMOUNTS, PARENTHESES, DeclaredLimit

_LIMITS = "__limiter_limits__"
_EXEMPT = "__limiter_exempt__"

Target = TypeVar("Target")


class Exemption(NamedTuple):
    """The exemption of a route or a blueprint; a route of an exempt blueprint keeps its own limits."""

    application: bool = True
    """Whether it covers the limits that all requests share."""
    nested: bool = False
    """Whether it covers the blueprints that are registered on this one."""


class PlacedLimit(NamedTuple):
    """A limit in its place: the name of its count, and the name in header fields."""

    limit: DeclaredLimit
    state: tuple[str, ...]
    called: str


class Declaration:
    """A decorator that limits views, classes of views, blueprints and functions.

    If the parentheses are missing (``@limits.limit``), the view is taken for a function that returns
    limits, and Flask gets this object as the view. Reading an attribute of a view then raises an error.
    """

    def __init__(self, declare: Callable[[Any], Any]) -> None:
        self._declare = declare

    def __call__(self, target: Target) -> Target:
        """Limit the target, and return its replacement."""
        limited: Target = self._declare(target)
        return limited

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OF_VIEWS:
            raise InvalidSetting.of(
                "view",
                "a limit that is put on no function",
                f"expected a function; {PARENTHESES}",
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


#: Attributes that Flask reads when it registers a view, and ``functools.wraps`` reads.
_OF_VIEWS = ("__name__", "methods", "provide_automatic_options")


class Registry:
    """Limits by view and blueprint; a function carries its limits, also if other decorators wrap it."""

    def __init__(self) -> None:
        self._blueprints: dict[Any, list[DeclaredLimit]] = {}
        self._exempt_blueprints: dict[Any, Any] = {}
        #: All limits in use.
        self.limits: WeakSet[DeclaredLimit] = WeakSet()
        self._wrapped: WeakSet[FunctionType] = WeakSet()
        #: Functions that return limits; none of them may be a view.
        self._amounts: WeakSet[FunctionType] = WeakSet()
        #: Bound methods, which cannot carry an attribute.
        self._exempt_methods: list[tuple[Any, Any]] = []
        #: Functions that return whether a request is exempt from all limits.
        self.exempt_when: list[Callable[[], Any]] = []

    # --- declarations ---

    def declared(self, limit: DeclaredLimit) -> None:
        """Record a limit that was declared, also if it has no target."""
        if isinstance(limit.amount, FunctionType):
            self._amounts.add(limit.amount)

    def limit(
        self, target: Target, limit: DeclaredLimit, on_call: Callable[[DeclaredLimit, Any], None]
    ) -> Target:
        """Limit a blueprint, a class of views, or a function; each call of a function calls ``on_call``."""
        self.limits.add(limit)
        if isinstance(target, Blueprint):
            self._blueprints.setdefault(target, []).append(limit)
            return target
        if isinstance(target, type) and issubclass(target, View):
            decorator = partial(self.limit, limit=limit, on_call=on_call)
            target.decorators = [*target.decorators, decorator]
            return target
        if not callable(target):
            raise TypeError(f"{target!r} cannot be limited: expected a view or a blueprint")
        function: Any = target

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            on_call(limit, function)
            return current_app.ensure_sync(function)(*args, **kwargs)

        if isinstance(function, FunctionType):
            self._wrapped.add(function)
        setattr(limited, _LIMITS, (*getattr(function, _LIMITS, ()), (self, limit)))
        return limited  # type: ignore[return-value]  # same signature

    def exempt(self, target: Target, exemption: object) -> Target:
        """Exempt a blueprint, a class of views, or a view; the resolver reads the exemption."""
        if isinstance(target, Blueprint):
            self._exempt_blueprints[target] = exemption
            return target
        if not callable(target):
            raise TypeError(f"{target!r} cannot be exempted: expected a view or a blueprint")
        marks = (*getattr(target, _EXEMPT, ()), (self, exemption))
        try:
            # Marked on the function itself, so that other decorators do not hide it.
            setattr(target, _EXEMPT, marks)
        except AttributeError:
            self._exempt_methods.append((target, exemption))
        return target

    # --- the limits of a route ---

    def check_view(self, view: object) -> None:
        """Raise InvalidSetting if a view was taken for a function that returns limits."""
        if isinstance(view, FunctionType) and view in self._amounts:
            raise InvalidSetting.of(
                "limits",
                f"{view.__name__}, which is the view of a route",
                f"expected {AMOUNTS}; {PARENTHESES}, and below the route's decorator",
            )

    def is_passed_by(self, app: Flask, endpoint: str) -> bool:
        """Whether a view is a function that was limited after it had become a view.

        False if another view is the limited one: then the program may mean it.
        """
        view = app.view_functions.get(endpoint)
        return (
            isinstance(view, FunctionType)
            and view in self._wrapped
            and not any(view in _layers(other) for other in app.view_functions.values())
        )

    def own(self, app: Flask, endpoint: str, method: str) -> list[PlacedLimit]:
        """The limits on a route's view or its class's method, for all HTTP methods."""
        view = app.view_functions.get(endpoint)
        places = placed(self.on(view), "", (endpoint,), endpoint)
        name, function = _method_of(view, method)
        if function is not None:
            places += placed(self.on(function), "-method", (endpoint, name), endpoint)
        return places

    def of_blueprint(self, app: Flask, name: str, endpoint: str) -> list[PlacedLimit]:
        """The limits of a blueprint for a route, for all HTTP methods."""
        limits = self._blueprints.get(app.blueprints.get(name), [])
        return placed(limits, "-blueprint", (name, endpoint), name)

    def exemptions(self, app: Flask, endpoint: str, method: str) -> list[Any]:
        """The exemptions of a route's own: of its view, the view's class, or the class's method."""
        view = app.view_functions.get(endpoint)
        marks = [
            *getattr(view, _EXEMPT, ()),
            # Only the class itself: a class that inherits from an exempt one is not exempt.
            *vars(getattr(view, "view_class", object)).get(_EXEMPT, ()),
            *getattr(_method_of(view, method)[1], _EXEMPT, ()),
        ]
        if self._exempt_methods:
            inner = [view, *_layers(view)]
            marks += [(self, mark) for method, mark in self._exempt_methods if method in inner]
        return [exemption for owner, exemption in marks if owner is self]

    def exemption_of(self, app: Flask, name: str) -> Any:
        """The exemption of a blueprint; None: it has none."""
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
    """Each limit in its place; the first one keeps its name when others are added."""
    return [
        _place(limit, kind if number == 1 else f"{kind}-{number}", where, called)
        for number, limit in enumerate(limits, 1)
    ]


def _place(limit: DeclaredLimit, kind: str, where: tuple[str, ...], called: str) -> PlacedLimit:
    """The place of a limit; a shared limit is named by its scope, or by its scope function.

    A limiter has a name of its own, wherever it stands.
    """
    if isinstance(limit.amount, Limiter):
        return PlacedLimit(limit, ("-limiter", limit.amount.name), limit.amount.name)
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
    """The function of a class of views that serves a method; GET serves HEAD if there is no ``head``."""
    view_class = getattr(view, "view_class", None)
    for name in (method.lower(), *(["get"] if method == "HEAD" else [])):
        function = getattr(view_class, name, None)
        if function is not None:
            return name, function
    return "", None

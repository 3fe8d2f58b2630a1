"""Limits for a Flask application and its routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar, overload
from weakref import WeakKeyDictionary

from flask import Flask, Response, current_app, has_request_context, request
from werkzeug.local import LocalProxy

from limiter import settings
from limiter.base import Limits
from limiter.client import Limiter
from limiter.decision import Decision
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.flask.app_limits import AppLimits
from limiter.flask.limits import Amount, DeclaredLimit, KeySpec, ViewRule, by_key, named_methods
from limiter.flask.registry import Declaration, Exemption, Registry
from limiter.flask.request_state import RequestState
from limiter.flask.resolver import LimitResolver
from limiter.flask.setup import Setup
from limiter.grammar import algorithm_named
from limiter.web.functions import check_function
from limiter.web.guard import Observer, Verdict
from limiter.web.headers import FORMS
from limiter.web.identity import Network
from limiter.web.paths import is_among
from limiter.web.rules import CostFunction
from limiter.web.wiring import networks

Target = TypeVar("Target")

#: What a limit is where neither the program nor the environment says one.
DEFAULT = "100/minute"


class _BySettings:
    def __repr__(self) -> str:
        return "LIMITER_LIMITS, or 100/minute"


_BY_SETTINGS = _BySettings()


class Extension:
    """What every such extension does: it declares limits, and has them enforced in applications."""

    _resolver: ClassVar[type[LimitResolver]] = LimitResolver

    def __init__(self) -> None:
        self._registry = Registry()
        #: What is installed must not hold its application.
        self._app_limits: WeakKeyDictionary[Flask, AppLimits | None] = WeakKeyDictionary()

    def open(self) -> None:
        """Connect beforehand, so that no request waits for it; optional, in each worker.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a request will try again.

        """
        for app_limits in self._at_work():
            app_limits.base.open()

    def close(self) -> None:
        """Close the idle connections; a later request makes new ones."""
        for app_limits in self._at_work():
            app_limits.base.close()

    @property
    def current(self) -> Verdict | None:
        """What was decided about the current request: its results, and what is said about them.

        None where no limit is about it, and outside of requests.
        """
        if not has_request_context():
            return None
        state = RequestState.known(request.environ)
        app_limits = self._app_limits.get(current_app._get_current_object())  # type: ignore[attr-defined]
        return state.verdict(app_limits) if state is not None and app_limits else None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decision of each limit about the current request."""
        verdict = self.current
        return () if verdict is None else tuple(result.decision for result in verdict.results)

    def rules(self, endpoint: str | None, method: str = "GET") -> tuple[ViewRule, ...]:
        """The rules of a route of the current application; None: of what no route matches.

        Each has its ``limiter``, whose ``peek``, ``reset`` and ``refund`` take the subject: an
        address, or what a hashed key became.
        """
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        app_limits = self._app_limits.get(app)
        return () if app_limits is None else app_limits.rules(endpoint, method)

    def _at_work(self) -> list[AppLimits]:
        return [app_limits for app_limits in self._app_limits.values() if app_limits is not None]

    def _declare(self, limit: DeclaredLimit) -> Declaration:
        self._registry.declared(limit)
        for app, app_limits in self._app_limits.items():
            self._check_views(app)
            if app_limits is not None:
                app_limits.check(limit)

        def declare(target: Target) -> Target:
            # One decorator may be put in several places, each with a count of its own.
            own = limit if limit.scope is not None else replace(limit)
            limited = self._registry.limit(target, own, self._meet)
            self._forget()
            return limited

        return Declaration(declare)

    def _check_views(self, app: Flask) -> None:
        for view in app.view_functions.values():
            self._registry.check_view(view)

    def _exempt(self, target: Target, exemption: object) -> Target:
        exempted = self._registry.exempt(target, exemption)
        self._forget()
        return exempted

    def _install(self, app: Flask, setup: Setup | None) -> None:
        """Enforce the limits in an application; without a setup, none of them."""
        if isinstance(app, LocalProxy):  # current_app, as Flask-AppBuilder gives it
            app = app._get_current_object()
        if app in self._app_limits:
            raise InvalidSetting("app is one that these limits are already at work in")
        self._check_views(app)
        self._app_limits[app] = (
            None if setup is None else AppLimits(self._registry, app, setup, self._resolver)
        )

    def _forget(self) -> None:
        for app_limits in self._at_work():
            app_limits.forget()

    def _meet(self, limit: DeclaredLimit, function: Callable[..., Any]) -> None:
        """A limited function is called: ask its limit, where the request has not met it as its view's."""
        if not has_request_context():
            return
        state = RequestState.known(request.environ)
        if state is not None and state.has_met(limit):
            return
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        if app not in self._app_limits:
            self._meet_elsewhere(function)
            return
        app_limits = self._app_limits[app]
        if app_limits is not None:
            app_limits.meet(limit, function)

    def _meet_elsewhere(self, function: Callable[..., Any]) -> None:
        """A limited function is called in an application in which the limits are not at work."""
        raise InvalidSetting(
            f"{function.__name__} is limited, but the limits are not at work in this application: "
            f"call init_app"
        )


class FlaskLimiter(Extension):
    """Rate limits for a Flask application: all of a request's are decided in one call to the store.

    Args:
        app: The application; or ``init_app`` says it later.
        default: Limits of each route that has none of its own, for each route by itself; of all
            that no route matches, together. None: no default. Without it: LIMITER_LIMITS, else
            100/minute.
        application: Limits that all requests share, on top of every other.
        key: For whom: "address", "header:NAME", "cookie:NAME", "api-key", "path:NAME", "host",
            "global", a list of these, or a function that returns the subject, and None for no
            caller (400). It takes nothing, the request (``limiter.web.request.Request``), or the
            request and the trusted networks. All but addresses are hashed.
        store, algorithm, on_error, local_share, timeout, connect_timeout, name, prefix, key_secret:
            As a ``Limiter`` takes them; what is not given is read from the application's
            configuration and then the environment, as LIMITER_STORE and so on.
        headers: In which header fields the limits speak: draft-11, draft-06, x-ratelimit, none.
        trusted: Networks of the proxies whose X-Forwarded-For counts; without it:
            LIMITER_TRUSTED_PROXIES.
        on_denied: Makes the answer to a request that was denied, or None for the usual one.
        exempt_when: Says of a request that no limit is about it.
        observe: Is told of every request and verdict, for counters and logs.
        limit_options: Whether an OPTIONS that Flask answers by itself counts. A CORS preflight that
            counts does so apart, for each client address.
        limit_static: Whether Flask's own routes for static files count.
        enabled: False: no limit is enforced, and no store is needed.

    Raises:
        InvalidPolicy, InvalidSetting: A limit or a setting makes no sense; with ``app``, or in
            ``init_app``.

    """

    def __init__(
        self,
        app: Flask | None = None,
        default: Amount | _BySettings | None = _BY_SETTINGS,
        *,
        application: Amount | None = None,
        key: KeySpec = "address",
        store: object = None,
        algorithm: str | None = None,
        on_error: str | None = None,
        local_share: int | None = None,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        name: str | None = None,
        prefix: str | None = None,
        key_secret: str | bytes | None = None,
        headers: str = "draft-11",
        trusted: Iterable[str | Network] | None = None,
        on_denied: Callable[[Verdict], Any] | None = None,
        exempt_when: Callable[[], Any] | None = None,
        observe: Observer | None = None,
        limit_options: bool = False,
        limit_static: bool = False,
        enabled: bool = True,
    ) -> None:
        super().__init__()
        if headers not in FORMS:
            raise InvalidSetting.of("headers", repr(headers), f"accepted are {', '.join(FORMS)}")
        self._default = default if isinstance(default, _BySettings) else _wide(default)
        self._application = _wide(application)
        self._identity = by_key(key)
        self._given: dict[str, Any] = {
            "store": store,
            "algorithm": algorithm,
            "on_error": on_error,
            "local_share": local_share,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "name": name,
            "prefix": prefix,
            "key_secret": key_secret,
        }
        if observe is not None:
            check_function("observe", observe, "the request", "the verdict")
        if on_denied is not None:
            check_function("on_denied", on_denied, "the verdict")
        if not isinstance(enabled, bool):
            raise InvalidSetting.of("enabled", repr(enabled), "accepted are True and False")
        self._form = headers
        self._trusted = None if trusted is None else networks(trusted)
        self._on_denied = on_denied
        self._observe = observe
        self._limit_options = limit_options
        self._limit_static = limit_static
        self._enabled = enabled
        if exempt_when is not None:
            self.exempt_when(exempt_when)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Enforce the limits in an application; they may be declared before or after.

        Raises: As the class.
        """
        self._install(app, self._setup(app.config) if self._enabled else None)

    def limit(
        self,
        limits: Amount,
        *,
        key: KeySpec | None = None,
        cost: int | CostFunction = 1,
        methods: Iterable[str] = (),
        per_method: bool = False,
        exempt_when: Callable[[], Any] | None = None,
        deduct_when: Callable[[Response], Any] | None = None,
        override_defaults: bool = True,
        on_denied: Callable[[Verdict], Any] | None = None,
        shadow: bool = False,
        percent: float = 100.0,
        unidentified: str = "refuse",
    ) -> Declaration:
        """Limit a view, a class of views, a blueprint (each of its routes), or any function in a request.

        Args:
            limits: A limit string, a policy, several, or a function that returns one of these for
                the request at hand, or None for no limit.
            key: For whom, in the place of the extension's.
            cost: What a request costs, or a function that returns it; 0 passes and takes nothing. A
                function takes the same as that of ``key``.
            methods: Only for requests of these methods; who means GET means HEAD too.
            per_method: Each method has a count of its own.
            exempt_when: Says of a request that the limit is not about it.
            deduct_when: Is shown the response, and says whether it counts. The cost is taken before
                the view runs and given back where it does not, so that requests at the same time
                cannot pass the limit together.
            override_defaults: Whether the limits of blueprints, and the default, do not hold beside
                it.
            on_denied: Makes the answer to a request that this limit denied, as a view returns one, or
                None; a 429, where it says no status.
            shadow: The limit counts and reports, and never denies.
            percent: For how many of the subjects it holds, always the same ones.
            unidentified: What happens to a caller without a subject: refuse (400), skip (the limit
                is not about it), address (its address counts).

        A route's limits are all asked, in one call, before its view runs, and all are charged, or
        none. What one of the functions raises is answered as an error, never as a pass. A function
        that is no view counts by its qualified name: those that one factory makes are one.

        Raises:
            InvalidPolicy, InvalidSetting, InvalidCost: An argument makes no sense. What only shows by
                the application's algorithm is raised by ``init_app``, where that comes later.

        """
        return self._declare(
            _limit(
                limits,
                key,
                cost=cost,
                methods=_methods(methods),
                per_method=per_method,
                exempt_when=exempt_when,
                deduct_when=deduct_when,
                override_defaults=override_defaults,
                on_denied=on_denied,
                shadow=shadow,
                percent=percent,
                unidentified=unidentified,
            )
        )

    def shared_limit(
        self, limits: Amount, scope: str | Callable[[str], str], **more: Any
    ) -> Declaration:
        """Limit all routes that it is put on together, under one name.

        Args:
            limits: As in ``limit``.
            scope: The name, which may stand in several calls; or a function of the endpoint that says
                it for each request, a host for example.
            more: As in ``limit``.

        Raises: As ``limit``.

        """
        key = more.pop("key", None)
        more["methods"] = _methods(more.get("methods", ()))
        return self._declare(_limit(limits, key, scope=scope, **more))

    @overload
    def exempt(self, target: Target, *, application: bool = ..., nested: bool = ...) -> Target: ...

    @overload
    def exempt(
        self, target: None = ..., *, application: bool = ..., nested: bool = ...
    ) -> Callable[[Target], Target]: ...

    def exempt(self, target: Any = None, *, application: bool = True, nested: bool = False) -> Any:
        """Exempt a view, a class of views or a blueprint.

        Args:
            target: What is exempt; without it, a decorator comes back.
            application: Also from the limits that all requests share.
            nested: Of a blueprint: also those that are registered on it.

        """
        exemption = Exemption(application=application, nested=nested)
        if target is None:
            return partial(self._exempt, exemption=exemption)
        return self._exempt(target, exemption)

    def exempt_when(self, says: Callable[[], Any]) -> Callable[[], Any]:
        """Exempt every request of which a function says so; also a decorator."""
        check_function("exempt_when", says)
        self._registry.exempt_when.append(says)
        return says

    def _setup(self, config: Mapping[str, Any]) -> Setup:
        given = {name: value for name, value in self._given.items() if value is not None}
        default = self._default
        hidden = [*given, *([] if isinstance(default, _BySettings) else ["limits"])]
        environ = settings.with_config(config, hidden)
        try:
            found = settings.from_environment(environ, {"limits": DEFAULT, **given})
            limits = found.pop("limits")
            if isinstance(default, _BySettings):
                if file := environ.get(settings.POLICIES):
                    raise InvalidSetting(
                        f"{settings.POLICIES} is {file!r}, which FlaskLimiter does not read: accepted is "
                        f"default=, or LimiterMiddleware(app.wsgi_app, Policies.from_env()) in its place"
                    )
                default = _wide(limits)
            algorithm = found.pop("algorithm", None)
            name = found.setdefault("name", "default")
            base = Limiter("1/second", **found)
            if algorithm is not None:
                algorithm_named(algorithm)
            trusted = self._trusted
            if trusted is None:
                trusted = settings.trusted_proxies(environ)
        except (InvalidSetting, InvalidPolicy) as error:
            raise settings.named(error, environ) from None
        return Setup(
            name=name,
            base=base,
            make=maker(base, algorithm, found),
            identity=self._identity,
            application=self._application,
            default=default,
            trusted=trusted,
            form=self._form,
            observe=self._observe,
            on_denied=self._on_denied,
            limit_options=self._limit_options,
            limit_static=self._limit_static,
        )


def maker(
    base: Limiter, algorithm: str | None, more: Mapping[str, Any]
) -> Callable[[str, Limits], Limiter]:
    """What makes limiters that share a store, by name and limits; an algorithm is for limit strings."""
    kept = {name: value for name, value in more.items() if name not in ("store", "name")}

    def make(name: str, limits: Limits) -> Limiter:
        chosen = algorithm if isinstance(limits, str) else None
        return Limiter(limits, store=base, name=name, algorithm=chosen, **kept)

    return make


def _limit(amount: Amount, key: KeySpec | None, **more: Any) -> DeclaredLimit:
    return DeclaredLimit(amount, None if key is None else by_key(key), **more)


def _wide(amount: Amount | None) -> tuple[DeclaredLimit, ...]:
    return () if amount is None else (DeclaredLimit(amount),)


def _methods(methods: Iterable[str]) -> frozenset[str]:
    found = named_methods(methods)
    return found | {"HEAD"} if is_among("HEAD", found) else found

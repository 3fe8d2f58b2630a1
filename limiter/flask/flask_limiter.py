"""Limits for a Flask application and its routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from flask import Flask

from limiter import settings
from limiter.client import Limiter
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.flask.extension import Extension, Target
from limiter.flask.limits import (
    Amount,
    DeclaredLimit,
    KeySpec,
    LimitOptions,
    by_key,
    check_names,
    named_methods,
)
from limiter.flask.registry import Declaration, Exemption
from limiter.flask.setup import Setup, maker
from limiter.grammar import algorithm_named
from limiter.web.functions import check_function
from limiter.web.guard import Observer, Verdict
from limiter.web.headers import FORMS
from limiter.web.identity import Network
from limiter.web.match import is_among
from limiter.web.wiring import StoreSettings, networks

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: The default limit where neither the program nor the environment gives one.
DEFAULT = "100/minute"


class _BySettings:
    def __repr__(self) -> str:
        return "LIMITER_LIMITS, or 100/minute"


_BY_SETTINGS = _BySettings()


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
        headers: str = "draft-11",
        trusted: Iterable[str | Network] | None = None,
        on_denied: Callable[[Verdict], Any] | None = None,
        exempt_when: Callable[[], Any] | None = None,
        observe: Observer | None = None,
        limit_options: bool = False,
        limit_static: bool = False,
        enabled: bool = True,
        **store_settings: Unpack[StoreSettings],
    ) -> None:
        super().__init__()
        check_names(store_settings, StoreSettings)
        self._given = {name: value for name, value in store_settings.items() if value is not None}
        if headers not in FORMS:
            raise InvalidSetting.of("headers", repr(headers), f"accepted are {', '.join(FORMS)}")
        self._default = default if isinstance(default, _BySettings) else _without_options(default)
        self._trusted = None if trusted is None else networks(trusted)
        self._enabled = enabled
        self._setup_of = partial(
            Setup,
            identity=by_key(key),
            application=_without_options(application),
            form=headers,
            observe=observe,
            on_denied=on_denied,
            limit_options=limit_options,
            limit_static=limit_static,
        )
        if observe is not None:
            check_function("observe", observe, "the request", "the verdict")
        if on_denied is not None:
            check_function("on_denied", on_denied, "the verdict")
        if not isinstance(enabled, bool):
            raise InvalidSetting.of("enabled", repr(enabled), "accepted are True and False")
        if exempt_when is not None:
            self.exempt_when(exempt_when)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Enforce the limits in an application; they may be declared before or after.

        Raises: As the class.
        """
        self._install(app, self._setup(app.config) if self._enabled else None)

    def limit(self, limits: Amount, **options: Unpack[LimitOptions]) -> Declaration:
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
        return self._declare(_declared(limits, None, options))

    def shared_limit(
        self, limits: Amount, scope: str | Callable[[str], str], **options: Unpack[LimitOptions]
    ) -> Declaration:
        """Limit all routes that it is put on together, under one name.

        Args:
            limits: As in ``limit``.
            scope: The name, which may stand in several calls; or a function of the endpoint that says
                it for each request, a host for example.
            options: As in ``limit``.

        Raises: As ``limit``.

        """
        return self._declare(_declared(limits, scope, options))

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

    def exempt_when(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Exempt every request for which a function returns something true; also a decorator."""
        check_function("exempt_when", function)
        self._registry.exempt_when.append(function)
        return function

    def _setup(self, config: Mapping[str, Any]) -> Setup:
        default = self._default
        hidden = [*self._given, *([] if isinstance(default, _BySettings) else ["limits"])]
        environ = settings.with_config(config, hidden)
        try:
            store_settings = settings.from_environment(environ, {"limits": DEFAULT, **self._given})
            limits = store_settings.pop("limits")
            if isinstance(default, _BySettings):
                if file := environ.get(settings.POLICIES):
                    raise InvalidSetting(
                        f"{settings.POLICIES} is {file!r}, which FlaskLimiter does not read: accepted is "
                        f"default=, or LimiterMiddleware(app.wsgi_app, Policies.from_env()) in its place"
                    )
                default = _without_options(limits)
            algorithm = store_settings.pop("algorithm", None)
            name = store_settings.setdefault("name", "default")
            base = Limiter("1/second", **store_settings)
            if algorithm is not None:
                algorithm_named(algorithm)
            trusted = self._trusted
            if trusted is None:
                trusted = settings.trusted_proxies(environ)
        except (InvalidSetting, InvalidPolicy) as error:
            raise settings.named(error, environ) from None
        make = maker(base, algorithm, store_settings)
        return self._setup_of(name=name, base=base, make=make, default=default, trusted=trusted)


def _declared(
    amount: Amount, scope: str | Callable[[str], str] | None, options: LimitOptions
) -> DeclaredLimit:
    check_names(options, LimitOptions)
    key = options.get("key")
    fields: dict[str, Any] = {**options, "methods": _methods(options.get("methods", ()))}
    fields.pop("key", None)
    return DeclaredLimit(amount, None if key is None else by_key(key), scope=scope, **fields)


def _without_options(amount: Amount | None) -> tuple[DeclaredLimit, ...]:
    return () if amount is None else (DeclaredLimit(amount),)


def _methods(methods: Iterable[str]) -> frozenset[str]:
    names = named_methods(methods)
    return names | {"HEAD"} if is_among("HEAD", names) else names

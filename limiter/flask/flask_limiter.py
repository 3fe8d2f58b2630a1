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
from limiter.web.subjects import KeySpec
from limiter.web.wiring import DENIAL_CACHE, StoreSettings, check_flag, chosen, networks

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: The default limit if neither the program nor the environment sets one.
DEFAULT = "100/minute"


class _BySettings:
    def __repr__(self) -> str:
        return "LIMITER_LIMITS, or 100/minute"


_BY_SETTINGS = _BySettings()


class FlaskLimiter(Extension):
    """Rate limits for a Flask application; one call to the store decides all limits of a request.

    Args:
        app: The application; without it, call ``init_app`` later.
        default: Limits of routes without limits of their own. Each route has its own count; requests
            that no route matches share one. None: no default. Without it: LIMITER_LIMITS, else
            100/minute.
        application: Limits over all routes together, for each subject, in addition to those of routes.
        key: How the subject is found: "address", "header:NAME", "cookie:NAME", "api-key", "path:NAME",
            "host", "global", a list of these, or a function that returns the subject, or None if the
            request has none (400). The function takes no argument, the request
            (``limiter.web.request.Request``), or the request and the trusted networks. Subjects are
            hashed, except addresses.
        store, algorithm, on_error, local_share, timeout, connect_timeout, name, prefix, key_secret:
            As of ``Limiter``. A missing one is read from the application's configuration, then from
            the environment, as LIMITER_STORE and so on.
        denial_cache: As of ``Limiter``, but 1 second by default; 0 turns it off.
        denial_cache_size: As of ``Limiter``.
        prepaid, prepaid_hold: As of ``Limiter``.
        headers: The form of the header fields: draft-11, draft-06, x-ratelimit, none.
        trusted: Networks of the proxies whose X-Forwarded-For counts; without it:
            LIMITER_TRUSTED_PROXIES.
        on_denied: Returns the response to a denied request, or None for the usual one.
        exempt_when: If it returns a true value, no limit applies to the request.
        observe: Is called with every request and verdict, for counters and logs.
        limit_options: Whether an OPTIONS request that Flask itself answers counts. CORS preflights
            then have a count of their own, for each client address.
        limit_static: Whether Flask's own routes for static files count.
        enabled: False: no limit is enforced, and no store is needed.

    Raises:
        InvalidPolicy, InvalidSetting: A limit or a setting is wrong; raised here if ``app`` is given,
            else by ``init_app``.

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
        self._default = default if isinstance(default, _BySettings) else _without_options(default)
        self._trusted = None if trusted is None else networks(trusted)
        self._enabled = enabled
        self._setup_of = partial(
            Setup,
            identity=by_key(key),
            application=_without_options(application),
            form=chosen("headers", headers, FORMS),
            observe=observe,
            on_denied=on_denied,
            limit_options=limit_options,
            limit_static=limit_static,
        )
        if observe is not None:
            check_function("observe", observe, "the request", "the verdict")
        if on_denied is not None:
            check_function("on_denied", on_denied, "the verdict")
        check_flag("enabled", enabled)
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
            limits: A limit string, a policy, several policies, or a function that returns one of these
                for the current request, or None for no limit. Or a ``Limiter``: its count is the same on
                every route, and in other programs that use a limiter of its name.
            key: How the subject is found, in place of the extension's ``key``.
            cost: The cost of a request, or a function that returns it; a request of cost 0 passes and
                takes nothing. The function takes the same arguments as that of ``key``.
            methods: The limit applies to these methods only; GET includes HEAD.
            per_method: Each method has a count of its own.
            exempt_when: If it returns a true value, the limit does not apply to the request.
            deduct_when: Gets the response and returns whether the request counts. The cost is taken
                before the view runs, and refunded if the request does not count, so that simultaneous
                requests cannot exceed the limit.
            override_defaults: Whether the limit replaces the default and the limits of blueprints.
            on_denied: Returns the response to a request that this limit denied, as a view would, or
                None for the usual one. The status is 429 unless the response has one.
            shadow: The limit counts and reports, but never denies.
            percent: The percentage of subjects to which the limit applies, always the same ones.
            unidentified: What happens to a caller without a subject: refuse (400), skip (the limit
                does not apply), address (the client's address is the subject).

        All limits of a route are checked in one call before its view runs; all are charged, or none.
        An error of one of the functions is an error of the request, which then never passes. A
        decorated function that is not a view has one count for each ``__qualname__``: functions that
        one factory makes share a count.

        Raises:
            InvalidPolicy, InvalidSetting, InvalidCost: An argument is wrong. ``init_app`` raises errors
                that depend on the application's algorithm, if it is called later.

        """
        return self._declare(_declared(limits, None, options))

    def shared_limit(
        self, limits: Amount, scope: str | Callable[[str], str], **options: Unpack[LimitOptions]
    ) -> Declaration:
        """Limit several routes together: they share one count.

        Args:
            limits: As in ``limit``.
            scope: The name of the count, which several calls may use; or a function of the endpoint that
                returns the name for each request, for example a host.
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
            target: The view, class or blueprint; without it, ``exempt`` returns a decorator.
            application: Exempt it also from the limits that all requests share.
            nested: Exempt also the blueprints that are registered on this one.

        """
        exemption = Exemption(application=application, nested=nested)
        if target is None:
            return partial(self._exempt, exemption=exemption)
        return self._exempt(target, exemption)

    def exempt_when(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Exempt every request for which a function returns a true value; also a decorator."""
        check_function("exempt_when", function)
        self._registry.exempt_when.append(function)
        return function

    def _setup(self, config: Mapping[str, Any]) -> Setup:
        default = self._default
        hidden = [*self._given, *([] if isinstance(default, _BySettings) else ["limits"])]
        environ = settings.with_config(config, hidden)
        try:
            defaults = {"limits": DEFAULT, "denial_cache": DENIAL_CACHE, **self._given}
            store_settings = settings.from_environment(environ, defaults)
            limits = store_settings.pop("limits")
            if isinstance(default, _BySettings):
                if file := environ.get(settings.POLICIES):
                    raise InvalidSetting(
                        f"{settings.POLICIES} is {file!r}, which FlaskLimiter does not read: expected "
                        f"default=, or LimiterMiddleware(app.wsgi_app, Policies.from_env()) in its place"
                    )
                default = _without_options(limits)
            algorithm = store_settings.pop("algorithm", None)
            name = store_settings.setdefault("name", "default")
            base = Limiter("1/day", **store_settings)
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
    fields: dict[str, Any] = dict(options)
    key, methods = fields.pop("key", None), named_methods(fields.pop("methods", ()))
    if "GET" in methods:
        methods |= {"HEAD"}
    identity = None if key is None else by_key(key)
    return DeclaredLimit(amount, identity, scope=scope, methods=methods, **fields)


def _without_options(amount: Amount | None) -> tuple[DeclaredLimit, ...]:
    return () if amount is None else (DeclaredLimit(amount),)

"""Flask-Limiter's ``Limiter``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from flask import Flask, Response

from limiter.client import Limiter as Decider
from limiter.compat.flask_limiter import answers, config, limits
from limiter.compat.flask_limiter.constants import ExemptionScope, HeaderNames
from limiter.compat.flask_limiter.request_limit import (
    RequestLimit,
    deciding,
    note_clock,
    request_limits,
)
from limiter.compat.flask_limiter.resolver import CompatResolver
from limiter.errors import InvalidSetting
from limiter.flask import registry
from limiter.flask.extension import Extension
from limiter.flask.limits import check_names, named_methods, state_name
from limiter.flask.request_state import RequestState
from limiter.flask.resolver import LimitResolver
from limiter.flask.setup import Setup
from limiter.log_throttle import log_seldom

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Seconds that calls wait for a storage without ``socket_timeout``.
_TIMEOUT = 1.0

#: Options whose names differ from those of ``DeclaredLimit``.
_RENAMED = {"error_message": "message", "on_breach": "on_denied"}

_EXEMPT = ExemptionScope.APPLICATION | ExemptionScope.META | ExemptionScope.DEFAULT


class LimitOptions(TypedDict, total=False):
    """The options of ``limit`` and ``shared_limit``."""

    key_func: Callable[[], Any] | None
    per_method: bool
    methods: Iterable[str] | None
    error_message: str | Callable[[], str] | None
    exempt_when: Callable[[], Any] | None
    override_defaults: bool
    deduct_when: Callable[[Response], Any] | None
    on_breach: Callable[[RequestLimit], Any] | None
    cost: int | Callable[[], int] | None
    meta_limits: object


class Declaration(registry.Declaration):
    """What ``limit`` and ``shared_limit`` return: a decorator."""

    def __enter__(self) -> None:
        raise TypeError(
            "with limiter.limit(...) is not offered here: limit a function, and call it"
        )

    def __exit__(self, *_: object) -> None:
        """Never called: ``__enter__`` raises."""


class Limiter(Extension):
    """Runs code that is written for Flask-Limiter; the arguments are the same.

    Attributes:
        enabled: Whether limits are enforced; can be changed while the application runs.
        initialized: Whether ``init_app`` was called while ``enabled`` was true.
        logger: Where breaches are logged.

    Raises:
        InvalidSetting: A setting is not offered here; the message names what to use instead.
        InvalidPolicy: A limit is wrong.

    """

    _resolver: ClassVar[type[LimitResolver]] = CompatResolver

    def __init__(
        self,
        key_func: Callable[[], Any],
        *,
        app: Flask | None = None,
        header_name_mapping: Mapping[HeaderNames, str] | None = None,
        enabled: bool = True,
        **settings: Unpack[config.Settings],
    ) -> None:
        config.refuse_unknown(settings)
        super().__init__()
        self._given = settings
        config.read(settings, {})  # raises here, not only in init_app
        self._identity = limits.identity(key_func)
        self._header_names = dict(header_name_mapping or {})
        self.enabled = enabled
        self.initialized = False
        self.logger = config.log
        self._registry.exempt_when.append(lambda: not self.enabled)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Enforce the limits in an application.

        Raises: As the class.
        """
        self.enabled = bool(app.config.setdefault(config.ENABLED, self.enabled))
        settings = config.read(self._given, app.config)
        self._install(app, self._setup(settings, app.config) if self.enabled else None)
        if self.enabled:
            self.initialized = True
            app.extensions.setdefault("limiter", set()).add(self)

    def limit(
        self,
        limit_value: str | Callable[[], str],
        *,
        scope: object = None,
        **options: Unpack[LimitOptions],
    ) -> Declaration:
        """Limit a view or a blueprint.

        Raises: As the class.
        """
        if scope is not None:
            raise InvalidSetting.of("scope", repr(scope), "not offered here; use shared_limit")
        return self._declared(limit_value, None, options)

    def shared_limit(
        self,
        limit_value: str | Callable[[], str],
        scope: str | Callable[[str], str],
        **options: Unpack[LimitOptions],
    ) -> Declaration:
        """Limit several routes together.

        Raises: As the class.
        """
        return self._declared(limit_value, scope, options)

    def exempt(self, obj: Any = None, *, flags: ExemptionScope = _EXEMPT) -> Any:
        """Exempt a view or a blueprint; also a decorator."""
        if obj is None:
            return partial(self._exempt, exemption=flags)
        return self._exempt(obj, flags)

    def request_filter(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        """Exempt every request for which a function returns a true value."""
        self._registry.exempt_when.append(fn)
        return fn

    def check(self) -> None:
        """Check the limits of the current request, unless they were checked already.

        Raises:
            RateLimitExceeded: A limit has no room.

        """
        app_limits = self._here()
        if app_limits is None:
            return
        verdict = self.current
        if verdict is None:
            app_limits.enter()
        elif not verdict.allowed:
            raise answers.exceeded(verdict, None)
        app_limits.enter_view()

    def reset(self) -> None:
        """Forget all counts of a ``memory://`` storage, for example between tests.

        Raises:
            InvalidSetting: The storage is not ``memory://``: other programs may keep counts there.

        """
        for app_limits in self._enforced():
            app_limits.base.clear()
            self.logger.info("Storage has been reset and all limits cleared")

    @property
    def current_limit(self) -> RequestLimit | None:
        """The limit that denied, or the one with the least left."""
        verdict = self.current
        return None if verdict is None else deciding(verdict)

    @property
    def current_limits(self) -> list[RequestLimit]:
        """All limits that were checked."""
        verdict = self.current
        return [] if verdict is None else request_limits(verdict)

    def _called_elsewhere(self, function: Callable[..., Any]) -> None:
        """Enforce no limit without ``init_app``: some applications do not call it in tests."""
        if self.initialized:
            super()._called_elsewhere(function)
        text = "%s is limited, but init_app was never called: no limit is enforced"
        log_seldom(self.logger, logging.WARNING, text, function.__name__)

    def __getattr__(self, name: str) -> Any:
        if name in _INSTEAD:
            raise AttributeError(
                f"Limiter.{name} of Flask-Limiter is not offered here: {_INSTEAD[name]}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _declared(
        self, value: Any, scope: str | Callable[[str], str] | None, options: LimitOptions
    ) -> Declaration:
        check_names(options, LimitOptions)
        given: dict[str, Any] = {
            _RENAMED.get(name, name): value for name, value in options.items() if value is not None
        }
        meta_limits, key_func = given.pop("meta_limits", None), given.pop("key_func", None)
        if meta_limits:
            instead = config.REFUSED["meta_limits"][1]
            raise InvalidSetting.of(
                "meta_limits", repr(meta_limits), f"not offered here; {instead}"
            )
        key = None if key_func is None else limits.identity(key_func)
        methods = named_methods(given.pop("methods", None) or ())
        limit = limits.declared(value, key, scope=scope, methods=methods, **given)
        return Declaration(self._declare(limit))

    def _setup(self, settings: Mapping[str, Any], app_config: Mapping[str, Any]) -> Setup:
        uri, fallback = settings.get("storage_uri"), settings.get("in_memory_fallback")
        if not uri:
            warnings.warn(
                "no storage_uri: each process counts for itself, in memory",
                UserWarning,
                stacklevel=4,
            )
        store_settings = {
            "timeout": _TIMEOUT,
            **config.options(settings.get("storage_options") or {}),
            "on_error": "allow" if settings.get("swallow_errors") else "raise",
        }
        if settings.get("in_memory_fallback_enabled") and not fallback:
            store_settings["on_error"] = "local"
        strategy = settings.get("strategy", "fixed-window")
        base = Decider("1/second", store=config.store(uri or "memory://"), **store_settings)
        in_memory = Decider("1/second", store="memory://")
        names = {key: app_config.get(key, name) for key, name in config.HEADERS.items()}
        names |= {f"RATELIMIT_HEADER_{key.name}": name for key, name in self._header_names.items()}
        write = partial(self._write_fields, names)
        return Setup(
            name=state_name("flask", *filter(None, [settings.get("key_prefix")])),
            base=base,
            make=limits.checked_maker(base, strategy, store_settings),
            identity=self._identity,
            application=limits.of_application(settings, "application_limits"),
            default=limits.of_application(settings, "default_limits"),
            observe=note_clock,
            on_denied=settings.get("on_breach"),
            limit_options=True,
            preflights=True,
            write=write if settings.get("headers_enabled") else lambda *_: None,
            refuse=answers.exceeded,
            fallback=[limits.declared(value) for value in limits.listed(fallback)],
            make_fallback=limits.checked_maker(in_memory, strategy, {}),
        )

    def _write_fields(self, names: Mapping[str, str], response: Response, _: RequestState) -> None:
        answers.write_fields(response, self.current_limit, names)


_INSTEAD = {
    "limiter": "use limiter.Limiter, whose peek, hit and reset take a key",
    "storage": "use limiter.Limiter, whose peek and reset take a key",
    "context": "use current_limits",
    "identify_request": "use flask.request.endpoint",
    "limit_manager": "use rules(endpoint)",
    "app": "use flask.current_app",
}

"""Flask-Limiter's ``Limiter``."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from flask import Flask, Response, current_app, request

from limiter.base import Limits
from limiter.client import Limiter as Decider
from limiter.compat.flask_limiter import config
from limiter.compat.flask_limiter.constants import ExemptionScope, HeaderNames
from limiter.compat.flask_limiter.errors import Breached, RateLimitExceeded
from limiter.compat.flask_limiter.request_limit import (
    RequestLimit,
    deciding,
    note_clock,
    request_limits,
)
from limiter.compat.flask_limiter.resolver import CompatResolver
from limiter.compat.flask_limiter.util import get_remote_address
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.flask import registry
from limiter.flask.extension import Extension, maker
from limiter.flask.limits import DeclaredLimit, by_key, named_methods, state_name
from limiter.flask.refusals import refusal
from limiter.flask.request_state import RequestState
from limiter.flask.resolver import LimitResolver
from limiter.flask.setup import Make, Setup, denying
from limiter.grammar import read_limits
from limiter.keys import Key
from limiter.log_throttle import log_seldom
from limiter.policies import ALGORITHMS, Policy
from limiter.web.functions import check_function
from limiter.web.guard import Verdict
from limiter.web.identity import Network
from limiter.web.request import Request
from limiter.web.subjects import Identity

#: Calls wait so long for a storage whose options say nothing.
_TIMEOUT = 1.0

_EXEMPT = ExemptionScope.APPLICATION | ExemptionScope.META | ExemptionScope.DEFAULT


class Declaration(registry.Declaration):
    """What ``limit`` and ``shared_limit`` return: a decorator."""

    def __enter__(self) -> None:
        raise TypeError(
            "with limiter.limit(...) is not offered here: limit a function, and call it"
        )

    def __exit__(self, *_: object) -> None:
        """Nothing was entered."""


class Limiter(Extension):
    """Runs what is written for Flask-Limiter; arguments as there.

    Attributes:
        enabled: Whether limits are enforced; may be changed while the application runs.
        initialized: Whether ``init_app`` was called, with limits that are enforced.
        logger: Where breaches are logged.

    Raises:
        InvalidSetting: A setting is not offered here; the message says what to use instead.
        InvalidPolicy: A limit makes no sense.

    """

    _resolver: ClassVar[type[LimitResolver]] = CompatResolver

    def __init__(
        self,
        key_func: Callable[[], Any],
        *,
        app: Flask | None = None,
        default_limits: Iterable[Any] | None = None,
        default_limits_per_method: bool | None = None,
        default_limits_exempt_when: Callable[[], Any] | None = None,
        default_limits_deduct_when: Callable[[Response], Any] | None = None,
        default_limits_cost: int | Callable[[], int] | None = None,
        application_limits: Iterable[Any] | None = None,
        application_limits_per_method: bool | None = None,
        application_limits_exempt_when: Callable[[], Any] | None = None,
        application_limits_deduct_when: Callable[[Response], Any] | None = None,
        application_limits_cost: int | Callable[[], int] | None = None,
        headers_enabled: bool | None = None,
        header_name_mapping: Mapping[HeaderNames, str] | None = None,
        strategy: str | None = None,
        storage_uri: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        swallow_errors: bool | None = None,
        fail_on_first_breach: bool | None = None,
        on_breach: Callable[[RequestLimit], Any] | None = None,
        meta_limits: Iterable[Any] | None = None,
        on_meta_breach: Callable[[RequestLimit], Any] | None = None,
        in_memory_fallback: Iterable[Any] | None = None,
        in_memory_fallback_enabled: bool | None = None,
        retry_after: str | None = None,
        key_prefix: str = "",
        request_identifier: Callable[..., str] | None = None,
        enabled: bool = True,
        **more: Any,
    ) -> None:
        config.refuse_arguments(more)
        super().__init__()
        self._given: dict[str, Any] = {
            "default_limits": default_limits,
            "default_limits_per_method": default_limits_per_method,
            "default_limits_exempt_when": default_limits_exempt_when,
            "default_limits_deduct_when": default_limits_deduct_when,
            "default_limits_cost": default_limits_cost,
            "application_limits": application_limits,
            "application_limits_per_method": application_limits_per_method,
            "application_limits_exempt_when": application_limits_exempt_when,
            "application_limits_deduct_when": application_limits_deduct_when,
            "application_limits_cost": application_limits_cost,
            "headers_enabled": headers_enabled,
            "strategy": strategy,
            "storage_uri": storage_uri,
            "storage_options": storage_options,
            "swallow_errors": swallow_errors,
            "fail_on_first_breach": fail_on_first_breach,
            "on_breach": on_breach,
            "meta_limits": meta_limits,
            "on_meta_breach": on_meta_breach,
            "in_memory_fallback": in_memory_fallback,
            "in_memory_fallback_enabled": in_memory_fallback_enabled,
            "retry_after": retry_after,
            "key_prefix": key_prefix,
            "request_identifier": request_identifier,
        }
        config.read(self._given, {})  # what is not offered is named here, not only in init_app
        self._identity = _identity(key_func)
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
        found = config.read(self._given, app.config)
        self._install(app, self._setup(found, app.config) if self.enabled else None)
        if self.enabled:
            self.initialized = True
            app.extensions.setdefault("limiter", set()).add(self)

    def limit(
        self,
        limit_value: str | Callable[[], str],
        *,
        key_func: Callable[[], Any] | None = None,
        per_method: bool = False,
        methods: Iterable[str] | None = None,
        error_message: str | Callable[[], str] | None = None,
        exempt_when: Callable[[], Any] | None = None,
        override_defaults: bool = True,
        deduct_when: Callable[[Response], Any] | None = None,
        on_breach: Callable[[RequestLimit], Any] | None = None,
        cost: int | Callable[[], int] | None = 1,
        scope: object = None,
        meta_limits: object = None,
    ) -> Declaration:
        """Limit a view or a blueprint.

        Raises: As the class.
        """
        if scope is not None:
            raise InvalidSetting.of("scope", repr(scope), "not offered here; use shared_limit")
        return self._declared(
            limit_value,
            None,
            key_func,
            meta_limits,
            per_method=per_method,
            methods=named_methods(methods or ()),
            message=error_message,
            exempt_when=exempt_when,
            override_defaults=override_defaults,
            deduct_when=deduct_when,
            on_denied=on_breach,
            cost=1 if cost is None else cost,
        )

    def shared_limit(
        self,
        limit_value: str | Callable[[], str],
        scope: str | Callable[[str], str],
        *,
        key_func: Callable[[], Any] | None = None,
        per_method: bool = False,
        methods: Iterable[str] | None = None,
        error_message: str | Callable[[], str] | None = None,
        exempt_when: Callable[[], Any] | None = None,
        override_defaults: bool = True,
        deduct_when: Callable[[Response], Any] | None = None,
        on_breach: Callable[[RequestLimit], Any] | None = None,
        cost: int | Callable[[], int] | None = 1,
        meta_limits: object = None,
    ) -> Declaration:
        """Limit several routes together.

        Raises: As the class.
        """
        return self._declared(
            limit_value,
            scope,
            key_func,
            meta_limits,
            per_method=per_method,
            methods=named_methods(methods or ()),
            message=error_message,
            exempt_when=exempt_when,
            override_defaults=override_defaults,
            deduct_when=deduct_when,
            on_denied=on_breach,
            cost=1 if cost is None else cost,
        )

    def exempt(self, obj: Any = None, *, flags: ExemptionScope = _EXEMPT) -> Any:
        """Exempt a view or a blueprint; also a decorator."""
        if obj is None:
            return partial(self._exempt, exemption=flags)
        return self._exempt(obj, flags)

    def request_filter(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        """Exempt every request of which a function says so."""
        self._registry.exempt_when.append(fn)
        return fn

    def check(self) -> None:
        """Decide about the current request, where that has not happened yet.

        Raises:
            RateLimitExceeded: A limit has no room.

        """
        app_limits = self._app_limits.get(current_app._get_current_object())  # type: ignore[attr-defined]
        if app_limits is None:
            return
        state = RequestState.known(request.environ)
        verdict = None if state is None else state.verdict(app_limits)
        if verdict is None:
            app_limits.enter()
        elif not verdict.allowed:
            raise _exceeded(verdict, None)
        app_limits.enter_view()

    def reset(self) -> None:
        """Forget all counts of a ``memory://`` storage, as a test suite does between its tests.

        Raises:
            InvalidSetting: The storage is another one, in which others may keep counts.

        """
        for app_limits in self._at_work():
            app_limits.base.clear()
            self.logger.info("Storage has been reset and all limits cleared")

    @property
    def current_limit(self) -> RequestLimit | None:
        """The limit that denied, or is nearest to it."""
        verdict = self.current
        return None if verdict is None else deciding(verdict)

    @property
    def current_limits(self) -> list[RequestLimit]:
        """All limits that were asked."""
        verdict = self.current
        return [] if verdict is None else request_limits(verdict)

    def _meet_elsewhere(self, function: Callable[..., Any]) -> None:
        """No limit holds where ``init_app`` was never called: some applications leave it out for tests."""
        if self.initialized:
            super()._meet_elsewhere(function)
        text = "%s is limited, but init_app was never called: no limit holds"
        log_seldom(self.logger, logging.WARNING, text, function.__name__)

    def __getattr__(self, name: str) -> Any:
        if name in _INSTEAD:
            raise AttributeError(
                f"Limiter.{name} of Flask-Limiter is not offered here: {_INSTEAD[name]}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _declared(
        self,
        limit_value: Any,
        scope: str | Callable[[str], str] | None,
        key_func: Callable[[], Any] | None,
        meta_limits: object,
        **more: Any,
    ) -> Declaration:
        if meta_limits:
            raise InvalidSetting.of(
                "meta_limits",
                repr(meta_limits),
                f"not offered here; {config.REFUSED['meta_limits'][1]}",
            )
        key = None if key_func is None else _identity(key_func)
        return Declaration(self._declare(_limit(limit_value, key, scope=scope, **more)))

    def _setup(self, found: dict[str, Any], app_config: Mapping[str, Any]) -> Setup:
        more = {"timeout": _TIMEOUT, **config.options(found.get("storage_options") or {})}
        uri = found.get("storage_uri")
        if not uri:
            warnings.warn(
                "no storage_uri: each process counts for itself, in memory",
                UserWarning,
                stacklevel=4,
            )
        swallow, own = found.get("swallow_errors"), found.get("in_memory_fallback")
        more["on_error"] = "allow" if swallow else "raise"
        if found.get("in_memory_fallback_enabled") and not own:
            more["on_error"] = "local"
        name = state_name("flask", *filter(None, [found.get("key_prefix")]))
        strategy = found.get("strategy", "fixed-window")
        base = Decider("1/second", store=config.store(uri or "memory://"), **more)
        here = Decider("1/second", store="memory://")
        names = {key: app_config.get(key, name) for key, name in config.HEADERS.items()}
        names |= {f"RATELIMIT_HEADER_{key.name}": name for key, name in self._header_names.items()}
        enabled = bool(found.get("headers_enabled"))
        return Setup(
            name=name,
            base=base,
            make=_maker(base, strategy, more),
            identity=self._identity,
            application=_limits(found, "application_limits"),
            default=_limits(found, "default_limits"),
            observe=note_clock,
            on_denied=found.get("on_breach"),
            limit_options=True,
            preflights=True,
            write=partial(_write, self, names) if enabled else _write_nothing,
            refuse=_exceeded,
            fallback=[_limit(one) for one in _listed(own)],
            make_fallback=_maker(here, strategy, {}),
        )


_INSTEAD = {
    "limiter": "use limiter.Limiter, whose peek, hit and reset take a key",
    "storage": "use limiter.Limiter, whose peek and reset take a key",
    "context": "use current_limits",
    "identify_request": "use flask.request.endpoint",
    "limit_manager": "use rules(endpoint)",
    "app": "use flask.current_app",
}


def _maker(base: Decider, strategy: str, more: Mapping[str, Any]) -> Make:
    """As ``maker``, with Flask-Limiter's words for a limit that is too large for the strategy.

    One above all that is accepted anywhere counts as that much: it is written for "no limit".
    """
    make = maker(base, config.algorithm(strategy), more)
    most = {other: ALGORITHMS[name].most_limit for other, name in config.ALGORITHMS.items()}

    def make_checked(name: str, limits: Limits) -> Decider:
        if isinstance(limits, str):
            limits = _bounded(limits)
        for one in read_limits(limits) if isinstance(limits, str) else ():
            if one.limit > most[strategy]:
                fitting = [f"strategy={other!r}" for other in most if one.limit <= most[other]]
                more = f"; for more, give {' or '.join(fitting)}" if fitting else ""
                raise InvalidPolicy.of(
                    "limit",
                    repr(one.text),
                    f"with strategy={strategy!r} accepted are up to {most[strategy]:,}{more}",
                )
        return make(name, limits)

    return make_checked


def _bounded(limits: str) -> str:
    """A limit string, in which no limit is above the most that there is."""
    parts = []
    for one in read_limits(limits):
        if one.limit > Policy.most_limit:
            text = "limit is %r: it counts as %s, the most that there is"
            log_seldom(config.log, logging.WARNING, text, one.text, f"{Policy.most_limit:,}")
        within = min(one.limit, Policy.most_limit)
        parts.append(re.sub("[0-9_]+", str(within), one.text, count=1))
    return ";".join(parts)


def _write(limiter: Limiter, names: Mapping[str, str], response: Response, _: RequestState) -> None:
    """Say what the nearest limit has left; when to come back only to whom it denied."""
    one = limiter.current_limit
    if one is None:
        return
    said = response.headers
    said[names["RATELIMIT_HEADER_LIMIT"]] = str(one.limit.amount)
    said[names["RATELIMIT_HEADER_REMAINING"]] = str(one.remaining)
    said[names["RATELIMIT_HEADER_RESET"]] = str(one.reset_at)
    if one.breached:
        said[names["RATELIMIT_HEADER_RETRY_AFTER"]] = str(max(1, math.ceil(one.retry_after)))


def _write_nothing(response: Response, state: RequestState) -> None:
    """Say nothing."""


def _exceeded(verdict: Verdict, on_breach: Callable[..., Any] | None) -> Exception:
    """The exception for a refusal; whoever is to be told of a breach is told."""
    if verdict.status == 413:  # no wait would help; Flask-Limiter says 429 all the same
        return RateLimitExceeded(Breached(str(verdict.error)))
    one = deciding(verdict) if verdict.status == 429 and denying(verdict) else None
    if one is None:
        return refusal(verdict)
    _log_breach(one)
    answer = None
    for tell in dict.fromkeys((on_breach, one.rule.limit.on_denied)):
        said = None if tell is None else tell(one)  # type: ignore[arg-type]  # ours take a RequestLimit
        answer = said if isinstance(said, Response) else answer
    return RateLimitExceeded(Breached(one.limit, one.rule.limit.message), answer)


def _log_breach(one: RequestLimit) -> None:
    """Log what Flask-Limiter logs, in the same words."""
    if not config.log.isEnabledFor(logging.INFO):
        return
    identity = one.rule.identity
    key = identity.key() if isinstance(identity, _ByKeyFunc) else get_remote_address()
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(key))
    config.log.info("ratelimit %s (%s) exceeded at endpoint: %s", one.limit, shown, _scope(one))


def _scope(one: RequestLimit) -> str:
    """What Flask-Limiter calls the scope of a limit: for what, beside the key, it counts."""
    limit, endpoint = one.rule.limit, request.endpoint or ""
    scope = limit.scope(endpoint) if callable(limit.scope) else limit.scope
    if scope is None and one.shared:
        scope = "global"
    return f"{scope or endpoint}:{request.method}" if limit.per_method else scope or endpoint


def _limits(found: Mapping[str, Any], what: str) -> list[DeclaredLimit]:
    more: dict[str, Any] = {
        "per_method": bool(found.get(f"{what}_per_method")),
        "exempt_when": found.get(f"{what}_exempt_when"),
        "deduct_when": found.get(f"{what}_deduct_when"),
        "cost": found.get(f"{what}_cost") or 1,
    }
    return [_limit(one, **more) for one in _listed(found.get(what))]


def _listed(values: Any) -> list[Any]:
    """A list as it is; of one text or function, a list of it; of nothing, none."""
    if values is None:
        return []
    return [values] if isinstance(values, str) or callable(values) else list(values)


def _limit(value: Any, key: Identity | None = None, **more: Any) -> DeclaredLimit:
    if callable(value):
        says = value
        return DeclaredLimit(lambda: says() or None, key, **more)
    if not isinstance(value, str):
        raise InvalidSetting.of("limit", repr(value), "accepted are a limit string, and a function")
    return DeclaredLimit(value, key, **more)


def _identity(key_func: Any) -> Identity:
    if key_func is get_remote_address:
        return _by_remote_address
    check_function("key_func", key_func)
    return _ByKeyFunc(key_func)


class _ByKeyFunc:
    """The identity that a key function names."""

    def __init__(self, key_func: Callable[[], Any]) -> None:
        self._key_func = key_func
        self._identity = by_key(self.key)

    def key(self) -> Any:
        """What the function returns, as text: Flask-Limiter takes anything."""
        key = self._key_func()
        return key if key is None or isinstance(key, bytes) else str(key)

    def __call__(self, request: Request, trusted: Sequence[Network]) -> Key:
        return self._identity(request, trusted)


def _by_remote_address(request: Request, trusted: Iterable[Network]) -> str:  # noqa: ARG001 (none is)
    return get_remote_address()

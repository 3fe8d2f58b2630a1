"""Flask-Limiter's settings, from its arguments and ``RATELIMIT_*``; missing ones raise an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from flask import Response

from limiter.errors import InvalidSetting

if TYPE_CHECKING:
    from limiter.compat.flask_limiter.request_limit import RequestLimit

#: Flask-Limiter's own logger.
log = logging.getLogger("flask-limiter")


class Settings(TypedDict, total=False):
    """The arguments of Limiter that the application's configuration may give as well."""

    default_limits: Iterable[Any] | None
    default_limits_per_method: bool | None
    default_limits_exempt_when: Callable[[], Any] | None
    default_limits_deduct_when: Callable[[Response], Any] | None
    default_limits_cost: int | Callable[[], int] | None
    application_limits: Iterable[Any] | None
    application_limits_per_method: bool | None
    application_limits_exempt_when: Callable[[], Any] | None
    application_limits_deduct_when: Callable[[Response], Any] | None
    application_limits_cost: int | Callable[[], int] | None
    headers_enabled: bool | None
    strategy: str | None
    storage_uri: str | None
    storage_options: Mapping[str, Any] | None
    swallow_errors: bool | None
    on_breach: Callable[[RequestLimit], Any] | None
    in_memory_fallback: Iterable[Any] | None
    in_memory_fallback_enabled: bool | None
    key_prefix: str
    retry_after: str | None
    fail_on_first_breach: bool | None
    meta_limits: Iterable[Any] | None
    on_meta_breach: Callable[[RequestLimit], Any] | None
    request_identifier: Callable[..., str] | None


def _key(name: str) -> str:
    key = name.replace("application_limits", "application").replace("default_limits_", "defaults_")
    return f"RATELIMIT_{key.upper()}"


#: Arguments of Limiter, and the key of each in the application's configuration.
KEYS = {name: _key(name) for name in Settings.__annotations__} | {
    "default_limits": "RATELIMIT_DEFAULT",
    "on_breach": "RATELIMIT_ON_BREACH_CALLBACK",
    "retry_after": "RATELIMIT_HEADER_RETRY_AFTER_VALUE",
    "meta_limits": "RATELIMIT_META",
    "on_meta_breach": "RATELIMIT_ON_META_BREACH_CALLBACK",
}
ENABLED = "RATELIMIT_ENABLED"
#: Keys of header names, and the default of each.
HEADERS = {
    "RATELIMIT_HEADER_LIMIT": "X-RateLimit-Limit",
    "RATELIMIT_HEADER_REMAINING": "X-RateLimit-Remaining",
    "RATELIMIT_HEADER_RESET": "X-RateLimit-Reset",
    "RATELIMIT_HEADER_RETRY_AFTER": "Retry-After",
}

#: Settings that are not offered: values that equal the default, and what to use instead.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "fail_on_first_breach": (
        (True,),
        "all limits of a request are checked in one call, and a denied request is charged to none; "
        "current_limits has the result of each",
    ),
    "meta_limits": ((), "put another limit on the routes; denials are counted by no limit"),
    "on_meta_breach": ((), "there are no meta limits"),
    "request_identifier": ((), "use shared_limit with a scope"),
    "retry_after": (
        ("delta-seconds",),
        "Retry-After is in seconds: a date needs the client's clock",
    ),
}
#: Values that count as not set.
_NOTHING: tuple[Any, ...] = (None, "", [], ())
_INSTEAD = {
    "RATELIMIT_KEY_FUNC": "give Limiter its key_func",
    "RATELIMIT_STORAGE_URL": "use RATELIMIT_STORAGE_URI",
}
_UNKNOWN = {
    "auto_check": "limits are always checked; use @limiter.exempt, and limiter.check()",
    "storage": "use storage_uri",
}

ALGORITHMS = {
    "fixed-window": "fixed_window",
    "moving-window": "sliding_log",
    "sliding-window-counter": "sliding_window",
}

_STORES = (
    "redis://",
    "rediss://",
    "redis+unix://",
    "unix://",
    "redis+cluster://",
    "rediss+cluster://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "valkey://",
    "valkeys://",
    "memory://",
)
_OPTIONS = {"socket_timeout": "timeout", "socket_connect_timeout": "connect_timeout"}


def read(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings by argument; arguments override the configuration.

    Unknown RATELIMIT_* keys are logged and not read: an application may have its own.

    Raises:
        InvalidSetting: A setting is not offered; the message names what to use.

    """
    names = {key: name for name, key in KEYS.items()}
    for key in config:
        if key.startswith("RATELIMIT_") and key not in {*names, *HEADERS, ENABLED}:
            instead = _INSTEAD.get(key, "Flask-Limiter 4.1 has no such setting either")
            log.warning("%s is not read by Limiter: %s", key, instead)
    settings = {names[key]: value for key, value in config.items() if key in names}
    settings = {name: value for name, value in settings.items() if value not in _NOTHING}
    settings |= {name: value for name, value in given.items() if value not in _NOTHING}
    for name, (harmless, instead) in REFUSED.items():
        value = settings.pop(name, None)
        if value not in (None, *harmless):
            raise InvalidSetting.of(name, repr(value), f"not offered here; {instead}")
    return settings


def refuse_unknown(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that Flask-Limiter 4.1 does not have.

    Raises:
        TypeError: An argument is unknown.

    """
    for name in arguments.keys() - KEYS:
        instead = _UNKNOWN.get(name, "Flask-Limiter 4.1 has no such argument")
        raise TypeError(f"Limiter got an unexpected argument {name!r}: {instead}")


def algorithm(strategy: str) -> str:
    """The algorithm of a strategy.

    Raises:
        InvalidSetting: No strategy has that name.

    """
    if strategy in ALGORITHMS:
        return ALGORITHMS[strategy]
    raise InvalidSetting.of("strategy", repr(strategy), f"expected {', '.join(ALGORITHMS)}")


def store(uri: str) -> str:
    """The URL of a storage.

    Raises:
        InvalidSetting: The storage is not Redis, Valkey or memory.

    """
    if not uri.startswith(_STORES):
        scheme = uri.partition("://")[0]
        raise InvalidSetting(f"storage_uri begins with {scheme!r}: expected {', '.join(_STORES)}")
    return uri.removeprefix("redis+") if uri.startswith("redis+unix://") else uri


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The timeouts in ``storage_options``.

    Raises:
        InvalidSetting: An option is not a timeout.

    """
    for name in given:
        if name not in _OPTIONS:
            raise InvalidSetting(
                f"storage_options has {name!r}: expected {', '.join(_OPTIONS)}; other options "
                f"of a connection go into storage_uri"
            )
    return {_OPTIONS[name]: value for name, value in given.items()}

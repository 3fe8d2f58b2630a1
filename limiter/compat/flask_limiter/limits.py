"""Translate Flask-Limiter's limits, key functions and strategies into this package's."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from limiter.client import Limiter
from limiter.compat.flask_limiter import config
from limiter.compat.flask_limiter.util import get_remote_address
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.flask.limits import DeclaredLimit, by_key
from limiter.flask.setup import Make, maker
from limiter.grammar import Limits, read_limits
from limiter.keys import Key
from limiter.log_throttle import log_seldom
from limiter.policies import ALGORITHMS, Policy
from limiter.web.functions import check_function
from limiter.web.identity import Network
from limiter.web.request import Request
from limiter.web.subjects import Identity


def declared(value: Any, key: Identity | None = None, **options: Any) -> DeclaredLimit:
    """A limit of a string or a function; an empty string means no limit.

    Raises:
        InvalidSetting, InvalidPolicy: The value is neither, or is not a limit.

    """
    if callable(value):
        return DeclaredLimit(lambda: value() or None, key, **options)
    if not isinstance(value, str):
        raise InvalidSetting.of("limit", repr(value), "expected a limit string, and a function")
    return DeclaredLimit(value, key, **options)


def of_application(settings: Mapping[str, Any], name: str) -> list[DeclaredLimit]:
    """The limits of a setting, ``default_limits`` or ``application_limits``, with its options."""
    options: dict[str, Any] = {
        "per_method": bool(settings.get(f"{name}_per_method")),
        "exempt_when": settings.get(f"{name}_exempt_when"),
        "deduct_when": settings.get(f"{name}_deduct_when"),
        "cost": settings.get(f"{name}_cost") or 1,
    }
    return [declared(value, **options) for value in listed(settings.get(name))]


def listed(values: Any) -> list[Any]:
    """Values as a list: a single text or function becomes a list of one, None an empty list."""
    if values is None:
        return []
    return [values] if isinstance(values, str) or callable(values) else list(values)


def identity(key_func: Any) -> Identity:
    """The identity of a key function.

    Raises:
        InvalidSetting: It is not a function without arguments.

    """
    if key_func is get_remote_address:
        return _by_remote_address
    check_function("key_func", key_func)
    return ByKeyFunc(key_func)


class ByKeyFunc:
    """The identity of an application's key function."""

    def __init__(self, key_func: Callable[[], Any]) -> None:
        self._key_func = key_func
        self._identity = by_key(self.key)

    def key(self) -> Any:
        """The function's result as text: Flask-Limiter accepts every type."""
        key = self._key_func()
        return key if key is None or isinstance(key, bytes) else str(key)

    def __call__(self, request: Request, trusted: Sequence[Network]) -> Key:
        """The subject of the key."""
        return self._identity(request, trusted)


def _by_remote_address(request: Request, trusted: Iterable[Network]) -> str:  # noqa: ARG001 (none is)
    return get_remote_address()


def checked_maker(base: Limiter, strategy: str, settings: Mapping[str, Any]) -> Make:
    """As ``maker``, but an error about a limit that is too large for its strategy names strategies.

    A limit above the maximum of all algorithms counts as that maximum: it is meant as "no limit".
    """
    make = maker(base, config.algorithm(strategy), settings)
    most = {other: ALGORITHMS[name].most_limit for other, name in config.ALGORITHMS.items()}

    def make_checked(name: str, limits: Limits) -> Limiter:
        if isinstance(limits, str):
            limits = _bounded(limits)
        for parsed in read_limits(limits) if isinstance(limits, str) else ():
            if parsed.limit > most[strategy]:
                fitting = [f"strategy={name!r}" for name in most if parsed.limit <= most[name]]
                hint = f"; for more, give {' or '.join(fitting)}" if fitting else ""
                raise InvalidPolicy.of(
                    "limit",
                    repr(parsed.text),
                    f"with strategy={strategy!r} expected up to {most[strategy]:,}{hint}",
                )
        return make(name, limits)

    return make_checked


def _bounded(limits: str) -> str:
    """A limit string in which no limit is above the maximum."""
    parts = []
    for parsed in read_limits(limits):
        if parsed.limit > Policy.most_limit:
            text = "limit is %r: it counts as %s, the maximum"
            log_seldom(config.log, logging.WARNING, text, parsed.text, f"{Policy.most_limit:,}")
        within = min(parsed.limit, Policy.most_limit)
        parts.append(re.sub("[0-9_]+", str(within), parsed.text, count=1))
    return ";".join(parts)

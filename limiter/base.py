"""What the two limiters have in common: their arguments, settings and names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, TypeVar

from limiter import settings
from limiter.core import Core, SharedStore
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.grammar import Limits, policies_of
from limiter.keys import KeySpeller
from limiter.plan import Plan
from limiter.policies import Policy

_Own = TypeVar("_Own", bound="Base")
_Init = TypeVar("_Init", bound=Callable[..., None])


def _naming_its_class(init: _Init) -> _Init:
    """Name the class that was called in a TypeError, not the one that takes the arguments."""
    known = signature(init)
    limits, store, *others = list(known.parameters)[1:]

    @wraps(init)
    def checked(self: object, *given: Any, **named: Any) -> None:
        try:
            known.bind(self, *given, **named)
        except TypeError as error:
            name = type(self).__name__
            raise TypeError(
                f"{name}: {error}; accepted are {limits} and, by name, {store} (redis://host:port/0 or "
                f"another URL, memory:// for this process alone, or a client of redis-py), "
                f"{', '.join(others)}; {name}.from_env() reads them from LIMITER_*"
            ) from None
        init(self, *given, **named)

    return checked  # type: ignore[return-value]  # it takes what init takes


class Base:
    """A limiter's arguments and settings; its calls are those of ``Limiter`` and ``AsyncLimiter``."""

    _core_class: ClassVar[type[Core[Any]]]
    _core: Core[Any]

    @_naming_its_class
    def __init__(
        self,
        limits: Limits,
        *,
        store: object,
        name: str = "default",
        prefix: str = "rl",
        algorithm: str | None = None,
        on_error: str = "raise",
        local_share: int = 1,
        timeout: float = 0.1,
        connect_timeout: float = 2.0,
        key_secret: str | bytes | None = None,
    ) -> None:
        plan = Plan(policies_of(limits, algorithm), KeySpeller(prefix, name, key_secret))
        on_error = settings.check_on_error(on_error)
        local_share = settings.check_share(local_share)
        timeout = settings.check_seconds("timeout", timeout)
        settings.check_seconds("connect_timeout", connect_timeout)
        if isinstance(store, type(self)):
            shared: SharedStore[Any] = store._core.store
        else:
            transport = self._core_class.connect(store, timeout, connect_timeout)
            shared = SharedStore(transport, timeout)
        self._core = self._core_class(plan, name, shared, on_error, local_share, timeout)

    @classmethod
    def from_env(
        cls: type[_Own], environ: Mapping[str, str] | None = None, **defaults: Any
    ) -> _Own:
        """A limiter by ``LIMITER_STORE``, ``LIMITER_LIMITS``, ``LIMITER_ALGORITHM`` and the others.

        ``environ`` stands in for the process's environment; ``defaults`` are the arguments of
        the class that a variable, where it is set and not empty, overrides.

        Raises:
            InvalidSetting: A variable is missing or wrong; the message names it.

        """
        given = settings.from_environment(environ, defaults)
        try:
            return cls(given.pop("limits"), **given)
        except (InvalidSetting, InvalidPolicy) as error:
            raise settings.named(error, environ) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.policies)!r}, name={self.name!r})"

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The limits, in their order."""
        return self._core.plan.policies

    @property
    def name(self) -> str:
        """Part of every key; limiters with one name share their state."""
        return self._core.name

    @property
    def timeout(self) -> float:
        """Seconds within which a call is decided, or its fallback is."""
        return self._core.timeout

    @property
    def on_error(self) -> str:
        """What decides while the store does not: ``raise``, ``allow``, ``deny`` or ``local``."""
        return self._core.on_error

    @property
    def unsettled(self) -> int:
        """Settlements, refunds and releases that did not reach the store, and expired with their keys."""
        return self._core.unsettled

    def clear(self) -> None:
        """Forget every subject of every limiter that shares this ``memory://``; for tests.

        Raises:
            InvalidSetting: The store is another one, in which others may keep counts.

        """
        clear = getattr(self._core.transport, "clear", None)
        if clear is None:
            raise InvalidSetting(
                f"{self._core.transport.where} cannot be cleared: accepted is store='memory://'; reset "
                f"one subject with reset(key), or flush the database that tests have for themselves"
            )
        clear()

"""The common base of ``Limiter`` and ``AsyncLimiter``: their arguments and properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, ClassVar, TypeVar

from limiter import settings
from limiter.call_cache import CallCache
from limiter.core import Core, SharedStore
from limiter.denials import DenialCache
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.grammar import Limits, policies_of
from limiter.keys import KeySpeller
from limiter.memory.transport import MEMORY
from limiter.plan import Plan
from limiter.policies import Policy
from limiter.prepaid import Terms

_Own = TypeVar("_Own", bound="Base")
_Init = TypeVar("_Init", bound=Callable[..., None])


def _naming_its_class(init: _Init) -> _Init:
    """Let a TypeError name the class that was called, and the arguments that it accepts."""
    expected = signature(init)
    limits, store, *others = list(expected.parameters)[1:]

    @wraps(init)
    def checked(self: object, *positional: Any, **named: Any) -> None:
        try:
            expected.bind(self, *positional, **named)
        except TypeError as error:
            name = type(self).__name__
            raise TypeError(
                f"{name}: {error}; expected {limits} and, by name, {store} (redis://host:port/0 or "
                f"another URL, memory:// for this process alone, or a client of redis-py), "
                f"{', '.join(others)}; {name}.from_env() reads them from LIMITER_*"
            ) from None
        init(self, *positional, **named)

    return checked  # type: ignore[return-value]  # it has init's parameters


class Base:
    """A limiter's arguments and properties; ``Limiter`` and ``AsyncLimiter`` add the calls."""

    _core_class: ClassVar[type[Core[Any]]]
    _can_join: ClassVar[bool] = False
    """Whether the class has the setting ``join``."""
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
        denial_cache: float = 0.0,
        denial_cache_size: int = 1024,
        prepaid: int = 0,
        prepaid_hold: float = 0.2,
        cap: bool = False,
        join: bool | None = None,
    ) -> None:
        join = settings.check_join(join, self._can_join)
        cap = settings.check_switch("cap", cap)
        keys = KeySpeller(prefix, name, key_secret)
        plan = Plan(policies_of(limits, algorithm), keys, join, cap)
        on_error = settings.check_on_error(on_error)
        local_share = settings.check_share(local_share)
        timeout = settings.check_seconds("timeout", timeout)
        settings.check_seconds("connect_timeout", connect_timeout)
        denial_cache = settings.check_denial_cache(denial_cache)
        calls = CallCache(plan, settings.check_denial_cache_size(denial_cache_size))
        prepaid = settings.check_prepaid(prepaid)
        prepaid_hold = settings.check_seconds("prepaid_hold", prepaid_hold)
        terms = None
        if prepaid:
            terms = Terms(plan.policies, prepaid, prepaid_hold, local_share, timeout)
        if isinstance(store, type(self)):
            shared: SharedStore[Any] = store._core.store
        else:
            transport = self._core_class.connect(store, timeout, connect_timeout)
            shared = SharedStore(transport, timeout)
        denials = None
        if denial_cache and shared.transport.where != MEMORY:  # memory:// itself is as fast
            denials = DenialCache(denial_cache, shared.marks, denial_cache_size)
        self._core = self._core_class(
            plan, name, shared, on_error, local_share, timeout, calls, denials
        )
        if terms is not None and shared.transport.where != MEMORY:  # memory:// saves no round trip
            self._core.prepay(terms)

    @classmethod
    def from_env(
        cls: type[_Own], environ: Mapping[str, str] | None = None, **defaults: Any
    ) -> _Own:
        """Make a limiter from ``LIMITER_STORE``, ``LIMITER_LIMITS`` and the other variables.

        ``environ`` replaces the process's environment. ``defaults`` are arguments of the class; a
        variable that is set and not empty overrides its default.

        Raises:
            InvalidSetting: A variable is missing or wrong; the message names it.

        """
        arguments = settings.from_environment(environ, defaults)
        try:
            return cls(arguments.pop("limits"), **arguments)
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
        """Part of every key. Limiters with the same name share their counts."""
        return self._core.name

    @property
    def timeout(self) -> float:
        """Seconds within which a call is decided, by the store or by ``on_error``."""
        return self._core.timeout

    @property
    def on_error(self) -> str:
        """What a call does if the store does not decide: ``raise``, ``allow``, ``deny`` or ``local``."""
        return self._core.on_error

    @property
    def unsettled(self) -> int:
        """Number of settlements, refunds and releases that did not reach the store."""
        return self._core.unsettled

    def clear(self) -> None:
        """Forget every subject of every limiter that shares this ``memory://``; for tests.

        Raises:
            InvalidSetting: The store is a server, where other programs may keep counts.

        """
        clear = getattr(self._core.transport, "clear", None)
        if clear is None:
            raise InvalidSetting(
                f"{self._core.transport.where} cannot be cleared: expected store='memory://'; reset "
                f"one subject with reset(key), or flush a database that only tests use"
            )
        clear()

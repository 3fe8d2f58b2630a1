"""For tests of applications that are limited, and for simulations: time, outages, and a fresh beginning.

``with Clock() as clock:`` stops the time of every limiter on ``memory://``; ``clock.advance(60)`` moves it.
``with store_away():`` takes the store away, and ``reset()`` empties every ``memory://`` of this process.
``set_time`` and ``intercept`` change the calls of one limiter, on any store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from math import isfinite
from types import TracebackType
from typing import Any, NamedTuple
from unittest.mock import patch

from limiter.aio import AsyncLimiter
from limiter.call import SERVER_CLOCK, Call
from limiter.client import Limiter
from limiter.errors import InvalidSetting, StoreUnavailable, shown
from limiter.memory import clock as of_memory
from limiter.memory.store import clear_all
from limiter.memory.transport import AsyncMemoryTransport, MemoryTransport
from limiter.transport import AsyncTransport, Transport

__all__ = ["Clock", "StoreCall", "intercept", "reset", "set_time", "store_away"]

_AnyLimiter = Limiter | AsyncLimiter


class Clock:
    """The clock of all limiters on ``memory://`` in this process, which stands until the test moves it.

    It does not matter whether a limiter was made before or in the ``with``, by the test or by the
    application, and it may be sync or async. At the end of the ``with`` the time goes on from where it
    stands. Other stores have the clock of their server, which is not moved; ``wait`` sleeps in real time.
    """

    def __init__(self) -> None:
        self._is_ours = False

    def advance(self, seconds: float) -> None:
        """Move the time on.

        Raises:
            InvalidSetting: ``seconds`` is no number from 0, or the ``with`` has not begun or has ended.

        """
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not isfinite(seconds) or seconds < 0:
            raise InvalidSetting.of("seconds", shown(seconds), "accepted is a number from 0")
        if not self._is_ours:
            raise InvalidSetting(
                "the clock is not in use: accepted is a call in the body of its with; write "
                "with Clock() as clock"
            )
        of_memory.advance(round(seconds * 1_000_000))

    def __enter__(self) -> Clock:
        if not of_memory.stop():
            raise InvalidSetting(
                "another Clock is in use: accepted is one at a time; use that one, or end its with first"
            )
        self._is_ours = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_ours = False
        of_memory.resume()


def reset() -> None:
    """Forget every subject of every ``memory://`` in this process, and of every ``on_error="local"``."""
    clear_all()


def set_time(limiter: _AnyLimiter, now_us: int | None) -> None:
    """Have all later calls of one limiter decided at this time, on any store, for simulations.

    ``now_us`` is in whole microseconds since 1970, in which the scripts count; None is the store's own
    clock again. Keys still expire by the store's clock: an hour later than usual, so that a simulation
    may run faster than the time that it simulates. What sleeps does so in real time.

    Raises:
        InvalidSetting: ``limiter`` is no limiter, or ``now_us`` no whole number from 1.

    """
    _check_limiter(limiter)
    if now_us is not None and (type(now_us) is not int or now_us < 1):
        expected = "accepted is a whole number of microseconds from 1, or None"
        raise InvalidSetting.of("now_us", shown(now_us), expected)
    limiter._core.now_us = SERVER_CLOCK if now_us is None else now_us


@contextmanager
def store_away(limiter: _AnyLimiter | None = None) -> Iterator[None]:
    """Have the store answer no call in the ``with``: all find StoreUnavailable at once, and ``on_error``.

    Without an argument every store of this process is away, whoever made the limiters, and when; with a
    limiter, its store is, for all that share its connections. Nothing is sent, and nothing waits.

    Raises:
        InvalidSetting: ``limiter`` is no limiter.

    """
    with ExitStack() as stack:
        if limiter is not None:
            _check_limiter(limiter)
            transport = limiter._core.transport
            waits = isinstance(limiter, AsyncLimiter)
            for name in ("run", "load"):
                stack.enter_context(patch.object(transport, name, _away(waits, transport)))
        else:
            for kind in _kinds(Transport, MemoryTransport, AsyncTransport, AsyncMemoryTransport):
                waits = iscoroutinefunction(kind.run)
                for name in ("run", "load"):
                    stack.enter_context(patch.object(kind, name, _away(waits)))
        yield


class StoreCall(NamedTuple):
    """A call that a limiter is about to make, for ``intercept``."""

    mode: str
    """hit, peek, refund, settle, reset; where there are leases acquire, renew, release."""
    keys: tuple[bytes, ...]
    """The keys of the store in which the subjects' state stands."""


def intercept(
    limiter: _AnyLimiter, around: Callable[[StoreCall, Callable[[], Any]], Any] | None
) -> None:
    """Put a function around the calls of one store: to count them, make them slow, or lose answers.

    ``around(call, ahead)`` gets the call and what makes it, and returns what ``ahead()`` returns; for an
    ``AsyncLimiter`` it may be a coroutine function, and ``await ahead()``. It is in the place of an
    earlier one; None ends it. All limiters that share the store's connections have it.

    Raises:
        InvalidSetting: ``limiter`` is no limiter, or ``around`` no function that it can call.

    """
    _check_limiter(limiter)
    transport: Any = limiter._core.transport
    vars(transport).pop("run", None)
    if around is None:
        return
    is_async = isinstance(limiter, AsyncLimiter)
    if not callable(around) or (iscoroutinefunction(around) and not is_async):
        expected = "accepted is a function of a call and of what makes it, or None"
        if not is_async:
            expected += "; a coroutine function only for an AsyncLimiter"
        raise InvalidSetting.of("around", shown(around), expected)
    run = transport.run

    def intercepted(call: Call, deadline: float | None = None) -> Any:
        return around(StoreCall(call.template.mode, call.keys), partial(run, call, deadline))

    async def awaited(call: Call, deadline: float | None = None) -> Any:
        result = intercepted(call, deadline)
        return await result if isawaitable(result) else result

    transport.run = awaited if is_async else intercepted


def _check_limiter(limiter: object) -> None:
    if not isinstance(limiter, (Limiter, AsyncLimiter)):
        expected = "accepted is a Limiter or an AsyncLimiter"
        raise InvalidSetting.of("limiter", shown(limiter), expected)


def _away(waits: bool, transport: Any = None) -> Callable[..., Any]:
    """What stands in the place of a transport's method; without one, of its class's."""

    def away(*args: Any) -> Any:
        where = (args[0] if transport is None else transport).where
        raise StoreUnavailable(f"{where} is away: store_away of limiter.testing is in use")

    async def awaited(*args: Any) -> Any:
        away(*args)

    return awaited if waits else away


def _kinds(*kinds: Any) -> Iterator[Any]:
    """Classes, and all that are derived from them."""
    for kind in kinds:
        yield kind
        yield from _kinds(*kind.__subclasses__())

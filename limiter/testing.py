"""Tools for tests of limited applications, and for simulations: move time, fail calls, clear counts.

``with Clock() as clock:`` stops the time of every limiter on ``memory://``; ``clock.advance(60)`` moves it.
``with store_away():`` makes calls to the store fail; ``reset()`` clears every ``memory://`` of the process.
``set_time`` and ``intercept`` change the calls of one limiter, on any store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from math import isfinite
from typing import Any, NamedTuple
from unittest.mock import patch

from limiter.aio import AsyncLimiter
from limiter.call import SERVER_CLOCK, Call
from limiter.client import Limiter
from limiter.errors import InvalidSetting, StoreUnavailable, shown
from limiter.memory import clock as memory_clock
from limiter.memory.store import clear_all
from limiter.memory.transport import AsyncMemoryTransport, MemoryTransport
from limiter.transport import AsyncTransport, Transport

__all__ = ["Clock", "StoreCall", "intercept", "reset", "set_time", "store_away"]

_AnyLimiter = Limiter | AsyncLimiter


class Clock:
    """A stopped clock for all limiters on ``memory://`` in this process; the test moves it.

    It holds for sync and async limiters, whether they were created before the ``with`` or in it. At the
    end of the ``with``, time goes on from the time of this clock. Other stores keep the clock of their
    server, and ``wait`` sleeps in real time.
    """

    def __init__(self) -> None:
        self._is_ours = False

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Raises:
            InvalidSetting: ``seconds`` is negative or not a number, or the call is outside the ``with``.

        """
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not isfinite(seconds) or seconds < 0:
            raise InvalidSetting.of("seconds", shown(seconds), "expected a number from 0")
        if not self._is_ours:
            raise InvalidSetting(
                "the clock is not in use: expected a call in the body of its with; write "
                "with Clock() as clock"
            )
        memory_clock.advance(round(seconds * 1_000_000))

    def __enter__(self) -> Clock:
        if not memory_clock.stop():
            raise InvalidSetting(
                "another Clock is in use: expected one at a time; use that one, or end its with first"
            )
        self._is_ours = True
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ours = False
        memory_clock.resume()


def reset() -> None:
    """Forget every subject of every ``memory://`` in this process, and of every ``on_error="local"``."""
    clear_all()


def set_time(limiter: _AnyLimiter, now_us: int | None) -> None:
    """Set the time at which later calls of one limiter are decided, on any store, for simulations.

    ``now_us`` is in whole microseconds since 1970; None returns to the store's own clock. Keys still
    expire by the store's clock, but an hour later than usual, so that a slow simulation does not lose
    its state. ``wait`` and other calls that sleep do so in real time.

    Raises:
        InvalidSetting: ``limiter`` is not a limiter, or ``now_us`` not a whole number from 1.

    """
    _check_limiter(limiter)
    if now_us is not None and (type(now_us) is not int or now_us < 1):
        expected = "expected a whole number of microseconds from 1, or None"
        raise InvalidSetting.of("now_us", shown(now_us), expected)
    limiter._core.set_time(SERVER_CLOCK if now_us is None else now_us)


@contextmanager
def store_away(limiter: _AnyLimiter | None = None) -> Iterator[None]:
    """Make every call to the store fail at once in the ``with``: StoreUnavailable, or as ``on_error`` says.

    Without an argument, this holds for every store of this process, and for all limiters, old and new.
    With a limiter, it holds for all limiters that share its connections. No call is sent, and none waits.

    Raises:
        InvalidSetting: ``limiter`` is not a limiter.

    """
    with ExitStack() as stack:
        if limiter is not None:
            _check_limiter(limiter)
            transport = limiter._core.transport
            is_async = isinstance(limiter, AsyncLimiter)
            for name in ("run", "load"):
                stack.enter_context(patch.object(transport, name, _away(is_async, transport)))
            if is_async:
                stack.enter_context(patch.object(transport, "begin", _not_begun))
        else:
            for kind in _kinds(Transport, MemoryTransport, AsyncTransport, AsyncMemoryTransport):
                is_async = iscoroutinefunction(kind.run)
                for name in ("run", "load"):
                    stack.enter_context(patch.object(kind, name, _away(is_async)))
                if is_async:
                    stack.enter_context(patch.object(kind, "begin", _not_begun))
        yield


class StoreCall(NamedTuple):
    """A call that a limiter is about to make, for ``intercept``."""

    mode: str
    """hit, peek, refund, settle, reset; acquire, renew, release for leases; reserve with a record."""
    keys: tuple[bytes, ...]
    """The keys in the store that hold the subjects' state."""


def intercept(
    limiter: _AnyLimiter, around: Callable[[StoreCall, Callable[[], Any]], Any] | None
) -> None:
    """Wrap the calls to one store in a function: to count them, delay them, or drop answers.

    ``around(call, ahead)`` gets the call and the function that makes it, and returns what ``ahead()``
    returns. For an ``AsyncLimiter`` it may be a coroutine function that awaits ``ahead()``. It replaces
    an earlier function; None removes it. It holds for all limiters that share the store's connections.

    Raises:
        InvalidSetting: ``limiter`` is not a limiter, or ``around`` not a function that it can call.

    """
    _check_limiter(limiter)
    transport: Any = limiter._core.transport
    for name in ("run", "begin"):
        vars(transport).pop(name, None)
    if around is None:
        return
    is_async = isinstance(limiter, AsyncLimiter)
    if not callable(around) or (iscoroutinefunction(around) and not is_async):
        expected = "expected a function of the call and of the function that makes it, or None"
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
    if is_async:
        transport.begin = _not_begun


def _check_limiter(limiter: object) -> None:
    if not isinstance(limiter, (Limiter, AsyncLimiter)):
        expected = "expected a Limiter or an AsyncLimiter"
        raise InvalidSetting.of("limiter", shown(limiter), expected)


def _away(is_async: bool, transport: Any = None) -> Callable[..., Any]:
    """A replacement for a method of ``transport``; without one, for a method of its class."""

    def away(*args: Any) -> Any:
        where = (args[0] if transport is None else transport).where
        raise StoreUnavailable(f"{where} is away: store_away of limiter.testing is in use")

    async def awaited(*args: Any) -> Any:
        away(*args)

    return awaited if is_async else away


def _not_begun(*_: Any) -> None:
    """Replaces ``begin``, which sends a call without ``run``."""


def _kinds(*kinds: Any) -> Iterator[Any]:
    """Classes and all their subclasses."""
    for kind in kinds:
        yield kind
        yield from _kinds(*kind.__subclasses__())

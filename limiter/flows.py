"""Flows: calls of several steps, written once for threads and for coroutines.

A flow is a generator. It yields an ``Ask``, and is sent the store's reply, or the store's error is thrown
into it. It yields a ``Pause``, and is resumed when the pause is over. Its return value is the result.

A flow that only coroutines run may also yield an ``Await``. It is sent the result, or the error is thrown
into it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any, NamedTuple, TypeVar

from limiter.call import Call

_Result = TypeVar("_Result")


class Ask(NamedTuple):
    """One round trip, by ``deadline`` of ``time.monotonic``; without one, within the timeout."""

    call: Call
    deadline: float | None = None


class Pause(NamedTuple):
    """A pause of this many seconds."""

    seconds: float
    sleeper: Any = None
    """The runner's own object that sleeps, if another caller may end the pause."""


class Await(NamedTuple):
    """A limiter's own call, which notes what the store did."""

    call: Awaitable[Any]


Flow = Generator[Ask | Pause | Await, Any, _Result]

"""What takes more than one round trip, as steps: sync and async run the same ones.

A flow is a generator. It yields an ``Ask`` and is sent the store's reply, or has the store's error thrown
into it; it yields a ``Pause`` and is resumed when that has passed. What it returns is the result.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from limiter.call import Call

_Result = TypeVar("_Result")


class Ask(NamedTuple):
    """One round trip, by ``deadline`` on the monotonic clock; without one, within the time-out."""

    call: Call
    deadline: float | None = None


class Pause(NamedTuple):
    """Nothing, for so many seconds."""

    seconds: float


Flow = Generator[Ask | Pause, Any, _Result]

"""Wait for events in another thread, process or server, which sends the test no signal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")

#: Longer than anything takes on a busy machine; a true condition ends the wait earlier.
PATIENCE = 30.0
#: Seconds for which a busy machine stalls, at times.
STALL = 2.0
#: Seconds for a decision where the test means no timeout: a busy machine stalls for two.
TIMEOUT = 5.0
_PAUSE = 0.01


def never() -> str:
    """The default message of a wait in vain."""
    return "it never came true"


def until(
    condition: Callable[[], Answer], seconds: float = PATIENCE, what: Callable[[], str] = never
) -> Answer:
    """Repeat until ``condition`` is true; fail after ``seconds``, with the message of ``what``."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(_PAUSE)  # no event signals it: look again
    return answer


def until_renewed(limiter: Any, subject: Any, cost: int = 1) -> None:
    """Wait until the lease that leaves no room for ``cost`` ends later than before.

    A lease of three seconds is renewed after one, and bears a stall of two.
    """

    def end() -> float:
        decision = limiter.peek(subject, cost)
        assert not decision.allowed, "it has ended"
        return float(decision.decided_at + decision.retry_after)

    first = end()
    until(lambda: end() > first + 0.1, what=lambda: "it is not renewed")


async def soon(
    condition: Callable[[], Awaitable[Answer]],
    seconds: float = PATIENCE,
    what: Callable[[], str] = never,
) -> Answer:
    """As ``until``, in an event loop."""
    deadline = time.monotonic() + seconds
    while not (answer := await condition()):
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(_PAUSE)  # no event signals it: look again
    return answer

"""Look-ups of host names for an event loop, in their own threads.

An event loop has few threads for all such work. While a name server is silent, abandoned look-ups would
fill them: the application's own work would wait, and the program could not end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from limiter.threads import start_thread

#: Seconds after which a look-up without an answer is begun once more, beside the ones under way: a system
#: repeats its question to a silent name server after 5 seconds, and an answer to a new one may come sooner.
AGAIN_AFTER = 0.5
#: Look-ups of one name under way at the same time. They began at different times, and so do their repeats.
MOST_THREADS = 12


#: The process (the child of a fork does not have the threads), host and port.
_Name = tuple[int, str, int]


class Address(NamedTuple):
    """One address of a name, in the form of ``socket.getaddrinfo``."""

    family: int
    kind: int
    protocol: int
    canonical_name: str
    address: Any


class _LookUp:
    """A look-up under way, in one thread or several; the first answer counts."""

    def __init__(self, name: _Name) -> None:
        self._name = name
        self._threads = 0
        self._begun_at = -AGAIN_AFTER
        self.answer: concurrent.futures.Future[list[Address]] = concurrent.futures.Future()
        # A caller may give up, but the look-up cannot.
        self.answer.set_running_or_notify_cancel()

    def begin_if_due(self) -> None:
        """Begin it in one more thread, unless it has just begun."""
        now = monotonic()
        if self._threads < MOST_THREADS and now - self._begun_at >= AGAIN_AFTER:
            start_thread(self._run, f"{self._name[1]}:{self._name[2]}")
            self._threads += 1
            self._begun_at = now

    def _run(self) -> None:
        give: Callable[[], None]
        try:
            addresses = socket.getaddrinfo(*self._name[1:], type=socket.SOCK_STREAM)
            give = partial(self.answer.set_result, [Address(*address) for address in addresses])
        except Exception as error:
            give = partial(self.answer.set_exception, error)
        if _under_way.get(self._name) is self:
            _under_way.pop(self._name, None)
        with suppress(concurrent.futures.InvalidStateError):  # another thread was faster
            give()


_under_way: dict[_Name, _LookUp] = {}


async def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses of a host name; look-ups of one name at the same time share their threads.

    Raises:
        OSError: There is no such name.

    """
    name = (os.getpid(), host, port)
    pending = _under_way.setdefault(name, _LookUp(name))
    answer = asyncio.wrap_future(pending.answer)
    try:
        while not answer.done():
            pending.begin_if_due()
            await asyncio.wait([answer], timeout=AGAIN_AFTER)
        return answer.result()
    finally:
        answer.cancel()  # this loop may be closed before the answer comes

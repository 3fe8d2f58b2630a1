"""How long a store was out, as a plain client of redis-py sees it, without the limiter."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple

import redis

#: Seconds between two attempts, and for an attempt.
PAUSE, TIMEOUT = 0.01, 0.1


class Outage(NamedTuple):
    """The time from the last success before a failure to the next success."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began


class Attempt(NamedTuple):
    """One write to one server: when it was sent and answered, and whether it was executed."""

    server: int
    sent: float
    answered: float
    executed: bool


class Probe:
    """Writes one key to each server of one shard all the time; the shard is up while one executes it.

    ``connect`` makes a client for each server. A client that failed is made anew.
    """

    def __init__(
        self, connect: Sequence[Callable[[], redis.Redis]], key: str, *, cluster: bool = False
    ) -> None:
        self.attempts: list[Attempt] = []
        self._key = key
        self._cluster = cluster
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(number, make), daemon=True)
            for number, make in enumerate(connect)
        ]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_up(self) -> bool:
        """Whether a write that began within the last tenth of a second was executed."""
        since = time.monotonic() - 0.1
        return any(attempt.executed and attempt.sent > since for attempt in self.attempts[-100:])

    def outages(self) -> list[Outage]:
        """Return the outages until now, in their order."""
        return outages(self.attempts, time.monotonic())

    def _write(self, number: int, connect: Callable[[], redis.Redis]) -> None:
        client = None
        while not self._ended.is_set():
            sent, executed = time.monotonic(), False
            try:
                client = client or connect()
                pipe = client.pipeline(transaction=False)
                if self._cluster:
                    pipe.execute_command("ASKING")  # it may be the new node of a slot that moves
                pipe.execute_command("SET", self._key, "1", "PX", "60000")
                executed = bool(pipe.execute())
            except redis.ResponseError:
                pass  # refused; the connection can be used
            except (redis.RedisError, OSError):
                if client is not None:
                    with suppress(redis.RedisError, OSError):
                        client.close()
                client = None
            self.attempts.append(Attempt(number, sent, time.monotonic(), executed))
            self._ended.wait(PAUSE)
        if client is not None:
            client.close()


def outages(attempts: Sequence[Attempt], now: float) -> list[Outage]:
    """Return the outages: between two successes, the server of the first one failed.

    A server that never succeeds, such as a replica, makes no outage.
    """
    found: list[Outage] = []
    last: Attempt | None = None
    has_failed = False
    for attempt in sorted(attempts, key=lambda attempt: attempt.sent):
        if not attempt.executed:
            has_failed = has_failed or (last is not None and attempt.server == last.server)
            continue
        if last is not None and has_failed and attempt.sent > last.answered:
            found.append(Outage(last.answered, attempt.sent))
        last, has_failed = attempt, False
    if last is not None and has_failed:
        found.append(Outage(last.answered, now))
    return found

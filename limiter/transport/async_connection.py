"""One connection of an event loop, and the many calls that are under way on it."""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable
from limiter.transport import redispy
from limiter.transport.name_lookup import look_up
from limiter.transport.replies import cause, translate

#: A reply as it came, or why there is none. Never an exception, which somebody would have to fetch.
Answer = asyncio.Future[Any]
Entry = tuple[bytes, Answer, float]

#: A connection that was heard of no longer ago is not looked at before it is used.
_AT_ONCE = 0.001
#: One timer looks after all calls of a connection; deadlines so close to each other share its ringing.
_MOST_GRAIN = 0.010
#: A call's reply may be overdue by so many timeouts, while others come, before we hang up.
_MOST_OVERDUE = 2

_CLOSED = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class AsyncConnection(asyncio.Protocol):
    """A connection that redis-py has made, its replies read by hiredis in the order of the calls.

    The calls of one turn of the loop leave in one piece. Whoever gives up leaves its place in the
    queue, where the reply is read and dropped: it never reaches anybody else.
    """

    __slots__ = (
        "__weakref__",
        "_befores",
        "_feed",
        "_gets",
        "_grain",
        "_held",
        "_loop",
        "_paused",
        "_poll",
        "_retired",
        "_second_look",
        "_socket",
        "_timeout",
        "_timer",
        "_transport",
        "_where",
        "closed",
        "ended",
        "new_answer",
        "out",
        "since",
        "waiting",
        "wakes_at",
    )

    def __init__(self, transport: asyncio.Transport, where: str, timeout: float) -> None:
        """Take over the transport of a connection that redis-py has made."""
        self._loop = loop = asyncio.get_running_loop()
        # As ``loop.create_future``, which is a call of Python's own more.
        self.new_answer: Callable[[], Answer] = partial(asyncio.Future, loop=loop)
        self._where = where
        self._timeout = timeout
        self._grain = min(timeout / 20, _MOST_GRAIN)
        self.waiting: deque[Entry] = deque()
        """Calls that were sent, the oldest first; some have given up."""
        self.out: list[Entry] = []
        """Calls of this turn of the loop; another one of it may join them."""
        self._held: list[Entry] = []
        """Calls of earlier turns, for which the server had no ear."""
        self._befores: dict[Answer, Answer] = {}
        """Of calls not yet sent that are two commands: the first one's answer."""
        self.since = monotonic()
        """Something came last, or was asked after a silence."""
        self.closed = self._retired = self._paused = self._second_look = False
        self.ended: asyncio.Future[None] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self.wakes_at = inf
        """When the timer looks for late calls: no call may be late before."""
        reader = redispy.new_reader()
        self._feed, self._gets = reader.feed, reader.gets
        self._transport = transport
        self._transport.set_protocol(self)
        self._socket = self._transport.get_extra_info("socket")
        poller = select.poll()
        poller.register(self._socket.fileno(), _CLOSED)
        self._poll = poller.poll
        if self._transport.is_closing():
            self.connection_lost(None)

    def is_ready(self) -> bool:
        """Whether a call may be sent on it; one that has been silent is looked at."""
        if self.closed:
            return False
        if self.waiting or self.out or monotonic() - self.since < _AT_ONCE or not self._poll(0):
            return True
        # What can be read and was not asked for is the end, which the loop will tell us later.
        self.fail(StoreUnavailable(f"{self._where} closed the connection"))
        return False

    def send(self, command: bytes, deadline: float) -> Answer:
        """Send a command; its answer is there by about ``deadline``."""
        answer = self.new_answer()
        out = self.out
        if not out:
            self._loop.call_soon(self._flush)
        if deadline < self.wakes_at:
            self._wake_at(deadline)
        out.append((command, answer, deadline))
        return answer

    def send_both(self, first: bytes, command: bytes, deadline: float) -> tuple[Answer, Answer]:
        """Send two commands with nothing between them; as long as one goes, the other does."""
        before = self.new_answer()
        answer = self.send(first + command, deadline)
        self._befores[answer] = before
        return before, answer

    def retire(self) -> None:
        """Close it when the calls that are under way have their replies; no more may be sent."""
        if not self.closed:
            self.closed = self._retired = True
            self._flush()
            self._end_retirement()

    def fail(self, error: LimiterError) -> None:
        """Close it; what was under way may have run, and ends with the error."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries = (*self.waiting, *self._held, *self.out)
        self.waiting.clear()
        self._held, self.out = [], []
        self._befores.clear()
        for _, answer, _ in entries:
            if not answer.done():
                answer.set_result(error)
        self._transport.abort()

    def abandon(self) -> None:
        """Its loop was closed under it: free the socket, as the loop would have in its next turn."""
        self.closed = True
        self.waiting.clear()
        self._held, self.out = [], []
        with suppress(Exception):
            self._transport.abort()
        redispy.free_socket(self._transport)

    def leave_to_parent(self, nowhere: int) -> None:
        """In the child of a fork: whatever is done to the connection here goes ``nowhere``."""
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            os.dup2(nowhere, descriptor, inheritable=False)

    def data_received(self, data: bytes) -> None:
        """Replies, or parts of them."""
        self.since = monotonic()
        gets, waiting, nothing = self._gets, self.waiting, redispy.NOT_COMPLETE
        try:
            self._feed(data)
            while (reply := gets(False)) is not nothing:
                if type(reply) is not list and isinstance(reply, redispy.Push):
                    continue
                answer = waiting.popleft()[1]
                if not answer.done():
                    answer.set_result(reply)
        except RedisError as error:
            self._fail_from(translate(error, self._where), cause(error))
        except Exception as error:  # the parser stumbled, or nobody had asked for that
            said = (
                f"{self._where} answered with something else than Redis's protocol: {error!r:.200}"
            )
            self._fail_from(StoreRefused(said), error)
        if self._retired:
            self._end_retirement()

    def eof_received(self) -> None:
        """The server hung up."""
        self.fail(StoreUnavailable(f"{self._where} closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone, by whomever."""
        if error is None:
            self.fail(StoreUnavailable(f"{self._where}: the connection was closed"))
        else:  # perhaps one of a program's own, in which asyncio saw no way but to close it
            self._fail_from(translate(error, self._where), cause(error))
        if not self.ended.done():
            self.ended.set_result(None)

    def pause_writing(self) -> None:
        """The server does not read: calls wait here, where they can be taken back."""
        self._paused = True

    def resume_writing(self) -> None:
        """It reads again."""
        self._paused = False
        self._flush()

    def _flush(self) -> None:
        out, self.out = self.out, []
        if self._paused:
            self._held += out
            return
        if self._held:
            out, self._held = self._held + out, []
        now = monotonic()
        commands = [
            command for command, answer, deadline in out if deadline > now and not answer.done()
        ]
        if len(commands) < len(out):
            out = self._in_time(out, now)
        if not out:
            return
        if self._befores:
            out = [one for entry in out for one in (*self._before(entry), entry)]
        if not self.waiting:
            self.since = monotonic()
        self.waiting.extend(out)
        self._transport.write(b"".join(commands))

    def _in_time(self, out: list[Entry], now: float) -> list[Entry]:
        """What may still be sent; what the loop had no time for ends here, and is not charged."""
        for _, answer, deadline in out:
            if deadline <= now and not answer.done():
                answer.set_result(StoreUnavailable(f"{self._where}: not sent within the deadline"))
        return [entry for entry in out if not entry[1].done()]

    def _before(self, entry: Entry) -> list[Entry]:
        before = self._befores.pop(entry[1], None)
        return [] if before is None else [(b"", before, entry[2])]

    def _fail_from(self, failure: LimiterError, error: BaseException | None) -> None:
        failure.__cause__ = error
        self.fail(failure)

    def _end_retirement(self) -> None:
        """Hang up unless somebody waits still."""
        if all(answer.done() for _, answer, _ in (*self.waiting, *self._held)):
            self.fail(StoreUnavailable(f"{self._where}: the connection was closed"))

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.wakes_at = when
        after = max(when - monotonic(), 0.0) + self._grain
        self._timer = self._loop.call_later(after, self._tick)

    def _tick(self) -> None:
        """End what is late, hang up on a silent server, and see when to look again."""
        self._timer, self.wakes_at = None, inf
        if not self._second_look and self._poll(0):
            # The loop was kept busy: first it shall read what came in time.
            self._second_look = True
            self._wake_at(monotonic() - self._grain)
            return
        self._second_look = False
        now, wake = monotonic(), inf
        for entries, said in ((self.waiting, "no answer"), ((*self._held, *self.out), "not sent")):
            for _, answer, deadline in entries:
                if answer.done():
                    continue
                if deadline <= now:
                    late = StoreUnavailable(f"{self._where}: {said} within the deadline")
                    answer.set_result(late)
                elif deadline < wake:
                    wake = deadline
        self._held = [entry for entry in self._held if not entry[1].done()]
        self._befores = {a: before for a, before in self._befores.items() if not a.done()}
        if self.waiting:
            _, first, deadline = self.waiting[0]
            if first.done() and now - self.since >= self._timeout:
                self.fail(StoreUnavailable(f"{self._where}: nothing came for the whole timeout"))
                return
            if now - deadline > _MOST_OVERDUE * self._timeout:
                self.fail(StoreUnavailable(f"{self._where}: answers come too late"))
                return
            wake = min(wake, self.since + self._timeout)
        if self._retired:
            self._end_retirement()
        if wake < inf and not self._transport.is_closing():
            self._wake_at(wake)


async def open_connection(
    redis_connection: Any, where: str, timeout: float, connect_timeout: float
) -> AsyncConnection:
    """Let redis-py connect, all of it within ``connect_timeout``, and take the connection over."""
    connecting = asyncio.ensure_future(_connect(redis_connection))
    connecting.add_done_callback(_retrieve_error)
    try:
        await asyncio.wait_for(connecting, connect_timeout)
        connection = AsyncConnection(await redispy.taken_over(redis_connection), where, timeout)
    except asyncio.TimeoutError:
        raise StoreUnavailable(f"{where}: no connection within {connect_timeout} s") from None
    finally:
        redispy.close_in_loop(redis_connection)
    if connection.closed:
        raise StoreUnavailable(f"{where} closed the connection")
    return connection


def _retrieve_error(connecting: asyncio.Future[None]) -> None:
    """Keep asyncio from logging an error that no caller waits for any more."""
    if not connecting.cancelled():
        connecting.exception()


async def _connect(redis_connection: Any) -> None:
    """Dialling is asyncio's work, or redis-py's (a Unix socket); TLS, AUTH and HELLO are redis-py's."""
    host = getattr(redis_connection, "host", None)
    if host is not None and await look_up(host, redis_connection.port) > 1:
        redispy.dial_in_parallel(redis_connection)
    await redispy.connected_in_loop(redis_connection)

"""One connection of an event loop, which carries many calls at the same time."""

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
from limiter.transport.dial import dial
from limiter.transport.joined import JoinedCalls, PendingReply, QueuedCall, callers_of
from limiter.transport.replies import cause, translate

#: Seconds after the last reply in which a connection is used without a check that it is open.
_AT_ONCE = 0.001
#: Seconds by which the one timer of a connection may be late, so that close deadlines share a wake-up.
_MOST_GRAIN = 0.010
#: Timeouts by which a reply may be overdue, while others arrive, before the connection is closed.
_MOST_OVERDUE = 2

_CLOSED = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class AsyncConnection(asyncio.Protocol):
    """A connection that redis-py has made; hiredis reads its replies, in the order of the calls.

    The calls of one turn of the loop are written together. A call that is cancelled or late keeps its
    place in the queue: its reply is read and dropped, and never reaches another call.
    """

    __slots__ = (
        "__weakref__",
        "_asks_again",
        "_feed",
        "_first_replies",
        "_gets",
        "_grain",
        "_held_back",
        "_joins",
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
        "new_pending",
        "places",
        "sent",
        "since",
        "unsent",
        "wakes_at",
    )

    def __init__(self, transport: asyncio.Transport, where: str, timeout: float) -> None:
        """Take over the transport of a connection that redis-py has made."""
        self._loop = loop = asyncio.get_running_loop()
        # Faster than ``loop.create_future``, which is one more Python call.
        self.new_pending: Callable[[], PendingReply] = partial(asyncio.Future, loop=loop)
        self._where = where
        self._timeout = timeout
        self._grain = min(timeout / 20, _MOST_GRAIN)
        self.sent: deque[QueuedCall] = deque()
        """Calls that were sent, the oldest first; cancelled and late ones stay until their reply."""
        self.unsent: list[QueuedCall] = []
        """Calls of this turn of the loop; later calls of the turn join them."""
        self.places: dict[bytes, int] = {}
        """Where in ``unsent`` the calls are that equal calls of this turn may join, by their bytes."""
        self._joins = False
        """Whether there may be joined calls that were not sent yet."""
        self._asks_again: list[QueuedCall] = []
        """Joined calls, sent before, of which some callers got no decision; they go before all others."""
        self._held_back: list[QueuedCall] = []
        """Calls of earlier turns, held back while the socket's write buffer is full."""
        self._first_replies: dict[PendingReply | JoinedCalls, PendingReply] = {}
        """For each unsent call of two commands: the reply to its first command, by that to its second."""
        self.since = monotonic()
        """When a reply last came, or a call was sent while no other was under way."""
        self.closed = self._retired = self._paused = self._second_look = False
        self.ended: asyncio.Future[None] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self.wakes_at = inf
        """When the timer next looks for late calls: at the earliest deadline, or before it."""
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
        """Whether a call may be sent; after a pause, check that the server has not closed it."""
        if self.closed:
            return False
        if self.sent or self.unsent or monotonic() - self.since < _AT_ONCE or not self._poll(0):
            return True
        # No reply is expected: what can be read is the connection's end, which the loop has yet to report.
        self.fail(StoreUnavailable(f"{self._where} closed the connection"))
        return False

    def send(self, command: bytes, deadline: float) -> PendingReply:
        """Send a command; its future gets a reply, or an error soon after ``deadline``."""
        pending = self.new_pending()
        self.expect(deadline)
        self.unsent.append((command, pending, deadline))
        return pending

    def expect(self, deadline: float) -> None:
        """Prepare for one more unsent call: all are written at the end of this turn of the loop."""
        if not self.unsent:
            self._loop.call_soon(self._flush)
        if deadline < self.wakes_at:
            self._wake_at(deadline)

    def put_joined(self, place: int, joined: JoinedCalls) -> None:
        """Put joined calls in the place of the first of them in ``unsent``."""
        self.unsent[place] = (b"", joined, inf)
        self._joins = True

    def send_first(self, joined: JoinedCalls) -> None:
        """Send joined calls once more, before all calls that have not been sent."""
        if not self._asks_again and not self.unsent:
            self._loop.call_soon(self._flush)
        self._asks_again.append((b"", joined, inf))
        self._joins = True

    def send_both(
        self, first: bytes, command: bytes, deadline: float
    ) -> tuple[PendingReply, PendingReply]:
        """Send two commands with nothing between them: both are sent, or neither."""
        first_reply = self.new_pending()
        pending = self.send(first + command, deadline)
        self._first_replies[pending] = first_reply
        return first_reply, pending

    def retire(self) -> None:
        """Accept no more calls, and close the connection when those under way have their replies."""
        if not self.closed:
            self.closed = self._retired = True
            self._flush()
            self._end_retirement()

    def fail(self, error: LimiterError) -> None:
        """Close it; calls under way end with the error, and may have run."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls = (*self.sent, *self._not_sent())
        self.sent.clear()
        self._forget_unsent()
        self._first_replies.clear()
        for _, pending, _ in calls:
            if not pending.done():
                pending.set_result(error)
        self._transport.abort()

    def abandon(self) -> None:
        """Free the socket after its event loop was closed: the loop can no longer do that."""
        self.closed = True
        self.sent.clear()
        self._forget_unsent()
        with suppress(Exception):
            self._transport.abort()
        redispy.free_socket(self._transport)

    def leave_to_parent(self, nowhere: int) -> None:
        """Replace the socket by ``nowhere`` in the child of a fork, which must not write to it."""
        descriptor = self._socket.fileno()
        if descriptor >= 0:
            os.dup2(nowhere, descriptor, inheritable=False)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and give each reply to its call."""
        self.since = monotonic()
        gets, sent, nothing = self._gets, self.sent, redispy.NOT_COMPLETE
        try:
            self._feed(data)
            while (reply := gets(False)) is not nothing:
                if type(reply) is not list and isinstance(reply, redispy.Push):
                    continue
                pending = sent.popleft()[1]
                if not pending.done():
                    pending.set_result(reply)
        except RedisError as error:
            self._fail_from(translate(error, self._where), cause(error))
        except Exception as error:  # the parser failed, or no call expected a reply
            message = (
                f"{self._where} answered with something other than Redis's protocol: {error!r:.200}"
            )
            self._fail_from(StoreRefused(message), error)
        if self._retired:
            self._end_retirement()

    def eof_received(self) -> None:
        """End the calls under way: the server closed the connection."""
        self.fail(StoreUnavailable(f"{self._where} closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        """End the calls under way: the server or this process closed the connection."""
        if error is None:
            self.fail(StoreUnavailable(f"{self._where}: the connection was closed"))
        else:  # perhaps a program's fault: asyncio closes a connection whose protocol raised one
            self._fail_from(translate(error, self._where), cause(error))
        if not self.ended.done():
            self.ended.set_result(None)

    def pause_writing(self) -> None:
        """Hold calls back while the socket's write buffer is full; they can still be cancelled."""
        self._paused = True

    def resume_writing(self) -> None:
        """Send the calls held back: the buffer has room again."""
        self._paused = False
        self._flush()

    def _flush(self) -> None:
        calls = self._not_sent()
        self._forget_unsent()
        if self._paused:
            self._held_back = calls
            return
        now = monotonic()
        if self._joins:
            self._joins = False
            calls = _joint(calls)
        commands = [
            command for command, pending, deadline in calls if deadline > now and not pending.done()
        ]
        if len(commands) < len(calls):
            calls = self._in_time(calls, now)
        if not calls:
            return
        if self._first_replies:
            calls = [each for call in calls for each in (*self._before(call), call)]
        if not self.sent:
            self.since = monotonic()
        self.sent.extend(calls)
        self._transport.write(b"".join(commands))

    def _not_sent(self) -> list[QueuedCall]:
        """Return the calls that were not sent yet, in the order in which to send them."""
        return self._asks_again + self._held_back + self.unsent

    def _forget_unsent(self) -> None:
        self._asks_again, self._held_back, self.unsent = [], [], []
        self.places.clear()

    def _in_time(self, calls: list[QueuedCall], now: float) -> list[QueuedCall]:
        """Return the calls that may still be sent; fail the late ones, which are not charged."""
        for _, pending, deadline in calls:
            if deadline <= now and not pending.done():
                pending.set_result(StoreUnavailable(f"{self._where}: not sent within the deadline"))
        return [call for call in calls if not call[1].done()]

    def _before(self, call: QueuedCall) -> list[QueuedCall]:
        """Return the first command of a call of two commands, as a queued call for its reply."""
        first_reply = self._first_replies.pop(call[1], None)
        return [] if first_reply is None else [(b"", first_reply, call[2])]

    def _fail_from(self, failure: LimiterError, error: BaseException | None) -> None:
        failure.__cause__ = error
        self.fail(failure)

    def _end_retirement(self) -> None:
        """Close it, unless a call still waits for its reply."""
        if all(pending.done() for _, pending, _ in (*self.sent, *self._not_sent())):
            self.fail(StoreUnavailable(f"{self._where}: the connection was closed"))

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.wakes_at = when
        after = max(when - monotonic(), 0.0) + self._grain
        self._timer = self._loop.call_later(after, self._tick)

    def _tick(self) -> None:
        """End late calls, close the connection if the server is silent, and set the timer again."""
        self._timer, self.wakes_at = None, inf
        if not self._second_look and self._poll(0):
            # The loop was busy: it must first read replies that arrived in time.
            self._second_look = True
            self._wake_at(monotonic() - self._grain)
            return
        self._second_look = False
        now, wake = monotonic(), inf
        for calls, problem in (
            (self.sent, "no answer"),
            (self._not_sent(), "not sent"),
        ):
            for pending, deadline in callers_of(calls):
                if pending.done():
                    continue
                if deadline <= now:
                    late = StoreUnavailable(f"{self._where}: {problem} within the deadline")
                    pending.set_result(late)
                elif deadline < wake:
                    wake = deadline
        self._held_back = [call for call in self._held_back if not call[1].done()]
        self._first_replies = {
            pending: first for pending, first in self._first_replies.items() if not pending.done()
        }
        if self.sent:
            _, first, deadline = self.sent[0]
            if first.done() and now - self.since >= self._timeout:
                self.fail(StoreUnavailable(f"{self._where}: no data came for the whole timeout"))
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
    """Connect by redis-py, handshake included, within ``connect_timeout``, and take the connection over."""
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


def _joint(calls: list[QueuedCall]) -> list[QueuedCall]:
    """Return the calls to send, with one for each group of joined calls."""
    joint = [call[1].joint() if isinstance(call[1], JoinedCalls) else call for call in calls]
    return [call for call in joint if call is not None]


def _retrieve_error(connecting: asyncio.Future[None]) -> None:
    """Keep asyncio from logging an error that no caller waits for any more."""
    if not connecting.cancelled():
        connecting.exception()


async def _connect(redis_connection: Any) -> None:
    """Connect: redis-py does TLS, AUTH and HELLO, and opens the socket unless it needs a host name."""
    if (name := redispy.host_name(redis_connection)) is not None:
        dialed = await dial(name, redis_connection.port)
        try:
            redispy.use_socket(redis_connection, dialed)
        except BaseException:
            dialed.close()
            raise
    await redispy.connected_in_loop(redis_connection)

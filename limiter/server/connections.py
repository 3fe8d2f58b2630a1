"""Clients' connections, bounded in time and in memory: uvicorn's HTTP protocol has few bounds of its own.

A connection has no timer. It is in a dictionary of what it waits for, in the order of the deadlines, and
the worker closes those past their deadline twice a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from limiter.web import problems

log = logging.getLogger("limiter.service")

#: Bytes of a request's head, and of the trailer fields after its body.
LARGEST_HEAD = 64 * 1024

#: Requests of one connection that wait for the response to an earlier one.
MOST_PIPELINED = 100

#: Seconds that a stopping worker waits for clients: one that has just sent a request may be sending the
#: next one, and would lose it.
LAST_REQUESTS = 1.0

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Takes the trailer fields, which must not be added to the fields of the head (RFC 9110, section 6.5.1).
_dropped: Any = deque(maxlen=0)


class Timeouts(NamedTuple):
    """Seconds until the worker closes a connection.

    Attributes:
        read: For a request to arrive, head and body; also for the first one of a new connection.
        idle: Between requests; longer than proxies keep a connection, so that these close it first.
        write: While the client does not read, and the buffers are full; also for the last response.
        linger: For the client to read the response to a request of which a part is still on its way.

    """

    read: float
    idle: float
    write: float
    linger: float


class Connections:
    """The open connections of a worker, by what each waits for, the longest wait first.

    Attributes:
        receiving: A part of a request has arrived, or nothing yet.
        idle: The last response is sent.
        blocked: The client does not read, and the buffers are full.
        closing: The response is sent, and the client still sends the request that it refuses.
        stopping: Whether each response now ends its connection.

    """

    def __init__(self, most: int, timeouts: Timeouts) -> None:
        self.receiving: dict[Connection, float] = {}
        self.idle: dict[Connection, float] = {}
        self.blocked: dict[Connection, float] = {}
        self.closing: dict[Connection, float] = {}
        self.stopping = False
        self._most = most
        self._timeouts = timeouts

    def make_room(self, number: int) -> None:
        """Close the connection that has waited longest, if there are more than the most."""
        if number > self._most:
            for waiting in (self.closing, self.idle, self.receiving, self.blocked):
                for connection in waiting:
                    connection.abort()
                    return

    def close_late(self, now: float) -> None:
        """Close the connections past their deadline."""
        read, idle, write, linger = self._timeouts
        for waiting, timeout in (
            (self.receiving, read),
            (self.idle, idle),
            (self.blocked, write),
            (self.closing, linger),
        ):
            latest = now - (min(timeout, LAST_REQUESTS) if self.stopping else timeout)
            late = []
            for connection, since in waiting.items():
                if since > latest:
                    break
                late.append(connection)
            for connection in late:
                connection.abort()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that waits for nothing more."""
        for waiting in (self.receiving, self.idle, self.blocked, self.closing):
            waiting.pop(connection, None)


class Connection(HttpToolsProtocol):
    """A client's connection."""

    def __init__(self, *, connections: Connections, **settings: Any) -> None:
        super().__init__(**settings)
        self._all = connections
        #: Whether a part of a request has arrived, and not all of it.
        self._arrives = False
        #: Bytes since the last end of a head, of a part of a body, or of a request.
        self._unread = 0
        #: Whether the connection stays open after the response to the last request, if that arrives whole.
        self._keep_alive = False
        #: Whether what arrives is dropped.
        self._drops = False
        #: Whether the connection has ended: no more responses.
        self._ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._socket = transport
        self._output = _Output(transport, self)
        self.transport = self._output  # type: ignore[assignment]
        self._all.receiving[self] = self.loop.time()
        self._all.make_room(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the responses that are still to come."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; refuse what is malformed, or too large."""
        if self._drops:
            return
        self._unread += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            reason = error.__context__
            if isinstance(reason, _Refused):
                self._refuse(*reason.args)
            else:
                self._refuse(400, "The request is not valid HTTP.")
            return
        if self._arrives:
            self._all.receiving.setdefault(self, self.loop.time())
            if self._unread > LARGEST_HEAD:
                self._refuse(431, f"The head or the trailer has more than {LARGEST_HEAD} bytes.")

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        """Return the head of a request that offers another protocol, without the offer.

        Clients such as Java's offer HTTP/2 like this, and accept an answer by HTTP/1.1. The parser takes
        what follows the head for the other protocol: it would parse the body as the next request.
        """
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        return line + b"".join(fields) + b"\r\n"

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer the requests that arrived before the client ended its side; then close."""
        if self._ended or self._arrives or self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arrives = True
        self._all.idle.pop(self, None)

    def on_headers_complete(self) -> None:
        """Start the application; until the body has arrived, a response would end the connection."""
        if self._unread > LARGEST_HEAD:  # with what arrived at the same time
            fields = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + fields > LARGEST_HEAD:
                raise _Refused(431, f"The head has more than {LARGEST_HEAD} bytes.")
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _Refused(400, f"More than {MOST_PIPELINED} requests wait for their responses.")
        self._unread = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refused(405, "The service is no proxy.")
            return
        super().on_headers_complete()
        self.headers = _dropped
        self._keep_alive = self.cycle.keep_alive and not self._all.stopping
        self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of a body arrived."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request has arrived."""
        if self.headers is not _dropped:  # an offer of another protocol
            return
        super().on_message_complete()
        self._arrives = False
        self._unread = 0
        self._all.receiving.pop(self, None)
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive

    def on_response_complete(self) -> None:
        """Answer the next request, or wait for it."""
        if self._ended:
            return
        self._output.end_response()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self.flow.resume_reading()
        if not self._arrives:
            self._all.idle[self] = self.loop.time()

    def pause_writing(self) -> None:
        """The buffers are full."""
        super().pause_writing()
        self._all.blocked[self] = self.loop.time()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if not self._ended:
            self._all.blocked.pop(self, None)

    def shutdown(self) -> None:
        """End the connection after the last response; ``Connections.close_late`` closes idle ones."""
        self._keep_alive = False
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def close(self) -> None:
        """Close, but let the client read the response.

        If a part of the request is still on its way, the kernel would answer it by a reset, and the client
        would lose the response. So end this side alone, and drop what arrives until the client closes.
        """
        if self._ended:
            return
        self._output.end_response()
        self._ended = self._drops = True
        self._all.forget(self)
        if self._arrives:
            self._all.closing[self] = self.loop.time()
            self._socket.write_eof()
            self.flow.resume_reading()
        else:
            self._all.blocked[self] = self.loop.time()  # until the buffers are empty
            self._socket.close()

    def abort(self) -> None:
        """Close at once."""
        self._end()
        self._socket.abort()

    def _end(self) -> None:
        self._ended = self._drops = True
        self._all.forget(self)
        self._output.drop()

    def _refuse(self, status: int, detail: str) -> None:
        """Refuse a request that is not passed to the application, and end the connection."""
        peer = self.client[0] if self.client else "unix"
        log.warning("a request is refused: %s", detail, extra={"peer": peer})
        self._drops = self._arrives = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._write_problem(status, detail)
        elif self.headers is _dropped and not self.pipeline and not cycle.response_started:
            # The fault is in the body for which the application waits.
            cycle.disconnected = True
            cycle.message_event.set()
            self._write_problem(status, detail)
        else:  # end the connection after the responses to earlier requests
            cycle.keep_alive = False

    def _write_problem(self, status: int, detail: str) -> None:
        body = problems.problem(status, detail, "").encode()
        self._socket.write(
            STATUS_LINE[status]
            + b"content-type: application/problem+json\r\ncache-control: no-store\r\n"
            + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.close()


class _Output:
    """A transport for responses, which closes by ``Connection.close``.

    The head of a response waits for the body, so that one call of the system sends both.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._write = transport.write
        self.is_closing = transport.is_closing
        self.close = connection.close
        #: The head that waits; empty once it is sent, and None until it is known.
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write the head of a response, a part of its body, or a 100 Continue."""
        if self._head:
            self._write(self._head + data)
            self._head = b""
        elif self._head is None and data != _CONTINUE:
            self._head = data
        else:
            self._write(data)

    def end_response(self) -> None:
        """Write a head without a body."""
        if self._head:
            self._write(self._head)
        self._head = None

    def drop(self) -> None:
        """Drop what is written from now on: the client is gone."""
        self._write = _ignore


def _ignore(data: object) -> None:
    """Write nothing."""


class _Refused(Exception):
    """Refuses a request while it is parsed; its arguments are a status and the reason."""

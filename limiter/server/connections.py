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

from limiter.server.responses import CLIENT_LEFT
from limiter.web import problems

log = logging.getLogger("limiter.service")

#: Bytes of a request's head, and of the trailer fields after its body.
LARGEST_HEAD = 64 * 1024

#: Fields of a request's head: each takes time and memory, however short it is.
MOST_FIELDS = 100

#: Requests of one connection that wait for the response to an earlier one.
MOST_PIPELINED = 20

#: Seconds that a stopping worker waits for clients: one that has just sent a request may be sending the
#: next one, and would lose it.
LAST_REQUESTS = 1.0

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Takes the trailer fields, which must not be added to the fields of the head (RFC 9110, section 6.5.1).
_dropped: Any = deque(maxlen=0)


class Bounds(NamedTuple):
    """What a worker allows its clients.

    Attributes:
        read: Seconds for a request to arrive, head and body; also for the first one of a new connection.
        idle: Seconds between requests; longer than proxies keep a connection, so that these close it first.
        write: Seconds while the client does not read, and the buffers are full; also for the last response.
        linger: Seconds to read the response to a request of which a part is still on its way.
        connections: The number of open connections.
        incomplete: Bytes of the incomplete requests of all connections.

    """

    read: float
    idle: float
    write: float
    linger: float
    connections: int
    incomplete: int


class Connections:
    """The open connections of a worker, by what each waits for, the longest wait first.

    Attributes:
        receiving: A part of a request has arrived, or nothing yet.
        idle: The last response is sent.
        blocked: The client does not read, and the buffers are full.
        closing: The response is sent, and the client still sends the request that it refuses.
        incomplete: Bytes of the incomplete requests.
        stopping: Whether each response now ends its connection.

    """

    def __init__(self, bounds: Bounds) -> None:
        self.receiving: dict[Connection, float] = {}
        self.idle: dict[Connection, float] = {}
        self.blocked: dict[Connection, float] = {}
        self.closing: dict[Connection, float] = {}
        self.incomplete = 0
        self.stopping = False
        self._bounds = bounds

    def make_room(self, number: int) -> None:
        """Close the connection that has waited longest, if this number is too large."""
        if number > self._bounds.connections:
            for waiting in (self.closing, self.idle, self.receiving, self.blocked):
                for connection in waiting:
                    connection.abort()
                    return

    def add_incomplete(self, size: int) -> None:
        """Count bytes of an incomplete request; if there are too many, close the oldest such connection."""
        self.incomplete += size
        if self.incomplete > self._bounds.incomplete and self.receiving:
            next(iter(self.receiving)).abort()

    def close_late(self, now: float) -> None:
        """Close the connections past their deadline."""
        for waiting, timeout in (
            (self.receiving, self._bounds.read),
            (self.idle, self._bounds.idle),
            (self.blocked, self._bounds.write),
            (self.closing, self._bounds.linger),
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
        #: Bytes of an incomplete request.
        self._incomplete = 0
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
        self._note_end()
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
                return
            self._incomplete += len(data)
            self._all.add_incomplete(len(data))

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
        self._note_end()
        if self._ended or self._arrives or self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arrives = True
        self._all.idle.pop(self, None)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of the trailer."""
        if len(self.headers) == MOST_FIELDS:
            raise _Refused(431, f"The head has more than {MOST_FIELDS} fields.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the application; until the body has arrived, a response would end the connection."""
        if self._unread > LARGEST_HEAD:  # with what arrived at the same time
            fields = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + fields > LARGEST_HEAD:
                raise _Refused(431, f"The head has more than {LARGEST_HEAD} bytes.")
        if b"#" in self.url:
            # uvicorn would drop the rest, which a server behind the proxy may read as a part of the path.
            raise _Refused(400, "The target of the request has a fragment.")
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _Refused(400, f"More than {MOST_PIPELINED} requests wait for their responses.")
        self._unread = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refused(400, "The service is not a proxy: CONNECT is refused.")
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
        self._forget_request()
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
        self._output.drop()  # such as a 100 Continue to a request that is refused already
        self._ended = self._drops = True
        self._forget_request()
        self._all.forget(self)
        if self._socket.is_closing():
            return
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

    def _note_end(self) -> None:
        """Tell the application that the client may not read the response to the last request."""
        if self.cycle is not None:
            self.cycle.scope["state"][CLIENT_LEFT] = True

    def _forget_request(self) -> None:
        self._all.receiving.pop(self, None)
        if self._incomplete:
            self._all.incomplete -= self._incomplete
            self._incomplete = 0

    def _end(self) -> None:
        self._ended = self._drops = True
        self._forget_request()
        self._all.forget(self)
        self._output.drop()

    def _refuse(self, status: int, detail: str) -> None:
        """Refuse a request that is not passed to the application, and end the connection."""
        peer = self.client[0] if self.client else "unix"
        log.warning("a request is refused: %s", detail, extra={"peer": peer})
        in_body = self._arrives and self.headers is _dropped
        self._drops = self._arrives = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._write_problem(status, detail)
        elif in_body and not self.pipeline and not cycle.response_started:
            # The application waits for the rest of the body.
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
        self._transport = transport
        self._drops = False
        self.is_closing = transport.is_closing
        self.close = connection.close
        #: The head that waits; empty once it is sent, and None until it is known.
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write the head of a response, a part of its body, or a 100 Continue."""
        if self._head:
            self._send(self._head + data)
            self._head = b""
        elif self._head is None and data != _CONTINUE:
            self._head = data
        else:
            self._send(data)

    def end_response(self) -> None:
        """Write a head without a body."""
        if self._head:
            self._send(self._head)
        self._head = None

    def drop(self) -> None:
        """Drop what is written from now on: the client is gone."""
        self._drops = True

    def _send(self, data: bytes) -> None:
        """Send, unless the client is gone; uvloop calls ``connection_lost`` a moment after that."""
        if not (self._drops or self.is_closing()):
            self._transport.write(data)


class _Refused(Exception):
    """Refuses a request while it is parsed; its arguments are a status and the reason."""

"""A gunicorn worker with threads that do not wait for slow clients.

gunicorn's own worker gives a connection a thread before the request has arrived. Sixteen incomplete
requests then block sixteen threads, and a client that does not close a refused connection blocks the main
loop for two seconds. Here the main loop receives, and a thread starts once the request is complete. This
module only finds out where a request ends. If it is wrong, the thread reads the end of the connection, and
does not wait.

With TLS (``--certfile``) or HTTP/2 gunicorn's own code reads, in threads: use these only for known clients.
"""

from __future__ import annotations

import logging
import re
import socket
import struct
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ
from time import monotonic
from typing import Any

from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import ThreadWorker

from limiter.log_throttle import ThrottleFilter

#: Bytes of an incomplete request that the main loop keeps: a body of 64 KiB, the most that the service
#: reads, and a large head.
LARGEST = 96 * 1024

#: Seconds that a client has to close a finished connection, and that a stopping worker waits for incomplete
#: requests.
LINGER = 2.0

_CHUNK = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LENGTH, _CODING, _CHUNKED, _EXPECT = 1, 2, 3, 4
_FIELDS = re.compile(
    rb"^(?:content-length[ \t]*:[ \t]*(\d{1,18})"
    rb"|(transfer-encoding)[ \t]*:[ \t]*(chunked[ \t]*(?=\r|\Z))?"
    rb"|(expect)[ \t]*:[ \t]*100-)",
    re.IGNORECASE | re.MULTILINE,
)
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})")


class Worker(ThreadWorker):  # type: ignore[misc]
    """``worker_class = "service.worker.Worker"``."""

    #: Seconds in which a request must arrive, head and body; also a new connection's first byte.
    read_timeout = 10.0
    #: Seconds that a response waits while the client reads nothing and the socket's buffer is full.
    write_timeout = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections whose next request is incomplete, the oldest first.
        self._incoming: dict[Any, _Incoming] = {}
        #: Finished connections that the client must still close, with their deadlines.
        self._closing: dict[Any, float] = {}

    def init_process(self) -> None:
        """Start to serve, in the worker's process."""
        self.log.error_log.addFilter(_ThrottleByText())
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Receive a request in the main loop, which calls this, before a thread reads it."""
        if self.cfg.is_ssl or set(self.cfg.http_protocols) != {"h1"}:
            super().enqueue_req(conn)
            return
        if not conn.initialized:
            timeout = struct.pack("ll", self.write_timeout, 0)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            conn.init()
            conn.parser.unreader = _Unreader(conn.sock)
        conn.sock.setblocking(False)
        self._incoming[conn] = _Incoming()
        self.poller.register(conn.sock, EVENT_READ, partial(self._receive, conn))
        read_ahead = conn.parser.unreader.take_buffered()
        if read_ahead:
            self._take(conn, read_ahead)
        else:
            self._receive(conn)

    def _receive(self, conn: Any, _socket: object = None) -> None:
        """Receive what the connection has, if it has something."""
        try:
            data = conn.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data or self._incoming[conn].received:
            self._take(conn, data)
        else:
            self._close(conn)

    def _take(self, conn: Any, data: bytes) -> None:
        """Start a thread once the request is complete, or if the client has closed (empty ``data``)."""
        incoming = self._incoming[conn]
        if incoming.goes_on(data) and data:
            if incoming.answer:
                with suppress(OSError):  # the next recv finds the same error
                    conn.sock.send(incoming.answer)
            return
        del self._incoming[conn]
        self.poller.unregister(conn.sock)
        unreader = conn.parser.unreader
        unreader.unread(bytes(incoming.received))
        unreader.deadline = 0.0 if incoming.is_whole else incoming.began + self.read_timeout
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer, in a thread; close the connection afterwards if the body was incomplete."""
        if getattr(conn.parser.unreader, "deadline", 0.0):
            req.force_close()
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Wait for the client to close a finished connection: gunicorn would block the main loop."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
            return
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._discard, conn))
        except (OSError, ValueError):  # the connection is closed already
            self.nr_conns -= 1
            conn.close()
        else:
            self._closing[conn] = monotonic() + LINGER

    def _discard(self, conn: Any, _socket: object = None) -> None:
        try:
            if not conn.sock.recv(_CHUNK):
                self._close(conn)
        except BlockingIOError:
            return
        except OSError:
            self._close(conn)

    def _close(self, conn: Any) -> None:
        """Close a connection that the poller watches."""
        self._incoming.pop(conn, None)
        self._closing.pop(conn, None)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close connections past their deadline; the main loop calls this at least every second."""
        super().murder_pending()
        now = monotonic()
        timeout = self.read_timeout if self.alive else LINGER
        late = [conn for conn, each in self._incoming.items() if now >= each.began + timeout]
        late += [conn for conn, deadline in self._closing.items() if now >= deadline]
        for conn in late:
            self._close(conn)
        # If fewer connections are free than there are threads, close the oldest that wait for a client.
        for conn in [*self._closing, *self._incoming, *self.keepalived_conns]:
            if self.nr_conns <= self.worker_connections - self.cfg.threads:
                break
            if conn in self.keepalived_conns:
                self.keepalived_conns.remove(conn)
            self._close(conn)


class _Unreader(SocketUnreader):  # type: ignore[misc]
    """Returns the received bytes, then the end; of a long body, what else arrives before the deadline."""

    deadline = 0.0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return more bytes of the connection; none is its end."""
        left = self.deadline - monotonic()
        if left <= 0:
            return b""
        self.sock.settimeout(left)
        try:
            return bytes(super().chunk(size_hint))
        except TimeoutError:
            return b""
        finally:
            self.sock.settimeout(None)


class _Incoming:
    """The received part of a request.

    Attributes:
        is_whole: Whether a thread that starts now has the whole request.
        answer: The interim response for which the client waits, once.

    """

    def __init__(self) -> None:
        self.began = monotonic()
        self.received = bytearray()
        self.is_whole = True
        self.answer = b""
        self._progress = self._reading()

    def goes_on(self, data: bytes) -> bool:
        """Add received bytes; return whether more must arrive before a thread starts."""
        self.received += data
        self.answer = b""
        return next(self._progress, False)

    def _reading(self) -> Generator[bool, None, None]:
        """Find the end of the head, then of a body with a length or in chunks; yield until then."""
        searched = 0
        while (end := self.received.find(b"\r\n\r\n", searched)) < 0:
            if len(self.received) > LARGEST:
                return  # gunicorn answers with an error, and closes
            searched = max(len(self.received) - 3, 0)
            yield True
        body = end + 4
        fields = list(_FIELDS.finditer(self.received, 0, end))
        if any(field[_EXPECT] for field in fields):
            self.answer = _CONTINUE
        framing = [field for field in fields if not field[_EXPECT]]
        if len(framing) > 1 or (framing and framing[0][_CODING] and not framing[0][_CHUNKED]):
            return  # gunicorn refuses it
        if framing and framing[0][_CHUNKED]:
            yield from self._reading_chunks(body)
        else:
            length = int(framing[0][_LENGTH]) if framing else 0
            while len(self.received) < body + length:
                if body + length > LARGEST:
                    self.is_whole = False
                    return
                yield True

    def _reading_chunks(self, at: int) -> Generator[bool, None, None]:
        last = False
        while True:
            while (end := self.received.find(b"\r\n", at)) < 0:
                if len(self.received) > LARGEST:
                    self.is_whole = False
                    return
                yield True
            if last:  # after the last chunk: trailers, and an empty line
                if end == at:
                    return
                at = end + 2
                continue
            size = _SIZE.match(self.received, at, end)
            if size is None:
                return  # gunicorn refuses it
            last = int(size[1], 16) == 0
            at = end + 2 if last else end + 2 + int(size[1], 16) + 2


class _ThrottleByText(ThrottleFilter):
    """Throttles gunicorn's log: each request that it cannot parse would write a line."""

    def kind(self, record: logging.LogRecord) -> object:
        """Return the first words of a message: the rest may contain what the client sent."""
        return record.levelno, re.split("[^A-Za-z ]", str(record.msg), maxsplit=1)[0]

"""gunicorn's worker with threads, none of which ever waits for a client.

gunicorn's own worker gives a connection a thread before the request is there. Sixteen half requests, or
bodies that drip, then stop sixteen threads; one client that does not close a refused connection stops the
main loop for two seconds. Here the main loop receives, and a thread begins when it has all that it will
read. This module knows of HTTP where a request ends, and nothing else. Where it is wrong about that, the
thread reads the end of the connection, and does not wait.

With TLS (``--certfile``) or HTTP/2 gunicorn itself reads, in threads: use them where all clients are yours.
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

#: Bytes of a request that wait here for the rest of it: a body of 64 KiB, which is the most that the
#: service reads, and a large head.
LARGEST = 96 * 1024

#: Seconds in which a client may close a connection that is over, and in which a worker that is to end
#: waits for requests that have begun.
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

    #: Seconds for all of a request to come, head and body, and before it for a new connection's first byte.
    read_timeout = 10.0
    #: Seconds in which a client takes nothing of an answer that its connection has no room for.
    write_timeout = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections of which a request is to come, the oldest first.
        self._coming: dict[Any, _Coming] = {}
        #: Connections that are over but for the client's end, and until when that is waited for.
        self._leaving: dict[Any, float] = {}

    def init_process(self) -> None:
        """Begin to serve, in the worker's process."""
        self.log.error_log.addFilter(_OneOfAKind())
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Receive what a thread will read, without one; called by the main loop for each request."""
        if self.cfg.is_ssl or set(self.cfg.http_protocols) != {"h1"}:
            super().enqueue_req(conn)
            return
        if not conn.initialized:
            timeout = struct.pack("ll", self.write_timeout, 0)
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            conn.init()
            conn.parser.unreader = _Unreader(conn.sock)
        conn.sock.setblocking(False)
        self._coming[conn] = _Coming()
        self.poller.register(conn.sock, EVENT_READ, partial(self._receive, conn))
        read_ahead = conn.parser.unreader.take_buffered()
        if read_ahead:
            self._take(conn, read_ahead)
        else:
            self._receive(conn)

    def _receive(self, conn: Any, _socket: object = None) -> None:
        """The connection has something for us, or may have."""
        try:
            data = conn.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data or self._coming[conn].received:
            self._take(conn, data)
        else:
            self._close(conn)

    def _take(self, conn: Any, data: bytes) -> None:
        """Nothing is the client's end: gunicorn answers half a request, too."""
        coming = self._coming[conn]
        if coming.goes_on(data) and data:
            if coming.answer:
                with suppress(OSError):  # the next receiving will find it broken, too
                    conn.sock.send(coming.answer)
            return
        del self._coming[conn]
        self.poller.unregister(conn.sock)
        unreader = conn.parser.unreader
        unreader.unread(bytes(coming.received))
        unreader.deadline = 0.0 if coming.is_whole else coming.began + self.read_timeout
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """In a thread: answer; where a rest of the body is still to come, nothing comes after it."""
        if getattr(conn.parser.unreader, "deadline", 0.0):
            req.force_close()
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Wait here for the end of a connection that is over: gunicorn would stop the main loop for it."""
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
            return
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._discard, conn))
        except (OSError, ValueError):  # it is closed already
            self.nr_conns -= 1
            conn.close()
        else:
            self._leaving[conn] = monotonic() + LINGER

    def _discard(self, conn: Any, _socket: object = None) -> None:
        try:
            if not conn.sock.recv(_CHUNK):
                self._close(conn)
        except BlockingIOError:
            return
        except OSError:
            self._close(conn)

    def _close(self, conn: Any) -> None:
        """Close a connection that the poller has."""
        self._coming.pop(conn, None)
        self._leaving.pop(conn, None)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close what has taken too long; the main loop calls it every second, or more often."""
        super().murder_pending()
        now = monotonic()
        patience = self.read_timeout if self.alive else LINGER
        late = [conn for conn, coming in self._coming.items() if now >= coming.began + patience]
        late += [conn for conn, until in self._leaving.items() if now >= until]
        for conn in late:
            self._close(conn)
        # Where there is no room for as many as there are threads, the oldest go that are not answered now.
        for conn in [*self._leaving, *self._coming, *self.keepalived_conns]:
            if self.nr_conns <= self.worker_connections - self.cfg.threads:
                break
            if conn in self.keepalived_conns:
                self.keepalived_conns.remove(conn)
            self._close(conn)


class _Unreader(SocketUnreader):  # type: ignore[misc]
    """What was received, and behind it the end: or, until the deadline, what of a long body is to come."""

    deadline = 0.0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """More of the connection; nothing is its end."""
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


class _Coming:
    """What has come of a request.

    Attributes:
        is_whole: Whether a thread that begins now has all of it.
        answer: What the client waits for before it goes on, once.

    """

    def __init__(self) -> None:
        self.began = monotonic()
        self.received = bytearray()
        self.is_whole = True
        self.answer = b""
        self._progress = self._reading()

    def goes_on(self, data: bytes) -> bool:
        """Take this, and say whether there is more to come before a thread begins."""
        self.received += data
        self.answer = b""
        return next(self._progress, False)

    def _reading(self) -> Generator[bool, None, None]:
        """A head, then a body of a length or in chunks: true while it has not ended."""
        looked_at = 0
        while (end := self.received.find(b"\r\n\r\n", looked_at)) < 0:
            if len(self.received) > LARGEST:
                return  # gunicorn answers what it makes of that, and closes
            looked_at = max(len(self.received) - 3, 0)
            yield True
        body = end + 4
        found = list(_FIELDS.finditer(self.received, 0, end))
        if any(field[_EXPECT] for field in found):
            self.answer = _CONTINUE
        framing = [field for field in found if not field[_EXPECT]]
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
            if last:  # behind the last chunk: trailers, and an empty line
                if end == at:
                    return
                at = end + 2
                continue
            size = _SIZE.match(self.received, at, end)
            if size is None:
                return  # gunicorn refuses it
            last = int(size[1], 16) == 0
            at = end + 2 if last else end + 2 + int(size[1], 16) + 2


class _OneOfAKind(ThrottleFilter):
    """Throttles gunicorn's lines, of which each request that cannot be read would write one."""

    def kind(self, record: logging.LogRecord) -> object:
        """The words with which it begins: what the client sent may be further on in the message itself."""
        return record.levelno, re.split("[^A-Za-z ]", str(record.msg), maxsplit=1)[0]

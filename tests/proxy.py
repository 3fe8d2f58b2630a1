"""A TCP proxy that can delay, lose or change data, and end connections.

Two hooks see every piece of data on its way, and return what goes on; ``proxy.requests`` those of
the client, ``proxy.replies`` those of the server. A hook that raises ``Cut`` ends the connection.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

HOST = "127.0.0.1"

Hook = Callable[[bytes], bytes]

#: Linger for 0 seconds: closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


class Cut(Exception):
    """End the connection, both sides, after these last bytes went on."""

    def __init__(self, last: bytes = b"") -> None:
        super().__init__(last)
        self.last = last


def forward(data: bytes) -> bytes:
    """Let the data pass."""
    return data


def swallow(data: bytes) -> bytes:
    """Let nothing pass, and keep the connection open."""
    return b""


def cut(data: bytes) -> bytes:
    """End the connection; what was on its way is lost."""
    raise Cut


def cut_after(count: int) -> Hook:
    """Let the first ``count`` bytes of the next piece pass, then end the connection."""

    def hook(data: bytes) -> bytes:
        raise Cut(data[:count])

    return hook


def delay(seconds: float) -> Hook:
    """Let everything pass later."""

    def hook(data: bytes) -> bytes:
        time.sleep(seconds)  # the delay is the fault
        return data

    return hook


def replace(answer: bytes) -> Hook:
    """Let other bytes pass in place of the data."""
    return lambda _: answer


class Proxy:
    """Listens on its own port and forwards to ``target``, which a test may change."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.requests: Hook = forward
        self.replies: Hook = forward
        self.piece = 0
        """Number of bytes sent at a time; 0: all at once."""
        self.connections = 0
        """Number of accepted connections."""
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self._open: set[socket.socket] = set()
        self._stranded: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The address as ``Limiter(store=...)`` takes it."""
        return f"redis://{HOST}:{self.port}/0"

    def mend(self) -> None:
        """Forward again."""
        self.requests = self.replies = forward

    def cut_all(self, *, reset: bool = False) -> None:
        """End every connection that is open now; with ``reset`` by a TCP reset, not by an orderly end."""
        with self._lock:
            ended, self._open = self._open, set()
        for end in ended if reset else ():
            with contextlib.suppress(OSError):  # closed meanwhile
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for end in ended:
            _close(end)

    def strand_all(self) -> None:
        """Let no more data pass on any connection that is open now, and keep it open, as half-open ones."""
        with self._lock:
            self._stranded |= self._open

    def close(self) -> None:
        """Stop listening, and end every connection."""
        _close(self._listener)
        self.cut_all()
        for thread in self._threads:
            thread.join(5)
        self.cut_all()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return  # closed
            self.connections += 1
            try:
                server = socket.create_connection(self.target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            for source, target, hook in (
                (client, server, lambda data: self.requests(data)),
                (server, client, lambda data: self.replies(data)),
            ):
                thread = threading.Thread(
                    target=self._carry, args=(source, target, hook), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket, hook: Hook) -> None:
        try:
            while data := source.recv(65_536):
                if source not in self._stranded:
                    self._send(target, hook(data))
        except Cut as cut:
            with contextlib.suppress(OSError):
                target.sendall(cut.last)
        except OSError:
            pass  # the other direction ended the connection
        for end in (source, target):
            with self._lock:
                self._open.discard(end)
                self._stranded.discard(end)
            _close(end)

    def _send(self, target: socket.socket, data: bytes) -> None:
        step = self.piece or max(len(data), 1)
        for start in range(0, len(data), step):
            target.sendall(data[start : start + step])


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Either wakes the thread that waits for data. An end of writing would be sent before the reset.
        is_reset = end.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET
        end.shutdown(socket.SHUT_RD if is_reset else socket.SHUT_RDWR)
    end.close()

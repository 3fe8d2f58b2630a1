"""What the client finds in the place of the modules ``socket`` and ``select``."""

from __future__ import annotations

import errno
import select
import socket
from math import ceil
from typing import Any

from tests.simulation.network import Address, Link, Network
from tests.simulation.threads import Scheduler


class SimulatedSocket:
    """The socket of a connection of an event loop: it has only a descriptor."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def fileno(self) -> int:
        """The number by which a poller knows it."""
        return -1 if self._link.is_closed else self._link.number

    def setsockopt(self, *_: Any) -> None:
        """Do nothing."""


class BlockingSocket:
    """The socket of a thread."""

    def __init__(self, network: Network, scheduler: Scheduler) -> None:
        self._network = network
        self._scheduler = scheduler
        self._link: Link | None = None
        self._timeout: float | None = None
        self._is_closed = False

    def setsockopt(self, *_: Any) -> None:
        """Do nothing."""

    def settimeout(self, seconds: float | None) -> None:
        """As ``socket.settimeout``."""
        self._timeout = seconds

    def fileno(self) -> int:
        """The number by which a poller knows it."""
        return -1 if self._link is None or self._is_closed else self._link.number

    def connect(self, address: Address) -> None:
        """As ``socket.connect``."""
        result: list[Link | OSError] = []

        def done(outcome: Link | OSError) -> None:
            if isinstance(outcome, Link):
                if self._is_closed:
                    outcome.close()
                self._link = outcome
            result.append(outcome)

        self._network.connect(address, done)
        if not self._scheduler.wait(lambda: bool(result), self._timeout):
            raise TimeoutError("timed out")
        if isinstance(result[0], OSError):
            raise result[0]

    def send(self, data: bytes, flags: int = 0) -> int:
        """As ``socket.send``."""
        link = self._open()
        self._scheduler.give_way()
        weather, world = self._network.weather, self._network.world
        if not link.is_full and world.chance(weather.full):
            world.note("the buffer of %s is full", link)
            link.is_full = True
            world.after(
                world.random.random() * weather.longest, lambda: setattr(link, "is_full", False)
            )
        if link.is_full and link.end is None:
            if flags & socket.MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            if not self._scheduler.wait(lambda: not link.is_full, self._timeout):
                raise TimeoutError("timed out")
        count = len(data)
        if len(data) > 1 and world.chance(weather.split):
            count = world.random.randrange(1, len(data))
        link.send(bytes(data[:count]))
        self._scheduler.give_way()
        return count

    def sendall(self, data: bytes) -> None:
        """As ``socket.sendall``."""
        data = bytes(data)
        while data:
            data = data[self.send(data) :]

    def recv_into(self, buffer: bytearray, count: int = 0, flags: int = 0) -> int:
        """As ``socket.recv_into``."""
        link = self._open()
        self._scheduler.give_way()
        if not link.is_readable:
            if flags & socket.MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            if not self._scheduler.wait(lambda: link.is_readable, self._timeout):
                raise TimeoutError("timed out")
        data = link.read(count or len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def recv(self, count: int, flags: int = 0) -> bytes:
        """As ``socket.recv``, to look without taking."""
        link = self._open()
        if link.end == "reset":
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return bytes(link.inbox[:count])

    def shutdown(self, how: int) -> None:
        """Do nothing: ``close`` follows."""

    def close(self) -> None:
        """As ``socket.close``."""
        self._is_closed = True
        if self._link is not None:
            self._link.close()

    def _open(self) -> Link:
        if self._link is None or self._is_closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return self._link


class SimulatedSocketModule:
    """The module ``socket``, with simulated sockets and names."""

    def __init__(self, network: Network, scheduler: Scheduler) -> None:
        self._network = network
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *_: Any) -> BlockingSocket:
        """As ``socket.socket``."""
        return BlockingSocket(self._network, self._scheduler)

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        """As ``socket.getaddrinfo``, for an address."""
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]


class SimulatedSelect:
    """What is used of the module ``select``."""

    POLLIN, POLLOUT, POLLHUP = select.POLLIN, select.POLLOUT, select.POLLHUP
    POLLERR, POLLNVAL = select.POLLERR, select.POLLNVAL

    def __init__(self, network: Network, scheduler: Scheduler | None) -> None:
        self._network = network
        self._scheduler = scheduler

    def poll(self) -> SimulatedPoller:
        """As ``select.poll``."""
        return SimulatedPoller(self._network, self._scheduler)


class SimulatedPoller:
    """As the object of ``select.poll``, for one descriptor."""

    def __init__(self, network: Network, scheduler: Scheduler | None) -> None:
        self._network = network
        self._scheduler = scheduler
        self._number = -1
        self._mask = 0

    def register(self, file: Any, mask: int) -> None:
        """As ``register`` of a poller."""
        self._number = file if isinstance(file, int) else file.fileno()
        if self._number < 0:
            raise ValueError("file descriptor cannot be a negative integer (-1)")
        self._mask = mask

    def poll(self, milliseconds: float | None = None) -> list[tuple[int, int]]:
        """As ``poll`` of a poller: it rounds up to milliseconds."""
        if milliseconds != 0 and self._scheduler is not None and not self._events():
            seconds = (
                None if milliseconds is None or milliseconds < 0 else ceil(milliseconds) / 1000
            )
            self._scheduler.wait(lambda: bool(self._events()), seconds)
        events = self._events()
        return [(self._number, events)] if events else []

    def _events(self) -> int:
        link = self._network.links.get(self._number)
        if link is None:
            return select.POLLNVAL
        events = 0
        if link.is_readable:
            events |= self._mask & select.POLLIN
        if not link.is_full or link.end is not None:
            events |= self._mask & select.POLLOUT
        if link.end == "reset":
            events |= select.POLLHUP | select.POLLERR
        return events

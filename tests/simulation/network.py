"""TCP connections to simulated servers: delays, splits, resets, silence, and full buffers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis

from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.servers import Server

Address = tuple[str, int]


class Weather(NamedTuple):
    """How likely what happens to each piece of data, and to each attempt to connect."""

    delay: float = 0.0002
    """Seconds that most pieces take, at least."""
    spike: float = 0.0
    """A piece takes up to ``longest`` seconds more."""
    longest: float = 0.1
    split: float = 0.0
    """A reply comes in pieces, cut at any byte."""
    reset: float = 0.0
    """The connection is reset, before or after the piece arrives."""
    finish: float = 0.0
    """The server closes the connection after the piece, in an orderly way."""
    silence: float = 0.0
    """The connection loses all further data, in one direction or in both."""
    refusal: float = 0.0
    """An attempt to connect is refused."""
    no_answer: float = 0.0
    """An attempt to connect has no answer."""
    full: float = 0.0
    """The client's buffer is full for a while before a command is sent."""


class Link:
    """One connection, with the client's end and the server's."""

    def __init__(self, network: Network, server: Server) -> None:
        self.network = network
        self.world = network.world
        self.server = server
        self.number = self.world.number()
        self.inbox = bytearray()
        """What the client's system has received, and the client has not read."""
        self.end: str | None = None
        """How the server ended it, as far as the client's system knows: ``eof`` or ``reset``."""
        self.is_closed = False
        """Whether the client closed it."""
        self.is_full = False
        """Whether the client's send buffer is full."""
        self._is_gone = False
        """Whether the server has closed it."""
        self._lost = [False, False]
        self._last = [0.0, 0.0]
        # What the server knows of its client.
        self.reader: Any = hiredis.Reader()
        self.protocol = 2
        self.is_asking = False

    def __str__(self) -> str:
        return f"#{self.number} to {self.server.name}"

    @property
    def is_readable(self) -> bool:
        """Whether a read would not block."""
        return bool(self.inbox) or self.end is not None

    def send(self, data: bytes) -> None:
        """Send the client's data.

        Raises:
            OSError: The connection was closed or reset.

        """
        self._check_open()
        self._carry(0, data, partial(self._at_server, data))

    def read(self, most: int) -> bytes:
        """Read what has come; empty after an orderly end.

        Raises:
            OSError: The connection was closed or reset.

        """
        self._check_open()
        data = bytes(self.inbox[:most])
        del self.inbox[:most]
        return data

    def _check_open(self) -> None:
        if self.is_closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if self.end == "reset":
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    def close(self) -> None:
        """Close the client's end."""
        if not self.is_closed:
            self.is_closed = True
            self.world.note("the client closes %s", self)
            self.network.links.pop(self.number, None)
            if not self._lost[0]:
                self.world.after(self.network.weather.delay, self._leave)

    def reply(self, data: bytes) -> None:
        """Send the server's data."""
        if self._is_gone:
            return
        weather, choose = self.network.weather, self.world.random
        cuts = [0, len(data)]
        if len(data) > 1 and self.world.chance(weather.split):
            count = choose.randint(1, min(3, len(data) - 1))
            cuts = [0, *sorted(choose.sample(range(1, len(data)), count)), len(data)]
        for begin, end in pairwise(cuts):
            piece = data[begin:end]
            self._carry(1, piece, partial(self._at_client, piece))

    def finish(self, end: str = "eof") -> None:
        """End it from the server's side: in an orderly way, or with a reset."""
        if not self._is_gone:
            self._leave()
            if not self._lost[1]:
                self._carry(1, b"", partial(self._end_at_client, end))

    def reset(self, when: float) -> None:
        """Reset it at that time, for both ends; nothing that is sent from now on arrives."""
        self.world.note("%s is reset", self)
        self._lost = [True, True]

        def end() -> None:
            self._leave()
            self._end_at_client("reset")

        self.world.at(when, end)

    def silence(self, to_server: bool = True, to_client: bool = True) -> None:
        """Lose all further data in these directions."""
        self.world.note(
            "%s loses data (to the server %s, to the client %s)", self, to_server, to_client
        )
        self._lost = [self._lost[0] or to_server, self._lost[1] or to_client]

    def forget(self) -> None:
        """End it on the server's side alone, as a loss of power does."""
        self._leave()

    def _carry(self, way: int, data: bytes, arrive: Callable[[], None]) -> None:
        """Bring data to the other end, after all data before it."""
        weather, world = self.network.weather, self.world
        delay = weather.delay * (1 + world.random.random())
        if way:
            delay += self.server.lag
        if world.chance(weather.spike):
            delay += world.random.random() * weather.longest
        self._last[way] = when = max(self._last[way], world.now + delay)
        if data and world.chance(weather.silence):
            which = world.random.random()
            self.silence(which < 0.6, which > 0.3)
        if data and world.chance(weather.reset):
            if world.chance(0.5) and not self._lost[way]:
                world.at(when, arrive)
            self.reset(when)
            return
        if not self._lost[way]:
            world.at(when, arrive)
        if data and way and world.chance(weather.finish):
            world.at(when, self.finish)

    def _at_server(self, data: bytes) -> None:
        if not self._is_gone:
            self.server.receive(self, data)
        elif not self.server.is_cut_off:
            self._carry(1, b"", partial(self._end_at_client, "reset"))

    def _at_client(self, data: bytes) -> None:
        if not self.is_closed and self.end is None:
            self.inbox += data

    def _end_at_client(self, end: str) -> None:
        if not self.is_closed and self.end is None:
            self.world.note("%s ends (%s)", self, end)
            self.end = end
            if end == "reset":
                self.inbox.clear()

    def _leave(self) -> None:
        self._is_gone = True
        self.server.links.pop(self.number, None)


class Network:
    """All servers by their addresses, and the open connections of the client."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weather = Weather()
        self.servers: dict[Address, Server] = {}
        self.links: dict[int, Link] = {}
        """Those that the client has not closed, by their numbers, which are also their descriptors."""

    def connect(self, address: Address, done: Callable[[Link | OSError], None]) -> None:
        """Begin to connect; ``done`` gets a connection or an error, or is never called."""
        weather, world = self.weather, self.world
        server = self.servers.get(address)
        delay = weather.delay * (2 + world.random.random())
        if world.chance(weather.spike):
            delay += world.random.random() * weather.longest
        if server is None or server.is_down or world.chance(weather.refusal):
            refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            world.note("a connection to %s:%d is refused", *address)
            world.after(delay, partial(done, refused))
        elif server.is_cut_off or world.chance(weather.no_answer):
            world.note("a connection to %s has no answer", server.name)
        else:
            world.after(delay, partial(self._accept, address, done))

    def _accept(self, address: Address, done: Callable[[Link | OSError], None]) -> None:
        server = self.servers[address]
        if server.is_down:
            done(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
            return
        link = Link(self, server)
        self.links[link.number] = link
        server.links[link.number] = link
        self.world.note("the client connects %s", link)
        server.greet(link)
        done(link)

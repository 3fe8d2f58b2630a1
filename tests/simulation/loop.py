"""An event loop on the virtual clock, whose connections lead to simulated servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from tests.simulation.network import Link, Network
from tests.simulation.sockets import SimulatedSocket
from tests.simulation.world import Stuck

#: Bytes that a transport holds back before it tells its protocol to pause.
_MOST_HELD = 200


class SimulatedLoop(asyncio.BaseEventLoop):
    """As asyncio's own loop; in the place of its selector, it lets the world go on."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self._world = network.world
        self._selector = self
        self.transports: dict[int, SimulatedTransport] = {}
        """Those that read, by the numbers of their connections."""

    def time(self) -> float:
        """The virtual time."""
        return self._world.now

    def select(self, timeout: float | None) -> tuple[()]:
        """Let the world go on until something happens here, or up to ``timeout`` seconds.

        Raises:
            Stuck: Nothing will ever happen.

        """
        world = self._world
        limit = None if timeout is None else world.now + timeout
        if limit is not None:
            world.run_until(world.now)
        while not (self._ready or any(each.is_readable for each in self.transports.values())):
            when = world.next_at
            if when is None or (limit is not None and when > limit):
                if limit is None:
                    raise Stuck("nothing will wake the loop, and its main task has not ended")
                world.now = max(world.now, limit)
                break
            world.step()
        return ()

    def _process_events(self, events: object) -> None:
        """Read what has come, in any order."""
        readable = [each for each in self.transports.values() if each.is_readable]
        self._world.random.shuffle(readable)
        for transport in readable:
            self.call_soon(transport.read)

    def _write_to_self(self) -> None:
        """Do nothing: no other thread runs."""

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Connect to a simulated server."""
        connected: asyncio.Future[None] = self.create_future()
        result: list[Link | OSError] = []

        def done(outcome: Link | OSError) -> None:
            result.append(outcome)
            if not connected.done():
                connected.set_result(None)
            elif isinstance(outcome, Link):
                outcome.close()

        self._network.connect((host, port), done)
        try:
            await connected
        except BaseException:
            if result and isinstance(result[0], Link):
                result[0].close()
            raise
        (link,) = result
        if isinstance(link, OSError):
            raise link
        protocol = protocol_factory()
        ready: asyncio.Future[None] = self.create_future()
        transport = SimulatedTransport(self, link, protocol, ready)
        try:
            await ready
        except BaseException:
            transport.close()
            raise
        return transport, protocol


class SimulatedTransport(asyncio.Transport):
    """As that of a socket in asyncio's own loop."""

    def __init__(
        self, loop: SimulatedLoop, link: Link, protocol: Any, ready: asyncio.Future[None]
    ) -> None:
        super().__init__({"socket": SimulatedSocket(link), "peername": link.server.address})
        self._loop = loop
        self._link = link
        self._protocol = protocol
        self._held: list[bytes] = []
        self._is_closing = self._is_lost = self._has_ended = False
        self._is_paused = self._pauses_protocol = False
        self.number = link.number
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._begin)
        loop.call_soon(_release, ready)

    # --- what protocols call ---

    def set_protocol(self, protocol: Any) -> None:
        """As ``BaseTransport.set_protocol``."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """As ``BaseTransport.get_protocol``."""
        return self._protocol

    def is_closing(self) -> bool:
        """As ``BaseTransport.is_closing``."""
        return self._is_closing

    def pause_reading(self) -> None:
        """As ``ReadTransport.pause_reading``."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """As ``ReadTransport.resume_reading``."""
        self._is_paused = False

    def is_reading(self) -> bool:
        """As ``ReadTransport.is_reading``."""
        return not self._is_paused and not self._is_closing

    def get_write_buffer_size(self) -> int:
        """As ``WriteTransport.get_write_buffer_size``."""
        return sum(map(len, self._held))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """As ``WriteTransport.writelines``."""
        self.write(b"".join(list_of_data))

    def write(self, data: Any) -> None:
        """As ``WriteTransport.write``."""
        if self._is_lost or not data:
            return
        link = self._link
        weather = link.network.weather
        if not link.is_full and link.world.chance(weather.full):
            link.world.note("the buffer of %s is full", link)
            link.is_full = True
            link.world.after(link.world.random.random() * weather.longest, self._has_room)
        self._held.append(bytes(data))
        self._write_held()
        if not self._pauses_protocol and self.get_write_buffer_size() > _MOST_HELD:
            self._pauses_protocol = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """As ``BaseTransport.close``."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.transports.pop(self.number, None)
            if not self._held:
                self._lose(None)

    def abort(self) -> None:
        """As ``WriteTransport.abort``."""
        self._break(None)

    # --- what happens to it ---

    @property
    def is_readable(self) -> bool:
        """Whether there is something to read, and the protocol wants it."""
        return not self._is_paused and not self._has_ended and self._link.is_readable

    def read(self) -> None:
        """Give the protocol what has come."""
        if self._is_closing or not self.is_readable:
            return
        try:
            data = self._link.read(65_536)
        except OSError as error:
            self._break(error)
            return
        try:
            if data:
                self._protocol.data_received(data)
                return
            self._has_ended = True
            keeps_open = self._protocol.eof_received()
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "Fatal error: a protocol raised an exception", "exception": error}
            )
            self._break(error)
            return
        if not keeps_open:
            self.close()

    def _begin(self) -> None:
        if not self._is_closing:
            self._loop.transports[self.number] = self

    def _has_room(self) -> None:
        self._link.is_full = False
        self._loop.call_soon(self._write_held)

    def _write_held(self) -> None:
        if self._is_lost or self._link.is_full or not self._held:
            return
        held, self._held = self._held, []
        try:
            self._link.send(b"".join(held))
        except OSError as error:
            self._break(error)
            return
        if self._pauses_protocol:
            self._pauses_protocol = False
            self._protocol.resume_writing()
        if self._is_closing:
            self._lose(None)

    def _break(self, error: OSError | Exception | None) -> None:
        if not self._is_lost:
            self._held.clear()
            self._is_closing = True
            self._loop.transports.pop(self.number, None)
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._link.close()


def _release(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)

"""Common helpers of the transport's tests."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import inspect
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import Any, TypeVar

import pytest
import redis

from limiter import (
    Decision,
    FixedWindow,
    Limiter,
    LimiterError,
    SlidingLog,
    StoreUnavailable,
    TokenBucket,
)
from limiter.aio import AsyncLimiter
from limiter.keys import KeySpeller
from limiter.plan import Plan
from limiter.policies import Policy
from limiter.transport import connect_async
from limiter.transport.wire import scripts_of
from service.demo.servers import HOST
from tests.waiting import PATIENCE, STALL, TIMEOUT, soon, until

#: So large that nothing is denied by chance, so slow that nothing is refilled.
PLENTY = FixedWindow(1_000_000, "day")
LOG = SlidingLog(100_000, "day")
BUCKET = TokenBucket(100_000, "year")  # a token is refilled every five minutes
ONE_OF_EACH: list[Policy] = [PLENTY, LOG, BUCKET]

Answer = TypeVar("Answer")


def used(limiter: Limiter, key: str) -> int:
    """The units charged to a subject of a limiter with one rate."""
    return limiter.policies[0].capacity - limiter.peek(key).remaining


def scripts_run(client: redis.Redis) -> int:
    """The number of calls of scripts that the server has run."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call took."""
    before = time.monotonic()
    call()
    return time.monotonic() - before


def within_deadline(call: Callable[[], Any], timeout: float) -> None:
    """The store does not decide, and the call fails, or returns a fallback's decision, in time.

    The promise is 1.25 x timeout + 10 ms. On a machine that is kept busy a thread may wait for its
    turn longer than that, so the best of 30 has to keep it, and none may hang. (A quiet one tries once.)
    """
    took = []

    def fails() -> None:
        try:
            decision = call()
        except StoreUnavailable:
            return
        assert decision is None or decision.degraded

    for _ in range(30):
        took.append(timed(fails))
        if took[-1] <= 1.25 * timeout + 0.010:
            break
    assert min(took) <= 1.25 * timeout + 0.010, took
    assert max(took) <= timeout + 5.0, took


def decides_within(limiter: Limiter, key: str, seconds: float) -> None:
    """Wait until the store decides again; fail after ``seconds``, and a stall of the machine."""

    def decides() -> bool:
        try:
            return not limiter.hit(key).degraded
        except StoreUnavailable:
            return False

    until(decides, seconds + STALL)


def outcome(call: Callable[[], Any]) -> str:
    """The result of a call: allow, deny, or the name of its error."""
    try:
        return "allow" if call() else "deny"
    except LimiterError as error:
        return type(error).__name__


def ask_last(healthy: int, patch: pytest.MonkeyPatch) -> None:
    """Make the node at that port the last one that is asked, of nodes in any order."""

    def shuffle(known: list[tuple[str, int]]) -> None:
        known.sort(key=lambda address: address[1] == healthy)

    patch.setattr("limiter.transport.slots.random.shuffle", shuffle)


class Asker:
    """Calls a transport as ``AsyncLimiter`` does: plan, run, decode."""

    def __init__(self, store: Any, policies: Any = PLENTY, **settings: float) -> None:
        self.policies = (policies,) if isinstance(policies, Policy) else tuple(policies)
        self.plan = Plan(self.policies, KeySpeller("rl", "default", None))
        timeout = settings.pop("timeout", TIMEOUT)
        self.transport = connect_async(store, timeout, settings.pop("connect_timeout", 2.0))
        assert not settings

    async def ask(
        self,
        mode: str,
        key: str,
        cost: int = 1,
        *,
        tag: str | None = None,
        deadline: float | None = None,
    ) -> Decision:
        """One call."""
        call = self.plan.call(mode, key, cost, None, tag)
        return Decision(self.policies, await self.transport.run(call, deadline))

    async def hit(self, key: str, cost: int = 1, **more: Any) -> Decision:
        """As ``AsyncLimiter.hit``."""
        return await self.ask("hit", key, cost, **more)

    async def used(self, key: str) -> int:
        """The units charged to a subject of a limiter with one rate."""
        return self.policies[0].capacity - (await self.ask("peek", key)).remaining

    async def open(self) -> Asker:
        """As ``AsyncLimiter.open``."""
        await self.transport.load(scripts_of(self.policies))
        return self

    async def ready(self, key: str, cost: int = 1) -> Decision:
        """Hit with a long deadline, so that a connection is ready afterwards."""
        return await self.hit(key, cost, deadline=time.monotonic() + 20)

    async def __aenter__(self) -> Asker:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.transport.close()

    @property
    def connection(self) -> Any:
        """The connection to the only node, in the running loop."""
        loop_transport: Any = self.transport._last
        return loop_transport.node.connection


class Dripping:
    """A server that shakes hands, and then answers each call slowly, byte by byte.

    Without a ``reply`` the answer has no end, and no further call is read.
    """

    def __init__(self, every: float, reply: bytes | None = None) -> None:
        self._every = every
        self._reply = reply
        self._listener = socket.create_server((HOST, 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.url = f"redis://{HOST}:{self._listener.getsockname()[1]}?protocol=2"
        self.connections = 0
        self.ended = threading.Event()
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Close the connection."""
        self.ended.set()
        for end in (self._listener, *self._clients):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for data
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            self._clients.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while data := client.recv(4096):
                if b"EVALSHA" not in data:
                    client.sendall(b"+OK\r\n" * data.count(b"SETINFO"))
                    continue
                for byte in (
                    chain(b"$1000000\r\n", repeat(120)) if self._reply is None else self._reply
                ):
                    if self.ended.wait(self._every):
                        return
                    client.sendall(bytes([byte]))


@contextmanager
def dripping(every: float, reply: bytes | None = None) -> Iterator[Dripping]:
    """Such a server."""
    server = Dripping(every, reply)
    try:
        yield server
    finally:
        server.close()


def loops() -> list[str]:
    """The kinds of event loops that are installed."""
    return ["asyncio"] + ["uvloop"] * (importlib.util.find_spec("uvloop") is not None)


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """An event loop of that kind, in debug mode, which ``end_loop`` ends."""
    gc.freeze()  # older objects are not this loop's, and a look at all of them takes 0.3 s
    loop: asyncio.AbstractEventLoop = importlib.import_module(kind).new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = (
        PATIENCE  # a stall of the machine is no line for a log that a test reads
    )
    return loop


def in_loop(main: Coroutine[Any, Any, Answer], kind: str = "asyncio") -> Answer:
    """As ``asyncio.run``, in debug mode; fails if asyncio or the garbage collector reports anything."""
    loop = new_loop(kind)
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        return loop.run_until_complete(main)
    finally:
        end_loop(loop)
        gc.unfreeze()
        assert not complaints, complaints


def end_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close the loop as ``asyncio.run`` does; leftovers then log their errors."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(_end(left))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    gc.collect()


class LoopLimiter:
    """An ``AsyncLimiter`` that is called as a ``Limiter`` is: each call runs its event loop."""

    def __init__(self, kind: str, limits: Any, store: Any, **settings: Any) -> None:
        self._loop = new_loop(kind)
        self._complaints: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self._complaints.append(context))
        self._limiter = AsyncLimiter(limits, store=store, **settings)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._limiter, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *given, **named: self._loop.run_until_complete(found(*given, **named))

    def open(self) -> LoopLimiter:
        """As ``Limiter.open``."""
        self._loop.run_until_complete(self._limiter.open())
        return self

    def __enter__(self) -> LoopLimiter:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._limiter.close())

    def end(self) -> None:
        """Close the limiter and its event loop; nothing of them may be left."""
        self.close()
        end_loop(self._loop)
        assert not self._complaints


def slot_table(limiter: Any) -> Any:
    """The slot table of a limiter of either kind."""
    transport = limiter._core.transport
    return getattr(transport, "_last", transport)._table


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    if tasks:
        await asyncio.wait(tasks)


async def spent(call: Awaitable[Any]) -> tuple[float, Any]:
    """Seconds that a call took, and its answer or error."""
    before = time.monotonic()
    try:
        answer = await call
    except LimiterError as error:
        answer = error
    return time.monotonic() - before, answer


async def decides_soon(asker: Asker, key: str, seconds: float = 10.0) -> None:
    """The store decides again within ``seconds``."""

    async def decides() -> bool:
        return isinstance((await spent(asker.hit(key)))[1], Decision)

    await soon(decides, seconds)

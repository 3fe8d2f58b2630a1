"""Send a call from an event loop and handle its reply, as ``base`` does for threads."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from redis.exceptions import RedisError, ResponseError

from limiter.call import Call, Reply
from limiter.errors import LimiterError, StoreRefused, StoreUnavailable, anew
from limiter.scripts import Script
from limiter.transport import forks, rights
from limiter.transport.async_connection import AsyncConnection
from limiter.transport.async_node import AsyncNode, ConnectionCloser, NodeMaker
from limiter.transport.joined import JoinedCalls, PendingReply, SendAlone
from limiter.transport.redirects import Action, Redirects
from limiter.transport.replies import cause, translate
from limiter.transport.slots import one_slot
from limiter.transport.store import Store
from limiter.transport.wire import ASKING, checked, command, encode


class LoopTransport:
    """Carries the calls of one event loop.

    ``find`` depends on the kind of store: ``async_single`` knows one node, ``async_cluster`` one for each
    slot, and ``async_sentinel`` the one that is the primary now.
    """

    node: AsyncNode | None = None
    """The node of every subject, if the store is one server."""

    def __init__(self, loop: AbstractEventLoop, maker: NodeMaker) -> None:
        self.loop = loop
        self.closer = maker.closer
        self._store = maker.store
        self._timeout = maker.timeout
        self._connect_timeout = maker.connect_timeout
        #: The background tasks: an event loop itself keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        #: How many calls and readings are under way that may still connect.
        self._users = 0
        self._is_closed = False

    def find(self, call: Call, deadline: float) -> AsyncNode | None:
        """The node that owns the call's subject, if that is known."""
        return self.node

    async def search(self, call: Call, deadline: float) -> AsyncNode:
        """Find the node that owns the call's subject; if it is not known, ask the store."""
        raise NotImplementedError

    async def load(self, scripts: Sequence[Script], key: bytes | None, deadline: float) -> None:
        """Load the scripts into the store, and with ``key`` check the user's rights."""
        raise NotImplementedError

    def nodes(self) -> Iterable[AsyncNode]:
        """Every known node."""
        raise NotImplementedError

    def failed(self, call: Call) -> None:
        """Note that a call got no decision."""

    async def close(self) -> None:
        """Close the connections; one with calls under way is closed when they have ended.

        A call under way that needs another connection still makes one, which is closed after the last such
        call.
        """
        self._is_closed = True
        connecting = [node.connecting for node in self.nodes() if node.connecting is not None]
        self._close_nodes()
        if connecting:
            await asyncio.wait(connecting)
        await self.closer.close(self._timeout + self._connect_timeout)

    def _close_nodes(self) -> None:
        for node in self.nodes():
            node.close()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the body connect, also after ``close``."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._is_closed and not self._users:
                self._close_nodes()

    def send(
        self,
        call: Call,
        encoded: bytes,
        node: AsyncNode,
        connection: AsyncConnection,
        deadline: float,
    ) -> PendingReply:
        """Send a call on the node's connection; if it may be joined, join it to equal ones of this turn."""
        unsent = connection.unsent
        if not unsent or deadline < connection.wakes_at:
            connection.expect(deadline)
        pending = connection.new_pending()
        if call.template.joinable:
            last = len(unsent)
            place = connection.places.setdefault(encoded, last)
            if place < last:
                _, joined, first_deadline = unsent[place]
                if not isinstance(joined, JoinedCalls):
                    first = joined, first_deadline
                    recover = partial(self._recover, node, connection)
                    joined = JoinedCalls(call, first, node.where, connection.send_first, recover)
                    connection.put_joined(place, joined)
                joined.callers.append((pending, deadline))
                return pending
        unsent.append((encoded, pending, deadline))
        return pending

    def _recover(
        self,
        node: AsyncNode,
        connection: AsyncConnection,
        joined: JoinedCalls,
        error: ResponseError,
    ) -> None:
        """Do for joined calls, in a background task, what an error reply demands."""
        call, deadline = joined.sent, joined.deadline
        sent = error, call, call.encoded, node, connection, deadline
        task = self.loop.create_task(joined.finish(partial(self.handle_errors, *sent), self.run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(joined.stop)

    async def run(self, call: Call, encoded: bytes, deadline: float) -> Any:
        """As ``AsyncTransport.run``, if no connection was ready."""
        with self.in_use():
            node = self.find(call, deadline) or await self.search(call, deadline)
            connection = await node.take(deadline)
            reply = await self.send(call, encoded, node, connection, deadline)
            return await self._handle_errors(reply, call, encoded, node, connection, deadline)

    async def handle_errors(
        self,
        reply: Any,
        call: Call,
        encoded: bytes,
        node: AsyncNode,
        connection: AsyncConnection,
        deadline: float,
    ) -> Any:
        """Return the reply; if it is an error that proves that nothing ran, send the call again."""
        with self.in_use():
            return await self._handle_errors(reply, call, encoded, node, connection, deadline)

    async def _handle_errors(
        self,
        reply: Any,
        call: Call,
        encoded: bytes,
        node: AsyncNode,
        connection: AsyncConnection,
        deadline: float,
    ) -> Any:
        redirects: Redirects | None = None
        if isinstance(reply, SendAlone):
            connection = await node.take(deadline)
            reply = await connection.send(encoded, deadline)
        while isinstance(reply, ResponseError):
            redirects = redirects or Redirects(call, encoded)
            action = redirects.next_action(reply, deadline - monotonic())
            if action is Action.RETRY:
                if redirects.pause:
                    await asyncio.sleep(redirects.pause)
            elif action is Action.FIND_PRIMARY and node is self.node:
                if await node.replace(connection, deadline) is None:
                    raise redirects.failure(reply, node.where) from cause(reply)
            else:
                target = None
                if action is not Action.FAIL:
                    target = await self._follow(reply, call, node, deadline)
                if target is None:
                    raise redirects.failure(reply, node.where) from cause(reply)
                node = target
            connection = await node.take(deadline)
            if redirects.asking:
                first, pending = connection.send_both(ASKING, redirects.command, deadline)
                reply = await pending
                if first.done() and isinstance(first_reply := first.result(), ResponseError):
                    reply = first_reply
            else:
                reply = await connection.send(redirects.command, deadline)
        return _unless_error(reply, node.where)

    async def _follow(
        self, error: ResponseError, call: Call, node: AsyncNode, deadline: float
    ) -> AsyncNode | None:
        """Find the node to send to after a MOVED, ASK or READONLY of ``node``; None if there is none."""
        raise NotImplementedError

    async def _load_on(
        self, node: AsyncNode, scripts: Sequence[Script], key: bytes | None, deadline: float
    ) -> None:
        # No caller waits for a decision here: the reply may take until the deadline.
        for script in scripts:
            await self._command(node, command("SCRIPT", "LOAD", script.source), deadline, inf)
        if key is not None:
            reply = None
            with suppress(StoreRefused):  # the user may not run EVAL
                reply = await self._command(node, rights.question(key), deadline, inf)
            rights.check(reply, key, node.where)

    async def _command(
        self, node: AsyncNode, encoded: bytes, deadline: float, timeout: float
    ) -> Any:
        """Send one plain command to one node, once."""
        connection = await node.take(deadline)
        reply = await connection.send(encoded, min(deadline, monotonic() + timeout))
        return _unless_error(reply, node.where)


#: The pending reply of a call under way, and what is needed if the reply is an error.
SentCall = tuple[PendingReply, LoopTransport, AsyncNode, AsyncConnection, float]


class AsyncTransport:
    """As ``Transport``, for coroutines: any number of event loops, each with its own connections."""

    def __init__(
        self, kind: type[LoopTransport], store: Store, timeout: float, connect_timeout: float
    ) -> None:
        self.where = store.where
        self._kind = kind
        self._store = store
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._by_loop: dict[AbstractEventLoop, LoopTransport] = {}
        self._last: LoopTransport | None = None
        self._lock = threading.Lock()
        forks.remember(self)

    async def run(self, call: Call, deadline: float | None = None) -> Reply:
        """As ``Transport.run``; a call that is cancelled may have run, at most once."""
        if deadline is None:
            deadline = monotonic() + self._timeout
        sent = self.begin(call, deadline)
        if sent is not None:
            return await finish(call, await sent[0], sent)
        loop_transport = self._of_running_loop()
        try:
            reply = await loop_transport.run(call, call.encoded or encode(call), deadline)
        except StoreUnavailable:
            loop_transport.failed(call)
            raise
        return reply if type(reply) is tuple else checked(call, reply)

    def begin(self, call: Call, deadline: float | None = None) -> SentCall | None:
        """Send a call, if a connection is ready; otherwise do nothing, and return None.

        The caller awaits the pending reply, and gives it to ``finish``. If it is no exception, ``checked``
        is enough; a tuple needs no check: it has the numbers of a joined call. This is ``run`` without a
        coroutine, which a hit would otherwise wait through.
        """
        loop_transport = self._last
        if loop_transport is None or loop_transport.loop is not get_running_loop():
            loop_transport = self._of_running_loop()
        if deadline is None:
            deadline = monotonic() + self._timeout
        node = loop_transport.node or loop_transport.find(call, deadline)
        if node is None:
            return None
        connection = node.connection
        if connection is None or not (connection.unsent or connection.is_ready()):
            return None
        encoded = call.encoded or encode(call)
        pending = loop_transport.send(call, encoded, node, connection, deadline)
        return pending, loop_transport, node, connection, deadline

    def one_slot(self, tags: Sequence[bytes]) -> bool:
        """As ``Transport.one_slot``."""
        return not self._store.is_cluster or one_slot(tags)

    async def load(self, scripts: Sequence[Script], key: bytes | None = None) -> None:
        """As ``Transport.load``, for the connections of the running loop."""
        loop_transport = self._of_running_loop()
        with loop_transport.in_use():
            await loop_transport.load(scripts, key, monotonic() + self._connect_timeout)

    async def close(self) -> None:
        """Close the running loop's connections; one in use is closed when its calls have ended."""
        loop = get_running_loop()
        loop_transport = self._by_loop.get(loop)
        if loop_transport is not None:
            self._forget(loop)
            await loop_transport.close()

    def after_fork(self) -> None:
        """Leave the connections and event loops to the parent; called in the child of a fork."""
        by_loop, self._by_loop, self._last = self._by_loop, {}, None
        self._lock = threading.Lock()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for loop_transport in by_loop.values():
            for connection in loop_transport.closer.connections:
                connection.leave_to_parent(nowhere)
            # Keep them alive: freeing them would need the parent's loop.
            _left_to_parents.append(loop_transport)
        os.close(nowhere)

    def _of_running_loop(self) -> LoopTransport:
        """The transport of the running loop, made at its first call."""
        loop = get_running_loop()
        with self._lock:
            loop_transport = self._by_loop.get(loop)
            if loop_transport is None:
                for closed in [known for known in self._by_loop if known.is_closed()]:
                    self._by_loop.pop(closed).closer.drop()
                closer = ConnectionCloser(loop, _forgetting(self))
                maker = NodeMaker(self._store, self._timeout, self._connect_timeout, closer)
                loop_transport = self._kind(loop, maker)
                self._by_loop[loop] = loop_transport
            self._last = loop_transport
        return loop_transport

    def _forget(self, loop: AbstractEventLoop) -> None:
        with self._lock:
            self._by_loop.pop(loop, None)
            last = self._last
            if last is not None and last.loop is loop:
                self._last = None


async def finish(call: Call, reply: Any, sent: SentCall) -> Reply:
    """Check and return the reply to a call that ``begin`` sent, or do what its error demands."""
    _, loop_transport, node, connection, deadline = sent
    if isinstance(reply, Exception):
        try:
            reply = await loop_transport.handle_errors(
                reply, call, call.encoded, node, connection, deadline
            )
        except StoreUnavailable:
            loop_transport.failed(call)
            raise
    return reply if type(reply) is tuple else checked(call, reply)


_left_to_parents: list[LoopTransport] = []


def _forgetting(transport: AsyncTransport) -> Any:
    """Make a function that forgets a loop, and keeps neither the transport nor a closed loop alive."""
    reference = weakref.ref(transport)

    def forget(loop: AbstractEventLoop) -> None:
        if (alive := reference()) is not None:
            alive._forget(loop)

    return forget


def _unless_error(reply: Any, where: str) -> Any:
    """Return the reply; raise it if it is an error."""
    if isinstance(reply, LimiterError):
        raise anew(reply)
    if isinstance(reply, RedisError):
        raise translate(reply, where) from cause(reply)
    return reply

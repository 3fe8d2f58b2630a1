"""A call's way to the store and back: sent once, answered within the deadline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from time import monotonic, sleep
from typing import Any

from redis.exceptions import ResponseError

from limiter.errors import StoreUnavailable
from limiter.plan import Call
from limiter.scripts import Script
from limiter.transport.detour import ASKING, Detour, Step, command
from limiter.transport.node import Lane, Node
from limiter.transport.replies import cause, translate
from limiter.transport.slots import one_slot
from limiter.transport.store import Address, Store


class Transport:
    """Carries a call to the node that owns its subject, and the reply back.

    What kind of store it is says ``_find``: ``single`` knows one node, ``cluster`` one for each slot.
    """

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        self.where = store.where
        self._store = store
        self._timeout = timeout
        self._connect_timeout = connect_timeout

    def run(self, call: Call, deadline: float | None = None) -> Any:
        """The script's reply, by ``deadline`` as ``time.monotonic`` counts; without one, in time.

        Raises:
            StoreUnavailable: No decision by the deadline, or none now. The call may have run where
                it was sent and its reply did not come; it is never sent again.
            StoreRefused: The store answered with an error that time will not mend.

        What a signal handler raises meanwhile comes out unchanged; but an OSError or TimeoutError of
        its own cannot be told from the connection's, and becomes StoreUnavailable.

        """
        if deadline is None:
            deadline = monotonic() + self._timeout
        node = self._find(call, deadline)
        lane = node.take(deadline)
        try:
            reply = lane.ask(call.by_sha + call.rest, deadline, self._timeout)
        except ResponseError as error:
            return self._go_on(error, call, node, lane, deadline)
        except StoreUnavailable:
            node.doubt(lane)
            raise
        node.give(lane)
        return reply

    def one_slot(self, tags: Sequence[bytes]) -> bool:
        """Whether keys with these hash tags may be in one script call."""
        return not self._store.is_cluster or one_slot(tags)

    def load(self, script: Script) -> None:
        """Connect, and make the store know the script, within the time that connecting may take.

        Raises:
            StoreUnavailable, StoreRefused: As for ``run``.

        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the idle connections. A later call makes new ones."""
        raise NotImplementedError

    def _find(self, call: Call, deadline: float) -> Node:
        """The node that owns the call's subject."""
        raise NotImplementedError

    def _follow(self, error: ResponseError, call: Call, node: Node, deadline: float) -> Node | None:
        """The node that a MOVED, an ASK or a READONLY of ``node`` means; None: there is no other."""
        raise NotImplementedError

    def _make_node(self, address: Address | None) -> Node:
        store, connect_timeout = self._store, self._connect_timeout
        where = store.where if address is None else store.named(address)
        connect = partial(store.connection, address, connect_timeout)
        return Node(connect, where, self._timeout, connect_timeout, address or store.addresses[0])

    def _load_on(self, node: Node, script: Script, deadline: float) -> None:
        # Nobody waits for a decision here: the answer may take all of the time that there is.
        self._tell(node, command("SCRIPT", "LOAD", script.source), deadline, timeout=inf)

    def _tell(self, node: Node, packed: bytes, deadline: float, timeout: float) -> Any:
        """One plain command to one node, without a second try."""
        lane = node.take(deadline)
        try:
            reply = lane.ask(packed, deadline, timeout)
        except ResponseError as error:
            node.give(lane)
            raise translate(error, node.where) from cause(error)
        except StoreUnavailable:
            node.doubt(lane)
            raise
        node.give(lane)
        return reply

    def _go_on(
        self, error: ResponseError, call: Call, node: Node, lane: Lane, deadline: float
    ) -> Any:
        """The server answered with an error: send the call again where that proves nothing ran."""
        detour = Detour(call)
        while True:
            step = detour.after(error, deadline - monotonic())
            if step is Step.AGAIN:
                if detour.pause:
                    sleep(detour.pause)
            elif step is Step.ELSEWHERE:
                lane.close()
                node.drop_idle()
                node = self._follow(error, call, node, deadline) or node
                lane = node.take(deadline)
            else:
                node.give(lane)
                there = None
                if step is Step.THERE:
                    there = self._follow(error, call, node, deadline)
                if there is None:
                    raise detour.failure(error, node.where) from cause(error)
                node = there
                lane = node.take(deadline)
            try:
                if detour.asking:
                    lane.ask(ASKING, deadline, self._timeout)
                reply = lane.ask(detour.command, deadline, self._timeout)
            except ResponseError as another:
                error = another
                continue
            except StoreUnavailable:
                node.doubt(lane)
                raise
            node.give(lane)
            return reply

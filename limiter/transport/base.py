"""A call's way to the store and back: sent once, answered within the deadline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from time import monotonic, sleep
from typing import Any

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import StoreUnavailable
from limiter.scripts import Script
from limiter.transport.node import Connection, Node
from limiter.transport.redirects import Action, Redirects
from limiter.transport.replies import cause, translate
from limiter.transport.slots import one_slot
from limiter.transport.store import Address, Store
from limiter.transport.wire import ASKING, checked, command, encode


class Transport:
    """Carries a call to the node that owns its subject, and the reply back.

    ``_find`` depends on the kind of store: ``single`` knows one node, ``cluster`` one for each slot.
    """

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        self.where = store.where
        self._store = store
        self._timeout = timeout
        self._connect_timeout = connect_timeout

    def run(self, call: Call, deadline: float | None = None) -> list[int]:
        """The script's reply, by ``deadline`` as ``time.monotonic`` counts; without one, in time.

        Raises:
            StoreUnavailable: No decision by the deadline, or none now. The call may have run where
                it was sent and its reply did not come; it is never sent again.
            StoreRefused: The store answered with an error that time will not mend, or with something
                else than a decision.

        An exception that a signal handler raises meanwhile is raised unchanged; but its OSError (a
        TimeoutError is one) counts as the connection's, and becomes StoreUnavailable.

        """
        if deadline is None:
            deadline = monotonic() + self._timeout
        encoded = encode(call)
        node = self._find(call, deadline)
        connection = node.take(deadline)
        try:
            reply = connection.execute(encoded, deadline, self._timeout)
        except ResponseError as error:
            return checked(
                call, self._handle_error(error, call, encoded, node, connection, deadline)
            )
        except StoreUnavailable:
            node.distrust(connection)
            raise
        node.give(connection)
        return checked(call, reply)

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
        # No caller waits for a decision here: the reply may take until the deadline.
        self._command(node, command("SCRIPT", "LOAD", script.source), deadline, timeout=inf)

    def _command(self, node: Node, encoded: bytes, deadline: float, timeout: float) -> Any:
        """One plain command to one node, without a second try."""
        connection = node.take(deadline)
        try:
            reply = connection.execute(encoded, deadline, timeout)
        except ResponseError as error:
            node.give(connection)
            raise translate(error, node.where) from cause(error)
        except StoreUnavailable:
            node.distrust(connection)
            raise
        node.give(connection)
        return reply

    def _handle_error(
        self,
        error: ResponseError,
        call: Call,
        encoded: bytes,
        node: Node,
        connection: Connection,
        deadline: float,
    ) -> Any:
        """The server answered with an error: send the call again where that proves nothing ran."""
        redirects = Redirects(call, encoded)
        while True:
            action = redirects.next_action(error, deadline - monotonic())
            if action is Action.RETRY:
                if redirects.pause:
                    sleep(redirects.pause)
            elif action is Action.RECONNECT:
                connection.close()
                node.drop_idle()
                node = self._follow(error, call, node, deadline) or node
                connection = node.take(deadline)
            else:
                node.give(connection)
                target = None
                if action is Action.FOLLOW:
                    target = self._follow(error, call, node, deadline)
                if target is None:
                    raise redirects.failure(error, node.where) from cause(error)
                node = target
                connection = node.take(deadline)
            try:
                if redirects.asking:
                    connection.execute(ASKING, deadline, self._timeout)
                reply = connection.execute(redirects.command, deadline, self._timeout)
            except ResponseError as another:
                error = another
                continue
            except StoreUnavailable:
                node.distrust(connection)
                raise
            node.give(connection)
            return reply

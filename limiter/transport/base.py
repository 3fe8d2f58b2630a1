"""Send a call to the store once, and return its reply within the deadline."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, sleep
from typing import Any

from redis.exceptions import ResponseError

from limiter.call import Call, Reply
from limiter.errors import StoreRefused, StoreUnavailable
from limiter.scripts import Script
from limiter.transport import rights
from limiter.transport.connection import Connection
from limiter.transport.node import IDLE_KEPT, IdleLimit, Node
from limiter.transport.redirects import Action, Redirects
from limiter.transport.replies import cause, translate
from limiter.transport.slots import one_slot
from limiter.transport.store import Address, Store
from limiter.transport.wire import ASKING, checked, command, encode


class Transport:
    """Carries a call to the node that owns its subject, and the reply back.

    ``_find`` depends on the kind of store: ``single`` knows one node, ``cluster`` one for each
    slot, and ``sentinel`` the one that is the primary now.
    """

    _node: Node | None = None
    """The node of every subject, if the store is one server."""

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        self.where = store.where
        self._store = store
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._limit = IdleLimit()

    def run(self, call: Call, deadline: float | None = None) -> Reply:
        """Return the script's reply, by ``deadline`` (of ``time.monotonic``) or within the timeout.

        Raises:
            StoreUnavailable: The store did not decide by the deadline, or cannot decide now. If the call
                was sent, it may have run; it is never sent again.
            StoreRefused: The store answered with an error that waiting cannot remove, or with something
                other than a decision.

        An exception that a signal handler raises meanwhile is raised unchanged. But an OSError of the
        handler (such as a TimeoutError) counts as the connection's, and becomes StoreUnavailable.

        """
        if deadline is None:
            deadline = monotonic() + self._timeout
        if not self._limit.most:
            self._reopen()
        encoded = call.encoded or encode(call)
        try:
            node = self._node or self._find(call, deadline)
            connection = node.ready() or node.take(deadline)
            try:
                reply = connection.execute(encoded, deadline)
                node.give(connection)
            except ResponseError as error:
                reply = self._handle_error(error, call, encoded, node, connection, deadline)
            except StoreUnavailable:
                node.distrust(connection)
                raise
        except StoreUnavailable:
            self._failed(call)
            raise
        return checked(call, reply)

    def one_slot(self, tags: Sequence[bytes]) -> bool:
        """Whether one script call may have keys with these hash tags."""
        return not self._store.is_cluster or one_slot(tags)

    @property
    def is_cluster(self) -> bool:
        """Whether the store is a cluster."""
        return self._store.is_cluster

    def sentinels(self) -> tuple[int, int]:
        """How many sentinels named the primary when they were last asked, and how many there are."""
        return 0, 0

    @property
    def checks_certificates(self) -> bool | None:
        """Whether TLS checks the servers' certificates; None without TLS."""
        return self._store.checks_certificates

    def primaries(self, deadline: float) -> list[Node]:
        """Every node that has subjects, in the order of their addresses.

        Raises:
            StoreUnavailable, StoreRefused: They are not known.

        """
        raise NotImplementedError

    def load(self, scripts: Sequence[Script], key: bytes | None = None) -> None:
        """Connect and load the scripts into the store, within ``connect_timeout``.

        With ``key``, also check that the user may run every command of the scripts on such a key. (That
        takes an EVAL. A user who may not run EVAL is not checked.)

        Raises:
            StoreUnavailable, StoreRefused: As for ``run``; StoreRefused also if the user lacks a right.

        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the idle connections, and those in use when their call ends; later calls make new ones."""
        raise NotImplementedError

    def _find(self, call: Call, deadline: float) -> Node:
        """The node that owns the call's subject."""
        raise NotImplementedError

    def _failed(self, call: Call) -> None:
        """Note that a call got no decision."""

    def _follow(self, error: ResponseError, call: Call, node: Node, deadline: float) -> Node | None:
        """Find the node to send to after a MOVED, ASK or READONLY of ``node``; None if there is none."""
        raise NotImplementedError

    def _make_node(self, address: Address | None, store: Store | None = None) -> Node:
        store, connect_timeout = store or self._store, self._connect_timeout
        where = store.where if address is None else store.named(address)
        connect = partial(store.connection, address, connect_timeout)
        address = address or store.addresses[0]
        return Node(connect, where, connect_timeout, address, store.credentials, self._limit)

    def _reopen(self) -> None:
        """Keep idle connections again, after ``close``: there are later calls."""
        self._limit.most = IDLE_KEPT

    def _load_on(
        self, node: Node, scripts: Sequence[Script], key: bytes | None, deadline: float
    ) -> None:
        # No caller waits for a decision here: the reply may take until the deadline.
        for script in scripts:
            self.ask(node, command("SCRIPT", "LOAD", script.source), deadline)
        if key is not None:
            reply = None
            with suppress(StoreRefused):  # the user may not run EVAL
                reply = self.ask(node, rights.question(key), deadline)
            rights.check(reply, key, node.where)

    def ask(self, node: Node, encoded: bytes, deadline: float) -> Any:
        """Send one plain command to one node, once."""
        connection = node.take(deadline)
        try:
            reply = connection.execute(encoded, deadline)
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
        """Send the call again if the error reply proves that nothing ran; otherwise raise it."""
        redirects = Redirects(call, encoded)
        replaced = False
        while True:
            action = redirects.next_action(error, deadline - monotonic())
            if action is Action.RETRY:
                if redirects.pause:
                    sleep(redirects.pause)
            elif action is Action.FIND_PRIMARY and node is self._node:
                newer = node.replace(connection, deadline)
                if newer is None:
                    raise redirects.failure(error, node.where) from cause(error)
                connection, replaced = newer, True
            else:
                node.give(connection)
                target = None
                if action is not Action.FAIL:
                    target = self._follow(error, call, node, deadline)
                if target is None:
                    raise redirects.failure(error, node.where) from cause(error)
                node = target
                connection = node.take(deadline)
            try:
                if redirects.asking:
                    connection.execute(ASKING, deadline)
                reply = connection.execute(redirects.command, deadline)
            except ResponseError as next_error:
                error = next_error
                continue
            except StoreUnavailable:
                node.distrust(connection)
                raise
            if replaced:
                node.found_primary(connection)
            node.give(connection)
            return reply

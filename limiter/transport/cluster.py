"""Calls to a cluster: our own table of which node has which slot."""

from __future__ import annotations

import random
import threading
from binascii import crc_hqx
from functools import partial
from time import monotonic
from typing import Any

from redis.exceptions import ResponseError

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable
from limiter.plan import Call
from limiter.scripts import Script
from limiter.transport import forks
from limiter.transport.base import Transport, command
from limiter.transport.node import Node, beside
from limiter.transport.store import Address, Store

SLOTS = 16_384

#: The table is read anew at most so often, whatever fails: a cluster in trouble is not asked in a storm.
REFRESH_EVERY = 0.5


class ClusterTransport(Transport):
    """Finds the node that owns a subject's slot, and follows the cluster when slots move."""

    def __init__(self, store: Store, timeout: float, connect_timeout: float) -> None:
        super().__init__(store, timeout, connect_timeout)
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Node | None] = [None] * SLOTS
        self._changed = threading.Condition()
        self._reading = False
        self._read_at = -REFRESH_EVERY
        self._readings = 0
        self._failure: LimiterError | None = None
        forks.remember(self)

    def run(self, call: Call) -> Any:
        """As ``Transport.run``; a node that fails makes us read the table anew, beside the calls."""
        try:
            return super().run(call)
        except StoreUnavailable:
            self._refresh()
            raise

    def load(self, script: Script) -> None:
        """Make every primary know the script."""
        deadline = monotonic() + self._connect_timeout
        self._read_anew(deadline)
        for node in {node for node in self._owners if node is not None}:
            self._load_on(node, script, deadline)

    def close(self) -> None:
        """Close the idle connections to every node."""
        for node in list(self._nodes.values()):
            node.close()

    def _find(self, call: Call, deadline: float) -> Node:
        slot = crc_hqx(call.tag, 0) % SLOTS
        node = self._owners[slot]
        if node is None:
            self._read_anew(deadline)
            node = self._owners[slot]
            if node is None:
                raise StoreUnavailable(f"{self._store.where}: no node has slot {slot}")
        return node

    def _follow(
        self, kind: str, error: ResponseError, call: Call, node: Node, deadline: float
    ) -> Node | None:
        if kind == "READONLY":
            self._read_anew(deadline)
            return self._find(call, deadline)
        slot, host, port = _pointed_to(error)
        target = self._node_at((_host(host, node.address), port))
        if kind == "MOVED":
            self._owners[slot] = target
            self._refresh()
        return target

    def _node_at(self, address: Address) -> Node:
        if self._store.remap is not None:
            address = self._store.remap(address)
        node = self._nodes.get(address)
        if node is None:
            # Two threads may both come here; the dictionary keeps one of the two.
            node = self._nodes.setdefault(address, self._make_node(address))
        return node

    def _refresh(self) -> None:
        """Start reading the table, unless that is under way or was done just now."""
        with self._changed:
            if self._reading or monotonic() - self._read_at < REFRESH_EVERY:
                return
            beside(partial(self._read_table, self._changed), self._store.where)
            self._reading = True

    def _read_anew(self, deadline: float) -> None:
        """Read the table, or wait for the reading that is under way.

        Raises:
            StoreUnavailable: It did not end by ``deadline``, or no node could say.

        """
        readings = self._readings
        self._refresh()
        with self._changed:
            while self._reading and self._readings == readings:
                left = deadline - monotonic()
                if left <= 0:
                    raise StoreUnavailable(
                        f"{self._store.where}: no slot table within the deadline"
                    )
                self._changed.wait(left)
            if self._failure is not None:
                raise type(self._failure)(*self._failure.args) from self._failure

    def after_fork(self) -> None:
        """In the child: a reading that was under way is the parent's."""
        self._changed = threading.Condition()
        self._reading = False

    def _read_table(self, changed: threading.Condition) -> None:
        """Ask one node after the other until one knows the slots."""
        failure: LimiterError | None = None
        try:
            known = list({*self._nodes, *self._store.addresses})
            random.shuffle(known)
            known.sort(key=lambda address: not self._node_at(address).has_idle)
            for address in known:
                try:
                    self._ask_table(address)
                    failure = None
                    break
                except LimiterError as error:
                    # A refusal must not turn into a fallback because another node is down.
                    if not isinstance(failure, StoreRefused):
                        failure = error
        except Exception as error:
            failure = StoreUnavailable(f"{self._store.where}: {error}")
            failure.__cause__ = error
        with changed:
            self._failure = failure
            self._reading = False
            self._read_at = monotonic()
            self._readings += 1
            changed.notify_all()

    def _ask_table(self, address: Address) -> None:
        node = self._nodes.get(address) or self._node_at(address)
        deadline = monotonic() + self._connect_timeout
        reply = self._tell(node, command("CLUSTER", "SLOTS"), deadline, self._timeout)
        try:
            ranges = [
                (int(first), int(last), _address(owner, address))
                for first, last, owner, *_ in reply
            ]
        except (TypeError, ValueError, LookupError):
            raise StoreRefused(f"{node.where} answered CLUSTER SLOTS with {reply!r:.200}") from None
        if not ranges:
            raise StoreUnavailable(f"{node.where}: the cluster has no slots yet")
        owners: list[Node | None] = [None] * SLOTS
        for first, last, owner in ranges:
            owners[first : last + 1] = [self._node_at(owner)] * (last + 1 - first)
        self._owners = owners
        gone = set(self._nodes) - {_remapped(self._store, owner) for _, _, owner in ranges}
        for old in gone - set(self._store.addresses):
            self._nodes.pop(old).close()


def _address(owner: Any, asked: Address) -> Address:
    """The owner's address."""
    host = owner[0].decode() if isinstance(owner[0], bytes) else owner[0]
    return (_host(host, asked), int(owner[1]))


def _host(named: str | None, asked: Address) -> str:
    """The host, where a node knows its own; else the one that we reached the node by."""
    return named if named and named != "?" else asked[0]


def _remapped(store: Store, address: Address) -> Address:
    return address if store.remap is None else store.remap(address)


def _pointed_to(error: ResponseError) -> tuple[int, str, int]:
    """Slot, host and port of a MOVED or ASK."""
    slot, _, place = str(error).removeprefix("MOVED ").removeprefix("ASK ").partition(" ")
    host, _, port = place.rpartition(":")
    return int(slot), host, int(port)

"""Cut a node of a cluster off from the others, while clients still reach it.

Each node announces a proxy's port in place of its own port of the cluster bus. The nodes then connect
through the proxies, which read in a message's header from which node it comes.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from types import TracebackType

import redis

from service.demo.servers import HOST, Cluster, Server
from tests.proxy import Cut, Proxy
from tests.waiting import until

#: Where the header of a message has the sender's id.
_SENDER = slice(40, 80)


class Partition:
    """A cluster whose nodes can be cut off from one another; when it ends, they meet again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stack = ExitStack()
        self._cut_off: set[bytes] = set()
        self._proxies: dict[bytes, Proxy] = {}
        self._clients: list[redis.Redis] = []

    def cut_off(self, *nodes: Server) -> None:
        """Let these nodes reach no other node, and no other node reach them."""
        self._cut_off = {_id_of(self._client(node)) for node in nodes}
        for proxy in self._proxies.values():
            proxy.cut_all()  # links that the nodes made before

    def heal(self) -> None:
        """Let all nodes reach each other again."""
        self._cut_off = set()

    def __enter__(self) -> Partition:
        with ExitStack() as stack:
            for node in self._cluster.nodes:
                proxy = stack.enter_context(Proxy((HOST, node._bus_port)))
                client = stack.enter_context(node.client())
                self._clients.append(client)
                name = _id_of(client)
                proxy.requests = partial(self._pass, name)
                self._proxies[name] = proxy
            stack.callback(self._announce, [0] * len(self._proxies))
            stack.callback(self.heal)
            self._announce([proxy.port for proxy in self._proxies.values()])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _pass(self, receiver: bytes, data: bytes) -> bytes:
        sender = data[_SENDER]
        if sender != receiver and {sender, receiver} & self._cut_off:
            raise Cut
        return data

    def _client(self, node: Server) -> redis.Redis:
        return self._clients[self._cluster.nodes.index(node)]

    def _announce(self, ports: list[int]) -> None:
        """Announce these ports; 0 stands for a node's own."""
        for client, port in zip(self._clients, ports, strict=True):
            client.config_set("cluster-announce-bus-port", port)
        expected = {
            port or node._bus_port for node, port in zip(self._cluster.nodes, ports, strict=True)
        }
        until(lambda: all(expected == _bus_ports(client) for client in self._clients))


def _id_of(client: redis.Redis) -> bytes:
    return str(client.execute_command("CLUSTER MYID")).encode()


def _bus_ports(client: redis.Redis) -> set[int]:
    """The bus port of each node, as this one knows them."""
    lines = str(client.execute_command("CLUSTER", "NODES")).splitlines()
    return {int(re.search(r"@(\d+)", line)[1]) for line in lines}

"""Changes of a cluster: slots that move, replicas that take over, nodes that are cut off."""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import NamedTuple

import redis
from redis.crc import key_slot

from service.demo.servers import HOST, Cluster, Server
from tests.proxy import Cut, Proxy
from tests.waiting import until

#: The tag, and so the slot, that moves.
TAG = "moving"
SLOT = key_slot(TAG.encode())

#: Where the header of a message has the sender's id.
_SENDER = slice(40, 80)


class Move:
    """One slot that is moved from its node to another one."""

    def __init__(self, cluster: Cluster, slot: int = SLOT) -> None:
        self.slot = slot
        self.clients = [node.client() for node in cluster.nodes]
        self.ids = [str(client.execute_command("CLUSTER MYID")) for client in self.clients]
        self.ports = [node.port for node in cluster.nodes]
        self.source = self.ports.index(owner_port(self.clients[0], slot))
        self.target = (self.source + 1) % len(self.clients)

    def begin(self) -> None:
        """Begin the move: the source answers for known keys, the target for new ones."""
        source, target = self.clients[self.source], self.clients[self.target]
        self._tell(target, "IMPORTING", self.ids[self.source])
        self._tell(source, "MIGRATING", self.ids[self.target])

    def keys(self) -> None:
        """Move every key of the slot."""
        source = self.clients[self.source]
        while found := source.execute_command("CLUSTER GETKEYSINSLOT", self.slot, 100):
            port = self.ports[self.target]
            source.execute_command("MIGRATE", HOST, port, "", 0, 5000, "REPLACE", "KEYS", *found)

    def end(self) -> None:
        """End the move: the target owns the slot."""
        for number in (self.target, self.source, *range(len(self.clients))):
            self._tell(self.clients[number], "NODE", self.ids[self.target])
        until(self._agreed)
        self.source, self.target = self.target, self.source

    def _agreed(self) -> bool:
        """Make all nodes know the new owner, and the epoch of its ownership.

        A next move before would be given the same epoch, and the nodes would quarrel for seconds.
        """
        infos = [client.execute_command("CLUSTER INFO") for client in self.clients]
        tables = [owner_port(client, self.slot) for client in self.clients]
        return (
            len({info["cluster_current_epoch"] for info in infos}) == 1
            and set(tables) == {self.ports[self.target]}
            and int(infos[self.target]["cluster_my_epoch"])
            == int(infos[self.target]["cluster_current_epoch"])
        )

    def stop(self) -> None:
        """The slot stays where it is, and no other node is importing it."""
        for client in self.clients:
            self._tell(client, "STABLE")

    def close(self) -> None:
        """Close the connections."""
        for client in self.clients:
            client.close()

    def _tell(self, client: redis.Redis, *words: str) -> None:
        client.execute_command("CLUSTER SETSLOT", self.slot, *words)


def owner_port(client: redis.Redis, slot: int) -> int:
    """The owner of the slot, as this node sees it; redis-py would make a dictionary of the table."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", "SLOTS")
        ranges = connection.read_response()
    finally:
        client.connection_pool.release(connection)
    return int(next(owner[1] for first, last, owner, *_ in ranges if first <= slot <= last))


class Pair(NamedTuple):
    """The primary of a key, and its replica; earlier tests may have exchanged them."""

    primary: Server
    replica: Server


def pairs(cluster: Cluster) -> list[Pair]:
    """The pairs of a cluster whose primaries have one replica each, in the order of their slots."""
    found = []
    for place in range(cluster.primaries):
        nodes = cluster.nodes[place], cluster.nodes[place + cluster.primaries]
        found.append(Pair(*sorted(nodes, key=lambda node: _role(node) != "master")))
    return found


def _role(node: Server) -> str:
    with node.client() as client:
        return str(client.info("replication")["role"])


def until_all_know(cluster: Cluster, primary: Server, replica: Server) -> None:
    """Wait until every node knows which of a pair is the replica.

    A primary that still takes it for a primary denies its vote, and a planned failover then has no effect.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in cluster.nodes]
        ids = {
            node: str(clients[cluster.nodes.index(node)].execute_command("CLUSTER MYID"))
            for node in (primary, replica)
        }

        def knows(client: redis.Redis) -> bool:
            nodes = client.execute_command("CLUSTER NODES").values()
            masters = {node["node_id"]: node["master_id"] for node in nodes}
            return bool(masters[ids[replica]] == ids[primary])

        until(lambda: all(map(knows, clients)))


def take_over(*replicas: Server) -> None:
    """Make these replicas primaries, whatever the others say."""
    for replica in replicas:
        with replica.client() as client:
            client.execute_command("CLUSTER FAILOVER TAKEOVER")
    until(lambda: all(_role(replica) == "master" for replica in replicas))


def until_replicas_are_named(cluster: Cluster) -> None:
    """Wait until the slot tables have the replicas; without a first write that takes ten seconds."""
    with cluster.client() as client:
        for number in range(30):
            client.set(f"written-{number}", 1, ex=1)

    def are_named() -> bool:
        with ExitStack() as stack:
            clients = [stack.enter_context(node.client()) for node in cluster.nodes]
            tables = [client.execute_command("CLUSTER", "SLOTS") for client in clients]
        return all(len(nodes) > 1 for table in tables for _, _, *nodes in table)

    until(are_named)


class Partition:
    """A cluster whose nodes can be cut off from one another, while clients still reach them.

    Each node announces a proxy's port in place of its own port of the cluster bus. The nodes then connect
    through the proxies, which read in a message's header from which node it comes.
    """

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
    return {int(port) for line in lines for port in re.findall(r"@(\d+)", line)}

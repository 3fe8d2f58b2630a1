"""The stores of schedules, and what happens to them: failovers, moves of slots, crashes, and the like."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from tests.simulation.network import Address, Network
from tests.simulation.servers import (
    PARTS,
    SERVICE,
    ClusterNode,
    Execution,
    Sentinel,
    Server,
)
from tests.simulation.world import World

Mishap = Callable[[float], None]
"""Begins now, and is over after this many seconds at the latest."""


class SimulatedStore:
    """The servers of one store."""

    url: str
    servers: list[Server]

    def __init__(self, network: Network, ledger: list[Execution]) -> None:
        self.network = network
        self.world = network.world
        self.ledger = ledger
        self.is_changing = False
        self.lost: set[str] = set()
        """The servers that never decide again."""

    def mishaps(self) -> dict[str, Mishap]:
        """What may happen to it, by name."""
        return {
            "scripts are flushed": self._flush,
            "a server crashes": partial(self._crash, False),
            "a server loses its power": partial(self._crash, True),
            "a server stands still": self._stop,
            "a server loads its data": partial(
                self._refuse, b"LOADING Redis is loading the dataset in memory"
            ),
            "a server is busy": partial(self._refuse, b"BUSY Redis is busy running a script"),
            "a server is slow": self._lag,
            "a server has no room for clients": self._fill,
            "all connections are reset": partial(self._cut, "reset"),
            "all connections are closed": partial(self._cut, "eof"),
            "all connections fall silent": self._silence,
        }

    def _add(self, kind: type[Server], name: str, address: Address) -> Server:
        server = kind(self.network, name, address, self.ledger)
        self.network.servers[address] = server
        return server

    def _any(self) -> Server:
        return self.world.random.choice(self.servers)

    def _begin_change(self, seconds: float) -> bool:
        """Whether a failover or a move is under way; if not, one begins now."""
        if self.is_changing:
            return True
        self.is_changing = True
        self.world.after(seconds, lambda: setattr(self, "is_changing", False))
        return False

    def _flush(self, seconds: float) -> None:
        server = self._any()
        self.world.note("%s: SCRIPT FLUSH", server.name)
        server.scripts.clear()

    def _crash(self, is_silent: bool, seconds: float) -> None:
        server = self._any()
        server.crash(is_silent)
        self.world.after(seconds, server.come_back)

    def _stop(self, seconds: float) -> None:
        server = self._any()
        server.stop()
        self.world.after(seconds, server.go_on)

    def _refuse(self, error: bytes, seconds: float) -> None:
        server = self._any()
        self.world.note("%s answers %s", server.name, error.decode())
        server.refuses = error

        def end() -> None:
            if server.name not in self.lost:
                server.refuses = b""

        self.world.after(seconds, end)

    def _lag(self, seconds: float) -> None:
        self._slow_down(self._any(), seconds)

    def _slow_down(self, server: Server, seconds: float) -> None:
        server.lag = self.world.random.random() * 0.1
        self.world.note("%s answers %.3f s late", server.name, server.lag)
        self.world.after(seconds, lambda: setattr(server, "lag", 0.0))

    def _fill(self, seconds: float) -> None:
        server = self._any()
        self.world.note("%s has no room for clients", server.name)
        server.is_full = True
        self.world.after(seconds, lambda: setattr(server, "is_full", False))

    def _cut(self, end: str, seconds: float) -> None:
        for link in list(self.network.links.values()):
            link.finish(end)

    def _silence(self, seconds: float) -> None:
        choose = self.world.random
        for link in list(self.network.links.values()):
            if choose.random() < 0.7:
                link.silence(choose.random() < 0.7, choose.random() < 0.7)


class OneServer(SimulatedStore):
    """A server behind an address that may lead to another server after a failover."""

    def __init__(self, network: Network, ledger: list[Execution]) -> None:
        super().__init__(network, ledger)
        self.servers = [self._add(Server, "A", ("10.0.0.1", 6379))]
        self.url = "redis://10.0.0.1:6379"

    def mishaps(self) -> dict[str, Mishap]:
        """As ``SimulatedStore.mishaps``, and a failover."""
        return {**super().mishaps(), "the address leads to another server": self._fail_over}

    def _fail_over(self, seconds: float) -> None:
        """The old server becomes a replica at once; the address leads to the new one now or later."""
        if self._begin_change(seconds):
            return
        old, choose = self.servers[0], self.world.random
        name = chr(ord(old.name[0]) + 1)
        new = Server(self.network, name, old.address, self.ledger)
        if choose.random() < 0.7:
            new.copy_from(old)  # else the tail is lost, which is all
        self.world.note("%s becomes a replica, %s a primary", old.name, name)
        old.role = "slave"

        def lead() -> None:
            self.world.note("the address leads to %s", name)
            self.network.servers[old.address] = new
            self.servers[0] = new

        self.world.after(choose.random() * seconds, lead)


class SimulatedCluster(SimulatedStore):
    """Three primaries, each with a replica."""

    def __init__(self, network: Network, ledger: list[Execution]) -> None:
        super().__init__(network, ledger)
        self.nodes: list[ClusterNode] = []
        for number, name in enumerate("ABCDEF"):
            node = self._add(ClusterNode, name, (f"10.0.1.{number + 1}", 7000))
            assert isinstance(node, ClusterNode)
            self.nodes.append(node)
        primaries = self.nodes[:3]
        for primary, replica in zip(primaries, self.nodes[3:], strict=True):
            primary.replicas = [replica]
            replica.role = "slave"
        for node in self.nodes:
            node.view = [primaries[part * 3 // PARTS] for part in range(PARTS)]
        self.servers = [*self.nodes]
        self.url = "redis+cluster://" + ",".join(f"10.0.1.{number}:7000" for number in (1, 2, 3))

    def mishaps(self) -> dict[str, Mishap]:
        """As ``SimulatedStore.mishaps``, with moves of slots and failovers."""
        return {
            **super().mishaps(),
            "slots move": self._move,
            "slots have moved": self._moved,
            "a replica is promoted": partial(self._fail_over, False),
            "a replica is promoted without the tail": partial(self._fail_over, True),
            "a primary is cut off for good": self._isolate,
            "the cluster is down": self._down,
            "two nodes send a call back and forth": self._loop,
        }

    @property
    def _owners(self) -> list[ClusterNode]:
        """The owner of each part, as the nodes say that are not cut off."""
        return next(node for node in self.nodes if node.name not in self.lost).view

    def _begin_move(self, seconds: float) -> tuple[int, ClusterNode, ClusterNode] | None:
        """Choose a part, whose it is and whose it will be; None if that is not possible now."""
        choose = self.world.random
        part = choose.randrange(PARTS)
        source = self._owners[part]
        others = [node for node in dict.fromkeys(self._owners) if node is not source]
        if not others or self._begin_change(seconds):
            return None
        return part, source, choose.choice(others)

    def _move(self, seconds: float) -> None:
        """A part of the slots moves, key by key."""
        if (change := self._begin_move(seconds)) is None:
            return
        part, source, target = change
        self.world.note("part %d moves from %s to %s", part, source.name, target.name)
        source.moving_to[part] = target
        target.taking.add(part)

        def end() -> None:
            source.moving_to.pop(part, None)
            target.taking.discard(part)
            self.world.note("part %d belongs to %s", part, target.name)
            source.move_keys(part, target)
            self._tell(part, target, [target, source], seconds)

        choose = self.world.random
        self.world.after(seconds * choose.random() / 2, lambda: source.move_keys(part, target))
        self.world.after(seconds * choose.random(), end)

    def _moved(self, seconds: float) -> None:
        """A part of the slots has another owner at once; most nodes hear of it later."""
        if (change := self._begin_move(seconds)) is None:
            return
        part, source, target = change
        self.world.note("part %d belongs to %s", part, target.name)
        source.move_keys(part, target)
        self._tell(part, target, [target, source], seconds)

    def _loop(self, seconds: float) -> None:
        """Two nodes name each other as the owner of a part, for a while."""
        if self._begin_change(seconds):
            return
        part = self.world.random.randrange(PARTS)
        owner = self._owners[part]
        other = next(node for node in self.nodes if node is not owner)
        self.world.note("%s and %s name each other for part %d", owner.name, other.name, part)
        owner.view[part], other.view[part] = other, owner

        def end() -> None:
            if owner.view[part] is other:
                owner.view[part] = owner

        self.world.after(seconds, end)

    def _fail_over(self, loses: bool, seconds: float) -> None:
        """A replica is promoted; its primary has crashed, stands still, or goes on for a while."""
        choose = self.world.random
        old = choose.choice(list(dict.fromkeys(self._owners)))
        if not old.replicas or old.role != "master" or self._begin_change(seconds):
            return
        new = old.replicas[0]
        if loses:
            new.copy_from(old)
        how = choose.choice(["crash", "silence", "stop", "isolated", "at once"])
        if how in ("crash", "silence"):
            old.crash(how == "silence")
        elif how == "stop":
            old.stop()

        def promote() -> None:
            if not loses:
                new.copy_from(old)
            self.world.note("%s is promoted in the place of %s", new.name, old.name)
            new.role, new.replicas, old.replicas = "master", [old], []
            parts = [part for part, owner in enumerate(new.view) if owner is old]
            told = [new] if how == "isolated" else [new, old]
            for part in parts:
                self._tell(part, new, told, seconds)

        def back() -> None:
            if how in ("crash", "silence"):
                old.come_back()
            elif how == "stop":
                old.go_on()
            old.role = "slave"
            for part in range(PARTS):
                if old.view[part] is old:
                    old.view[part] = new

        self.world.after(seconds * choose.random() / 2, promote)
        self.world.after(seconds, back)

    def _isolate(self, seconds: float) -> None:
        """A primary that sees no other node names itself and decides nothing; its replica is promoted."""
        old = self.world.random.choice(list(dict.fromkeys(self._owners)))
        if not old.replicas or old.role != "master" or self._begin_change(seconds):
            return
        (new,) = old.replicas
        self.world.note("%s is cut off, and %s is promoted", old.name, new.name)
        new.copy_from(old)
        new.role, new.replicas = "master", []
        old.refuses = b"CLUSTERDOWN The cluster is down"
        self.lost.add(old.name)
        for part, owner in enumerate(new.view):
            if owner is old:
                self._tell(part, new, [new], seconds, besides=old)

    def _tell(
        self,
        part: int,
        owner: ClusterNode,
        first: list[ClusterNode],
        seconds: float,
        besides: ClusterNode | None = None,
    ) -> None:
        """Let some nodes know the part's new owner now, and the others within a while."""

        def learn(node: ClusterNode) -> None:
            node.view[part] = owner

        for node in self.nodes:
            if node in first:
                learn(node)
            elif node is not besides:
                self.world.after(self.world.random.random() * seconds / 2, partial(learn, node))

    def _down(self, seconds: float) -> None:
        for node in self.nodes:
            node.refuses = b"CLUSTERDOWN The cluster is down"

        def end() -> None:
            for node in self.nodes:
                if node.name not in self.lost:
                    node.refuses = b""

        self.world.note("the cluster is down")
        self.world.after(seconds, end)


class WatchedPair(SimulatedStore):
    """A primary, its replica, and three sentinels."""

    def __init__(self, network: Network, ledger: list[Execution]) -> None:
        super().__init__(network, ledger)
        self.servers = [
            self._add(Server, name, (f"10.0.2.{number}", 6379))
            for number, name in ((1, "A"), (2, "B"))
        ]
        self.servers[1].role = "slave"
        self.sentinels: list[Sentinel] = []
        for number in (1, 2, 3):
            sentinel = self._add(Sentinel, f"S{number}", (f"10.0.3.{number}", 26379))
            assert isinstance(sentinel, Sentinel)
            sentinel.primary = self.servers[0].address
            self.sentinels.append(sentinel)
        self.servers += self.sentinels
        hosts = ",".join(f"10.0.3.{number}:26379" for number in (1, 2, 3))
        self.url = f"redis+sentinel://{hosts}/{SERVICE}"

    def mishaps(self) -> dict[str, Mishap]:
        """As ``SimulatedStore.mishaps``, and a failover."""
        return {
            **super().mishaps(),
            "the replica is promoted": partial(self._fail_over, False),
            "the replica is promoted without the tail": partial(self._fail_over, True),
        }

    def _fail_over(self, loses: bool, seconds: float) -> None:
        if self._begin_change(seconds):
            return
        choose = self.world.random
        old, new = self.servers[:2]
        if old.role != "master":
            old, new = new, old
        if loses:
            new.copy_from(old)
        how = choose.choice(["crash", "silence", "isolated", "at once"])
        if how in ("crash", "silence"):
            old.crash(how == "silence")

        def promote() -> None:
            if new.role == "master":
                return
            if not loses:
                new.copy_from(old)
            self.world.note("%s is promoted in the place of %s", new.name, old.name)
            new.role = "master"
            if how == "at once":
                old.role = "slave"
            self._slow_down(old, seconds)
            epoch = max(sentinel.epoch for sentinel in self.sentinels) + 1

            def learn(sentinel: Sentinel) -> None:
                if sentinel.epoch < epoch:
                    sentinel.epoch, sentinel.primary = epoch, new.address

            for place, sentinel in enumerate(self.sentinels):
                later = choose.random() * seconds / 2 if place else 0.0
                self.world.after(later, partial(learn, sentinel))

        def back() -> None:
            if how in ("crash", "silence"):
                old.come_back()
            if new.role == "master":
                old.role = "slave"

        self.world.after(seconds * choose.random() / 2, promote)
        self.world.after(seconds, back)


@cache
def mishaps_of(kind: str) -> tuple[list[str], list[str]]:
    """The names of what may happen to any store, and of what may happen to this kind alone."""
    store = KINDS[kind](Network(World(0)), [])
    common = SimulatedStore.mishaps(store)
    return list(common), [name for name in store.mishaps() if name not in common]


KINDS: dict[str, type[SimulatedStore]] = {
    "one server": OneServer,
    "a cluster": SimulatedCluster,
    "sentinels": WatchedPair,
}

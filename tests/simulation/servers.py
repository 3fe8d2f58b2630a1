"""Simulated servers of Redis: alone, in a cluster, or watched by sentinels.

They speak RESP. The rules of ``limiter.memory`` decide the calls of scripts. The ledger has each call that
ran.
"""

from __future__ import annotations

import copy
import heapq
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from redis.crc import key_slot

from limiter import scripts
from limiter.call import Block, Call, CallTemplate
from limiter.cli.decode import read
from limiter.memory import MemoryStore
from tests.memory.support import LISTS, policy_of
from tests.simulation.network import Address, Link, Network

#: A cluster's slots move in parts of this size.
PART = 2_048
PARTS = 16_384 // PART
SERVICE = "limits"

OK = b"+OK\r\n"
_SHAS = {scripts.script(name).sha.encode(): name for name in scripts.names()}
_TEXTS = {
    scripts.script(name).source: scripts.script(name).sha.encode() for name in scripts.names()
}


class Execution(NamedTuple):
    """One call of a script that ran."""

    server: str
    keys: tuple[bytes, ...]
    mode: str
    cost: int
    reply: tuple[int, ...]

    @property
    def charged(self) -> int:
        """The units that were taken."""
        return self.reply[0] if self.mode in ("hit", "acquire") else 0


class Server:
    """One process of a server."""

    mode = "standalone"

    def __init__(
        self, network: Network, name: str, address: Address, ledger: list[Execution]
    ) -> None:
        self.network = network
        self.world = network.world
        self.name = name
        self.address = address
        self.ledger = ledger
        self.redirected: Counter[tuple[bytes, ...]] = Counter()
        """How often it answered MOVED or ASK, by keys."""
        self.links: dict[int, Link] = {}
        self.role = "master"
        self.store = MemoryStore()
        self.scripts: set[bytes] = set()
        self.is_down = False
        """Whether its process has ended, so that its system refuses connections."""
        self.is_cut_off = False
        """Whether no data reaches it or leaves it."""
        self.refuses = b""
        """The error reply to each call of a script, such as LOADING; empty: it decides."""
        self.lag = 0.0
        """Seconds by which its replies are late."""
        self.is_full = False
        """Whether it closes each new connection, since it has reached ``maxclients``."""
        self._is_stopped = False
        self._unheard: list[tuple[Link, bytes]] = []

    # --- what happens to it ---

    def crash(self, is_silent: bool) -> None:
        """End its connections: with resets, or without a word, as a machine that loses its power does."""
        self.world.note("%s crashes (%s)", self.name, "no word" if is_silent else "resets")
        self.is_down, self.is_cut_off = not is_silent, is_silent
        self._unheard.clear()
        for link in list(self.links.values()):
            if is_silent:
                link.forget()
            else:
                link.finish("reset")
        self.scripts.clear()

    def come_back(self) -> None:
        """Accept connections again."""
        self.world.note("%s is back", self.name)
        self.is_down = self.is_cut_off = False

    def stop(self) -> None:
        """Stand still, with open connections, as after SIGSTOP."""
        self.world.note("%s stands still", self.name)
        self._is_stopped = True

    def go_on(self) -> None:
        """Do what came meanwhile."""
        self.world.note("%s goes on", self.name)
        self._is_stopped = False
        unheard, self._unheard = self._unheard, []
        for link, data in unheard:
            self.receive(link, data)

    def copy_from(self, other: Server) -> None:
        """Take the other server's state."""
        self.store._keys = copy.deepcopy(other.store._keys)
        self.store._heap[:] = [(key.marked_us, name) for name, key in self.store._keys.items()]
        heapq.heapify(self.store._heap)

    # --- what it does ---

    def greet(self, link: Link) -> None:
        """Accept a connection."""
        if self.is_full:
            link.reply(b"-ERR max number of clients reached\r\n")
            link.finish()

    def receive(self, link: Link, data: bytes) -> None:
        """Run the commands that are complete."""
        if self.is_down or self.is_cut_off:
            return
        if self._is_stopped:
            self._unheard.append((link, data))
            return
        link.reader.feed(data)
        while (words := link.reader.gets()) is not False:
            reply = self.execute(link, words)
            self.world.note("%s answers %s on %s: %.60r", self.name, _shown(words), link, reply)
            link.reply(reply)

    def execute(self, link: Link, words: Sequence[bytes]) -> bytes:
        """Run one command; return the reply."""
        name = words[0].upper().decode()
        is_asking, link.is_asking = link.is_asking, False
        if name in ("EVALSHA", "EVAL"):
            return self._run(words, is_asking)
        if name == "HELLO":
            if len(words) > 1:
                link.protocol = int(words[1])
            return self._hello(link)
        if name == "SCRIPT" and words[1].upper() == b"LOAD":
            sha = _TEXTS[words[2]]
            self.scripts.add(sha)
            return _bulk(sha)
        if name == "ASKING" and self.mode == "cluster":
            link.is_asking = True
            return OK
        if name in ("CLIENT", "AUTH", "SELECT", "READONLY"):
            return OK
        if name == "PING":
            return b"+PONG\r\n"
        if name == "ROLE":
            return _array([_bulk(self.role.encode()), b":0\r\n", b"*0\r\n"])
        return self.other(words)

    def other(self, words: Sequence[bytes]) -> bytes:
        """Run a command that only some kinds of servers know."""
        if words[0].upper() == b"CLUSTER":
            return b"-ERR This instance has cluster support disabled\r\n"
        return b"-ERR unknown command '" + words[0] + b"', with args beginning with: \r\n"

    def redirect(self, keys: Sequence[bytes], is_asking: bool) -> bytes:
        """The error reply to a call for these keys, if another server decides about them."""
        return b""

    def _hello(self, link: Link) -> bytes:
        fields = {
            "server": "redis",
            "version": "7.2.0",
            "proto": link.protocol,
            "id": link.number,
            "mode": self.mode,
            "role": self.role,
        }
        items = [
            (
                _bulk(key.encode()),
                b":%d\r\n" % value if isinstance(value, int) else _bulk(value.encode()),
            )
            for key, value in fields.items()
        ]
        flat = [part for item in items for part in item]
        if link.protocol == 3:
            return b"%%%d\r\n" % len(items) + b"".join(flat)
        return _array(flat)

    def _run(self, words: Sequence[bytes], is_asking: bool) -> bytes:
        count = int(words[2])
        keys = tuple(words[3 : 3 + count])
        if not keys:
            return b"*0\r\n"  # the question about rights: none is missing
        if self.refuses:
            return b"-" + self.refuses + b"\r\n"
        if error := self.redirect(keys, is_asking):
            self.redirected[keys] += not error.startswith(b"TRYAGAIN")
            return b"-" + error + b"\r\n"
        sha = words[1]
        if words[0].upper() == b"EVAL":
            sha = _TEXTS[words[1]]
            self.scripts.add(sha)
        elif sha not in self.scripts:
            return b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
        template = _template(sha, tuple(words[3 + count :]), len(keys))
        if self.role != "master" and template.mode != "peek":
            return b"-READONLY You can't write against a read only replica.\r\n"
        reply = tuple(self.store.run(Call(template, keys)))
        cost = template.blocks[0].cost
        self.ledger.append(Execution(self.name, keys, template.mode, cost, reply))
        if _SHAS[sha] in LISTS:
            return _array([b":%d\r\n" % number for number in reply])
        return _bulk(struct.pack(f"<{len(reply)}d", *reply))


class ClusterNode(Server):
    """A node of a cluster, with its own view of who owns which part of the slots."""

    mode = "cluster"

    def __init__(
        self, network: Network, name: str, address: Address, ledger: list[Execution]
    ) -> None:
        super().__init__(network, name, address, ledger)
        self.view: list[ClusterNode] = []
        self.replicas: list[ClusterNode] = []
        self.moving_to: dict[int, ClusterNode] = {}
        self.taking: set[int] = set()

    def redirect(self, keys: Sequence[bytes], is_asking: bool) -> bytes:
        """As ``Server.redirect``: MOVED, ASK or TRYAGAIN."""
        slot = key_slot(keys[0])
        part = slot // PART
        owner = self.view[part]
        missing = sum(key not in self.store._keys for key in keys)
        if owner is self:
            target = self.moving_to.get(part)
            if target is None or not missing:
                return b""
            if missing < len(keys):
                return b"TRYAGAIN Multiple keys request during rehashing of slot"
            return b"ASK %d %b" % (slot, _place(target))
        if is_asking and part in self.taking:
            if missing and len(keys) > 1:
                return b"TRYAGAIN Multiple keys request during rehashing of slot"
            return b""
        return b"MOVED %d %b" % (slot, _place(owner))

    def other(self, words: Sequence[bytes]) -> bytes:
        """As ``Server.other``: CLUSTER SLOTS."""
        if [word.upper() for word in words] != [b"CLUSTER", b"SLOTS"]:
            return super().other(words)
        entries = []
        for part, owner in enumerate(self.view):
            nodes = [_node(node) for node in (owner, *owner.replicas)]
            first = part * PART
            entries.append(_array([b":%d\r\n" % first, b":%d\r\n" % (first + PART - 1), *nodes]))
        return _array(entries)

    def move_keys(self, part: int, target: ClusterNode) -> None:
        """Move the keys of a part to another node."""
        for name in [key for key in self.store._keys if key_slot(key) // PART == part]:
            target.store._keys[name] = self.store._keys.pop(name)


class Sentinel(Server):
    """A sentinel, with its own view of the primary."""

    mode = "sentinel"

    def __init__(
        self, network: Network, name: str, address: Address, ledger: list[Execution]
    ) -> None:
        super().__init__(network, name, address, ledger)
        self.epoch = 0
        self.primary: Address = ("", 0)

    def other(self, words: Sequence[bytes]) -> bytes:
        """As ``Server.other``: the two questions about a primary."""
        question = [word.upper() for word in words[:2]]
        if question == [b"SENTINEL", b"MASTER"]:
            fields = {"num-other-sentinels": "2", "config-epoch": str(self.epoch)}
            return _array([_bulk(text.encode()) for item in fields.items() for text in item])
        if question == [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME"]:
            host, port = self.primary
            return _array([_bulk(host.encode()), _bulk(b"%d" % port)])
        return super().other(words)


@lru_cache(maxsize=4096)
def _template(sha: bytes, arguments: tuple[bytes, ...], count: int) -> CallTemplate:
    """The call template that a script's arguments stand for."""
    keys = [b"key%d" % number for number in range(count)]
    decoded = read([b"EVALSHA", sha, b"%d" % count, *keys, *arguments])
    assert decoded is not None
    given: dict[str, Any] = decoded.arguments
    policies = decoded.policies or [{**given, "algorithm": decoded.script}]
    blocks = tuple(
        Block(
            policy_of(each["algorithm"], {"field": each["field"], **_numbers(each)}),
            decoded.keys.index(each["key"]) if "key" in each else 0,
            each["cost"] if "cost" in each else given["cost"],
            bool(each.get("shadow")),
            str(each.get("id", "")),
        )
        for each in policies
    )
    return CallTemplate(
        decoded.mode,
        given.get("at_least", 0),
        given["now_us"],
        blocks,
        given.get("step", 1),
        record_ms=given.get("record_ms"),
    )


def _numbers(given: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in given.items() if type(value) is int}


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _array(items: Iterable[bytes]) -> bytes:
    listed = list(items)
    return b"*%d\r\n" % len(listed) + b"".join(listed)


def _node(node: ClusterNode) -> bytes:
    host, port = node.address
    return _array([_bulk(host.encode()), b":%d\r\n" % port, _bulk(node.name.encode()), b"*0\r\n"])


def _place(node: Server) -> bytes:
    return b"%b:%d" % (node.address[0].encode(), node.address[1])


def _shown(words: Sequence[bytes]) -> str:
    """A command for the trace: its name and the keys or words behind it."""
    name = words[0].decode()
    if name in ("EVALSHA", "EVAL"):
        return f"{name} {b' '.join(words[3 : 3 + int(words[2])]).decode()}"
    return b" ".join(words[:2])[:40].decode(errors="replace")

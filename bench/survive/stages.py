"""The stores to which events happen: real servers on loopback, and how the application reaches them."""

from __future__ import annotations

import importlib.util
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

from bench.sections import Failed
from bench.stores import Program
from bench.survive import probe
from bench.survive.application import TIMEOUT, Application, Settings
from bench.survive.probe import Outage, Probe
from limiter.transport.slots import slot_of
from service.demo.servers import HOST, SLOTS, Cluster, Server, Watched, find_server
from tests import tls
from tests.proxy import Proxy
from tests.topology import TAG, Move, Partition, until_replicas_are_named
from tests.waiting import until


class NotPossible(Failed):
    """The server program or the machine cannot have the event; the message says why."""


class Stage:
    """A store, an application that calls it, and a probe for each shard.

    A subclass makes the store in ``_open``, and says how to reach it.
    """

    shards = 1
    is_cluster = False

    def __init__(self, program: Program, kinds: tuple[str, ...], timeout: float = TIMEOUT) -> None:
        self.program = program
        self.timeout = timeout
        self.binary = program.path
        self.kinds = kinds
        self.faults: list[Outage] = []
        """Times in which the store is up but calls cannot be decided: a name server is silent."""
        self.cuts: list[Outage] = []
        """Moments at which the connections end: calls that are on their way then may be undecided."""
        self.extra: dict[str, float] = {}
        """More figures of this event."""
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            self._open(stack)
            self.probes = [
                stack.enter_context(
                    Probe(self._connects(), self._probed(shard), cluster=self.is_cluster)
                )
                for shard in range(self.shards)
            ]
            self.servers = len(self._connects())
            settings = Settings(self._url(), self.kinds, self.timeout, **self._settings())
            self.application = stack.enter_context(Application(settings))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def shard_of(self, subject: str) -> int:
        """Return the number of the shard that had the subject at the beginning."""
        return 0

    @property
    def tag(self) -> str | None:
        """The tag of all subjects."""
        return self.application.settings.tag

    def checked_url(self) -> str:
        """Return the address by which the charges are read afterwards."""
        return self._url()

    def mend(self) -> None:
        """Make the store right again, after the calls and before their charges are read."""

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Mark a fault that the probes do not see."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.faults.append(Outage(began, time.monotonic()))

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Mark a moment at which the connections end."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.cuts.append(Outage(began, time.monotonic()))

    def _open(self, stack: ExitStack) -> None:
        raise NotImplementedError

    def _url(self) -> str:
        raise NotImplementedError

    def _connects(self) -> Sequence[Callable[[], redis.Redis]]:
        """Return functions that make a plain client of each server."""
        return [lambda: plain(self._url())]

    def _probed(self, shard: int) -> str:
        """Return the key that is written on a shard."""
        return "probe"

    def _settings(self) -> dict[str, Any]:
        return {}


def plain(url: str, **settings: Any) -> redis.Redis:
    """Make a client of redis-py that tries once."""
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=probe.TIMEOUT,
        socket_connect_timeout=probe.TIMEOUT,
        **settings,
    )


class Single(Stage):
    """One server behind a proxy."""

    def _open(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(self._server(stack))
        self.proxy = stack.enter_context(Proxy((HOST, self.server.port)))
        self.admin = stack.enter_context(self.server.client())

    def _server(self, stack: ExitStack) -> Server:
        return Server(self.binary)

    def _url(self) -> str:
        return self.proxy.url


class Clocked(Single):
    """One server whose clock the event sets."""

    def _server(self, stack: ExitStack) -> Server:
        if "Valkey" not in self.program.name:
            raise NotPossible("redis-server does not start with libfaketime")
        library = _faketime()
        self._offset = Path(stack.enter_context(TemporaryDirectory())) / "offset"
        self.step(0)
        env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        return Server(self.binary, env=env)

    def mend(self) -> None:
        """End a step back: a bucket that was charged in the future does not show its charges."""
        if self._ahead < 0:
            self.step(0)

    def step(self, seconds: float) -> None:
        """Let the server's clock differ by these seconds from the true time."""
        self._ahead = seconds
        new = self._offset.with_suffix(".new")
        new.write_text(f"{seconds:+}\n")
        new.replace(self._offset)


def _faketime() -> Path:
    spec = importlib.util.find_spec("libfaketime")
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in Path(folder).rglob("libfaketime.so*"):
            return path
    raise NotPossible("a clock that steps needs the package libfaketime, of Linux on x86-64")


class Encrypted(Stage):
    """One server with TLS."""

    def _open(self, stack: ExitStack) -> None:
        self.binary = self.binary if tls.supports_tls(self.binary) else find_server("redis-server")
        self.folder = Path(stack.enter_context(TemporaryDirectory()))
        self.authority = trustme.CA()
        self.server = stack.enter_context(
            Server(self.binary, tls=tls.issue(self.folder, self.authority))
        )
        self.admin = stack.enter_context(
            redis.Redis(unix_socket_path=str(self.server.unix_socket), decode_responses=True)
        )

    def _url(self) -> str:
        return self.server.url

    def serve(self, **issued: Any) -> None:
        """Give the server another certificate of the same authority."""
        files = tls.issue(self.folder, self.authority, **issued)
        self.admin.config_set(
            "tls-cert-file",
            str(files.certificate),
            "tls-key-file",
            str(files.key),
        )


class Authenticated(Single):
    """One server with a user, whose password stands in a file."""

    def _open(self, stack: ExitStack) -> None:
        self.passwords = Path(stack.enter_context(TemporaryDirectory())) / "password"
        self.passwords.write_text("first\n")
        super()._open(stack)
        self.admin.execute_command("ACL", "SETUSER", "limiter", "on", ">first", "~*", "&*", "+@all")

    def _url(self) -> str:
        return f"redis://{HOST}:{self.proxy.port}?username=limiter&password_file={self.passwords}"

    def _connects(self) -> Sequence[Callable[[], redis.Redis]]:
        def connect() -> redis.Redis:
            password = self.passwords.read_text().strip()
            return plain(self.proxy.url, username="limiter", password=password)

        return [connect]


class Named(Stage):
    """One server that has a name; the event decides what look-ups of it return."""

    host = "store.example"

    def _open(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(Server(self.binary))
        self.proxy = stack.enter_context(Proxy((HOST, self.server.port)))
        self.silent = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(2):  # its queue is full
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(self.silent.getsockname())

    def _url(self) -> str:
        return f"redis://{self.host}:{self.proxy.port}"

    def checked_url(self) -> str:
        """Return the server's own address, which needs no look-up."""
        return self.server.url

    def _connects(self) -> Sequence[Callable[[], redis.Redis]]:
        return [lambda: plain(self.proxy.url)]

    def _settings(self) -> dict[str, Any]:
        return {"names": {self.host: [(HOST, 0)]}}


class BlackHole(Named):
    """A name with two addresses, of which the first one answers nothing."""

    def _settings(self) -> dict[str, Any]:
        both = [(HOST, self.silent.getsockname()[1]), (HOST, self.proxy.port)]
        return {"names": {self.host: both}}


class Clustered(Stage):
    """A cluster of three primaries, with a replica each."""

    shards = 3
    is_cluster = True
    timeout_ms = 2000
    """``cluster-node-timeout``: a failover begins after it."""

    def _open(self, stack: ExitStack) -> None:
        self.cluster = stack.enter_context(self._cluster())
        until_replicas_are_named(self.cluster)
        self.admins = [stack.enter_context(node.client()) for node in self.cluster.nodes]
        for admin in self.admins:
            admin.config_set("cluster-node-timeout", self.timeout_ms)

    def _cluster(self) -> Cluster:
        return Cluster(3, replicas=1, binary=self.binary)

    def _url(self) -> str:
        return self.cluster.url

    def checked_url(self) -> str:
        """Return the addresses of the nodes that live."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.cluster.nodes if node.alive)
        return f"redis+cluster://{hosts}"

    def shard_of(self, subject: str) -> int:
        """Return the number of the primary that had the subject's slot at the beginning."""
        return slot_of(subject.encode()) * self.shards // SLOTS

    def _connects(self) -> Sequence[Callable[[], redis.Redis]]:
        return [partial(plain, node.url) for node in self.cluster.nodes]

    def _probed(self, shard: int) -> str:
        return next(f"{{probe-{n}}}" for n in range(1000) if self.shard_of(f"probe-{n}") == shard)


class Primaries(Clustered):
    """The same; the application's setting has only the addresses of the primaries."""

    def _url(self) -> str:
        return f"redis+cluster://{','.join(f'{HOST}:{n.port}' for n in self.cluster.nodes[:3])}"


class Partitioned(Clustered):
    """The same; nodes can be cut off from one another, but not from the application."""

    def _open(self, stack: ExitStack) -> None:
        super()._open(stack)
        self.partition = stack.enter_context(Partition(self.cluster))


class Moving(Clustered):
    """Two primaries; all subjects are in one slot, which moves."""

    shards = 1

    def _open(self, stack: ExitStack) -> None:
        self.cluster = stack.enter_context(Cluster(2, binary=self.binary))
        self.move = Move(self.cluster)
        stack.callback(self.move.close)

    def _probed(self, shard: int) -> str:
        return f"{{{TAG}}}:probe"

    def _settings(self) -> dict[str, Any]:
        return {"tag": TAG}


class Sentinels(Stage):
    """A primary and its replica, which three sentinels watch."""

    def _open(self, stack: ExitStack) -> None:
        self.watched = stack.enter_context(Watched(binary=self.binary))

    def _url(self) -> str:
        return self.watched.url

    def _connects(self) -> Sequence[Callable[[], redis.Redis]]:
        return [partial(plain, server.url) for server in self.watched.servers]

    def until_named(self, server: Server) -> None:
        """Wait until a sentinel that runs names this server as the primary."""
        sentinels = self.watched.sentinels
        until(lambda: any(each.named(self.watched.service) == server.port for each in sentinels))

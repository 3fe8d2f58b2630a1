"""Real Valkey or Redis servers on loopback, for the demo, the tests and the benchmarks.

Used as in ``with Cluster(3) as cluster: Limiter("100/minute", store=cluster.url)``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from service.demo.children import Child, stop
from service.demo.programs import HOST, ServerError, find_server, free_port

# From ``programs``, for those who start servers.
__all__ = ["HOST", "ServerError", "find_server", "free_port"]

SLOTS = 16384

#: Seconds that a server, and then a cluster, may take to start on a busy machine.
START_TIMEOUT = 30.0

#: Sleeps for a number of seconds; if it raises, the start is stopped.
Pause = Callable[[float], None]


class Certificates(NamedTuple):
    """The files of a TLS server, in PEM."""

    ca: Path
    certificate: Path
    key: Path


def stop_all(servers: Iterable[Server]) -> None:
    """Stop servers at the same time, and remove their folders."""
    servers = list(servers)
    stop([server._child for server in servers if server._child is not None])
    for server in servers:
        if server._folder is not None:
            server._folder.cleanup()
            server._folder = None


class Server:
    """One server without data on disk, in a temporary folder of its own.

    ``options`` are added to its command line, such as ``["--maxmemory", "1mb"]``, and ``env`` to its
    environment.
    """

    #: What it logs as soon as it serves.
    _ready = "Ready to accept connections"

    def __init__(
        self,
        binary: str | Path | None = None,
        *,
        options: Sequence[str] = (),
        password: str | None = None,
        tls: Certificates | None = None,
        cluster: bool = False,
        host: str = HOST,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = find_server(None if binary is None else str(binary))
        self.host = host
        self.port = 0
        self.password = password
        self.tls = tls
        self.cluster = cluster
        self._options = list(options)
        self._env = None if env is None else {**os.environ, **env}
        self._login = f":{password}@" if password else ""
        self._folder: TemporaryDirectory[str] | None = None
        self._bus_port = 0
        self._child: Child | None = None
        self._served = False

    @property
    def url(self) -> str:
        """The address as ``Limiter(store=...)`` takes it."""
        return self._url_of(f"{self.host}:{self.port}/0")

    def _url_of(self, hosts: str, suffix: str = "") -> str:
        """Return the address of hosts that have this server's password and certificate."""
        scheme, options = ("rediss", f"?ssl_ca_certs={self.tls.ca}") if self.tls else ("redis", "")
        return f"{scheme}{suffix}://{self._login}{hosts}{options}"

    @property
    def folder(self) -> Path:
        """The server's folder, which exists from its first start until ``stop``."""
        if self._folder is None:
            raise ServerError("the server was not started")
        return Path(self._folder.name)

    @property
    def unix_socket(self) -> Path:
        """The path of the Unix socket on which the server also listens."""
        return self.folder / "server.sock"

    @property
    def unix_url(self) -> str:
        """The address of the Unix socket as ``Limiter(store=...)`` takes it."""
        return f"unix://{self._login}{self.unix_socket}"

    @property
    def log(self) -> str:
        """The server's log since its last start."""
        if self._folder is None:
            return ""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the process exists; it may be paused."""
        return self._child is not None and self._child.alive

    def client(self, **settings: Any) -> redis.Redis:
        """Make a client of this server alone, without retries; the caller closes it."""
        settings = {"retry": Retry(NoBackoff(), 0), "decode_responses": True, **settings}
        return redis.Redis.from_url(self.url, **settings)

    def launch(self) -> None:
        """Start the process, without waiting for it."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="limiter-server-", ignore_cleanup_errors=True)
        (self.folder / "server.log").unlink(missing_ok=True)
        if not self.port:
            self.port, self._bus_port = free_port(), free_port()
        with (self.folder / "server.out").open("wb") as output:
            self._child = Child(
                f"server on port {self.port}",
                [self.binary, *self._command_line()],
                env=self._env,
                cwd=self.folder,
                output=output,
                death_signal=signal.SIGKILL,
            )

    def start(self, pause: Pause = time.sleep) -> Server:
        """Start the server, and return when it serves; later starts use the same port."""
        try:
            self.launch()
            self.wait(pause)
        except BaseException:
            self.stop()
            raise
        return self

    def wait(self, pause: Pause = time.sleep) -> None:
        """Wait until the launched server serves; ``pause`` may raise to end that."""
        _until(self._serves, f"{self.binary} did not serve", pause)
        self._served = True

    def _serves(self) -> bool:
        """Whether the launched server serves; launch it again if another process has taken its port."""
        if self._ready in self.log:
            return True
        if not self.alive:
            reason = self.reason()
            if "in use" not in reason or self._served:
                raise ServerError(f"{self.binary.name} did not start: {reason}")
            self.port = 0
            self.launch()
        return False

    def stop(self) -> None:
        """End the server and remove its folder; a repeated call does nothing."""
        stop_all([self])

    def kill(self) -> None:
        """Kill the server, as in a crash; ``restart`` starts it again."""
        self._running().kill()

    def restart(self) -> None:
        """Start it again on its port, without its data (a cluster's node keeps its slots)."""
        if self.alive:
            self._running().stop()
        self.start()

    def pause(self) -> None:
        """Suspend the process: the kernel accepts connections, but the server does not answer."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a paused process."""
        self._running().signal(signal.SIGCONT)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> Child:
        if self._child is None:
            raise ServerError("the server was not started")
        return self._child

    def reason(self) -> str:
        """Return how the server ended, and its last lines."""
        output = self.log or (self.folder / "server.out").read_text(errors="replace")
        lines = [line for line in output.splitlines() if line.strip()]
        last = " / ".join(lines[-3:]) or "it printed nothing"
        return f"{self._running().name} ended ({self._running().ending}): {last}"

    def _command_line(self) -> list[str]:
        words = ["--bind", self.host, "--dir", str(self.folder), "--logfile", "server.log"]
        words += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        words += ["--unixsocket", self.unix_socket.name, "--protected-mode", "no"]
        words += self._ports()
        if self.password:
            words += ["--requirepass", self.password, "--masterauth", self.password]
        if self.cluster:
            words += ["--cluster-enabled", "yes", "--cluster-port", str(self._bus_port)]
            words += ["--repl-diskless-sync-delay", "0"]  # replicas are ready at once
            # If one primary is dead, the others must serve their slots.
            words += ["--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000"]
        return words + self._options

    def _ports(self) -> list[str]:
        if self.tls is None:
            return ["--port", str(self.port)]
        words = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
        words += ["--tls-ca-cert-file", str(self.tls.ca)]
        words += ["--tls-cert-file", str(self.tls.certificate)]
        return [*words, "--tls-key-file", str(self.tls.key), "--tls-replication", "yes"]


class Sentinel(Server):
    """A sentinel, which watches no service yet. It keeps what it knows in a file, also if it is killed."""

    _ready = "Sentinel ID is"

    def monitor(self, service: str, primary: Server, quorum: int, **settings: object) -> None:
        """Watch a service; settings have ``_`` for ``-``."""
        with self.client() as client:
            _ask(client, "SENTINEL", "MONITOR", service, primary.host, primary.port, quorum)
            if primary.password:
                settings["auth_pass"] = primary.password
            for name, value in settings.items():
                _ask(client, "SENTINEL", "SET", service, name.replace("_", "-"), value)

    def debug(self, **periods: int) -> None:
        """Change how often it asks and tells others, in milliseconds; names have ``_`` for ``-``."""
        with self.client() as client:
            for name, value in periods.items():
                _ask(client, "SENTINEL", "DEBUG", name.replace("_", "-"), value)

    def named(self, service: str) -> int:
        """Return the port of the primary that it names."""
        with self.client() as client:
            return int(_ask(client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)[1])

    def _command_line(self) -> list[str]:
        path = self.folder / "sentinel.conf"
        path.touch()
        words = [str(path), "--sentinel", "--bind", self.host, "--dir", str(self.folder)]
        words += ["--logfile", "server.log", "--protected-mode", "no", *self._ports()]
        if self.password:
            words += ["--requirepass", self.password]
        return words + self._options


class Watched:
    """A primary and its replicas, with three sentinels that watch them.

    ``servers`` has the first primary first. The sentinels notice a silent server after ``down_after``
    milliseconds.
    """

    service = "main"

    def __init__(
        self,
        replicas: int = 1,
        binary: str | Path | None = None,
        *,
        password: str | None = None,
        sentinel_password: str | None = None,
        tls: Certificates | None = None,
        down_after: int = 300,
    ) -> None:
        options = ["--repl-diskless-sync-delay", "0"]
        self.servers = [
            Server(binary, options=options, password=password, tls=tls) for _ in range(1 + replicas)
        ]
        self.sentinels = [Sentinel(binary, password=sentinel_password, tls=tls) for _ in range(3)]
        self._down_after = down_after

    @property
    def url(self) -> str:
        """The address as ``Limiter(store=...)`` takes it."""
        return self.url_of(*self.sentinels)

    def url_of(self, *sentinels: Sentinel) -> str:
        """Return the address with some of the sentinels."""
        hosts = ",".join(f"{each.host}:{each.port}" for each in sentinels)
        url = self.servers[0]._url_of(f"{hosts}/{self.service}", "+sentinel")
        password = sentinels[0].password
        if password:
            url += f"{'&' if '?' in url else '?'}sentinel_password={password}"
        return url

    @property
    def primary(self) -> Server:
        """The server that the first sentinel which is alive names."""
        port = next(each for each in self.sentinels if each.alive).named(self.service)
        return next(server for server in self.servers if server.port == port)

    def start(self, pause: Pause = time.sleep) -> Watched:
        """Start all, and return when the sentinels know each other and the replicas."""
        every = [*self.servers, *self.sentinels]
        try:
            for server in every:
                server.launch()
            for server in every:
                server.wait(pause)
            primary, *replicas = self.servers
            for replica in replicas:
                with replica.client() as client:
                    _ask(client, "REPLICAOF", primary.host, primary.port)
            for sentinel in self.sentinels:
                sentinel.debug(info_period=200, ask_period=100)
                sentinel.monitor(
                    self.service,
                    primary,
                    2,
                    down_after_milliseconds=self._down_after,
                    failover_timeout=3000,
                )
            self.wait(pause)
        except BaseException:
            self.stop()
            raise
        return self

    def wait(self, pause: Pause = time.sleep) -> None:
        """Wait until every sentinel knows the other ones and the replicas, and these are up to date."""
        self._publish_every(200)
        with ExitStack() as stack:
            clients = [stack.enter_context(each.client()) for each in self.sentinels]
            _until(
                lambda: all(self._knows_all(client) for client in clients),
                "the sentinels did not find each other",
                pause,
            )
        self._publish_every(2000)  # as usual: one that hears of a failover late must not undo it

    def _publish_every(self, milliseconds: int) -> None:
        for sentinel in self.sentinels:
            sentinel.debug(publish_period=milliseconds)

    def failover(self, sentinel: Sentinel | None = None, pause: Pause = time.sleep) -> None:
        """Begin a failover, as an operator would; the old primary goes on to answer for seconds."""
        with (sentinel or self.sentinels[0]).client() as client:
            begins = partial(_begins, client, "SENTINEL", "FAILOVER", self.service)
            _until(begins, "the sentinel began no failover", pause)

    def stop(self) -> None:
        """End all, and remove the folders; a repeated call does nothing."""
        stop_all([*self.sentinels, *self.servers])

    def __enter__(self) -> Watched:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _knows_all(self, client: redis.Redis) -> bool:
        state = _ask(client, "SENTINEL", "MASTER", self.service)
        replicas = _ask(client, "SENTINEL", "REPLICAS", self.service)
        return bool(
            int(state["num-other-sentinels"]) == len(self.sentinels) - 1
            and state["flags"] == "master"
            and len(replicas) == len(self.servers) - 1
            and all(
                each["flags"] == "slave" and each["master-link-status"] == "ok" for each in replicas
            )
        )


class _ClusterClient(redis.RedisCluster):
    """Its ``close`` closes the connections to the nodes; that of redis-py leaves them to the collector."""

    def close(self) -> None:
        redis.RedisCluster.disconnect_connection_pools(self)
        super().close()


class Cluster:
    """A cluster: primaries that share the slots evenly, each with ``replicas`` replicas.

    ``nodes`` has the primaries first, in the order of their slots.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        binary: str | Path | None = None,
        *,
        options: Sequence[str] = (),
        password: str | None = None,
        tls: Certificates | None = None,
    ) -> None:
        self.primaries = primaries
        self.nodes = [
            Server(binary, options=options, password=password, tls=tls, cluster=True)
            for _ in range(primaries * (1 + replicas))
        ]

    @property
    def url(self) -> str:
        """The address as ``Limiter(store=...)`` takes it: every node."""
        hosts = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        return self.nodes[0]._url_of(hosts, "+cluster")

    def client(self, **settings: Any) -> redis.RedisCluster:
        """Make a client of the cluster; the caller closes it."""
        return _ClusterClient.from_url(self.nodes[0].url, **{"decode_responses": True, **settings})

    def primary_of(self, key: str) -> Server:
        """Return the primary that owned this key's slot when the cluster was made."""
        return self.nodes[key_slot(key.encode()) * self.primaries // SLOTS]

    def start(self, pause: Pause = time.sleep) -> Cluster:
        """Start every node, join them, and return when each reports that the cluster is complete."""
        try:
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait(pause)
            self._join(pause)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every node and remove the folders; a repeated call does nothing."""
        stop_all(self.nodes)

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, pause: Pause = time.sleep) -> None:
        """Wait until every node knows all others, and sees every slot served."""
        with ExitStack() as stack:
            clients = [stack.enter_context(node.client()) for node in self.nodes]
            _until(
                lambda: all(_settled(client, len(clients)) for client in clients),
                "the cluster did not form",
                pause,
            )

    def _join(self, pause: Pause) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(node.client()) for node in self.nodes]
            for index, client in enumerate(clients):
                _ask(client, "CLUSTER SET-CONFIG-EPOCH", index + 1)
                if index < self.primaries:
                    first = -(-SLOTS * index // self.primaries)
                    last = -(-SLOTS * (index + 1) // self.primaries) - 1
                    _ask(client, "CLUSTER ADDSLOTSRANGE", first, last)
            # Introduce each node to each other one: gossip would do that too, but later.
            for client in clients:
                for node in self.nodes:
                    address = (node.host, node.port, node._bus_port)
                    _ask(client, "CLUSTER MEET", *address)
            ids = [str(_ask(client, "CLUSTER MYID")) for client in clients]
            for index, client in enumerate(clients[self.primaries :]):
                follows = partial(_begins, client, "CLUSTER REPLICATE", ids[index % self.primaries])
                _until(follows, "a replica did not join", pause)
        self.wait(pause)


def _ask(client: redis.Redis, *words: object) -> Any:
    return client.execute_command(*words)


def _until(is_done: Callable[[], bool], fault: str, pause: Pause) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not is_done():
        if time.monotonic() > deadline:
            raise ServerError(f"{fault} within {START_TIMEOUT:.0f} s")
        pause(0.01)


def _begins(client: redis.Redis, *words: str) -> bool:
    """Whether the server accepts the command; it must know the other ones first."""
    try:
        _ask(client, *words)
    except redis.ResponseError:
        return False
    return True


def _settled(client: redis.Redis, nodes: int) -> bool:
    info = _ask(client, "CLUSTER INFO")
    replication: Any = client.info("replication")
    return bool(
        info["cluster_state"] == "ok"
        and info["cluster_slots_ok"] == str(SLOTS)
        and info["cluster_known_nodes"] == str(nodes)
        and replication.get("master_link_status", "up") == "up"
    )

"""Coroutines: every way to say where the store is leads there; the other half of redis-py does not."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
from redis._parsers import _AsyncRESP2Parser, _AsyncRESP3Parser
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from limiter import InvalidSetting, StoreRefused, StoreUnavailable
from limiter.transport import async_connection, connect, connect_async
from service.demo.servers import HOST, Certificates, Cluster, Server, free_port
from tests.proxy import Proxy, delay, replace, swallow
from tests.transport.conftest import MakeServer
from tests.transport.support import LOG, PLENTY, Asker, all_in_time, in_loop
from tests.transport.test_stores import PASSWORD, grant

BOTH = [PLENTY, LOG]


async def works(store: Any, key: str = "u", policies: Any = BOTH) -> None:
    """It loads, counts and forgets, again after it was closed."""
    async with Asker(store, policies) as asker:
        for _ in range(2):
            await asker.open()
            await asker.ask("reset", key)
            assert await asker.hit(key, 2)
            left = (await asker.hit(key)).remaining
            assert left == min(policy.capacity for policy in asker.policies) - 3
            assert (await asker.ask("peek", key)).remaining == left
            await asker.transport.close()


def test_by_url(server: Server, subject: str, kind: str) -> None:
    """Both names of the protocol, in any case, with a database."""
    for scheme in ("redis", "valkey", "REDIS"):
        in_loop(works(f"{scheme}://{server.host}:{server.port}/3", subject), kind)
    client = redis.Redis(host=server.host, port=server.port, db=3)
    assert client.exists(f"rl:{{{subject}}}:default:v1")
    client.close()


def test_by_any_server(any_store: str, subject: str, kind: str) -> None:
    """Valkey and Redis, in both versions of the protocol."""
    for protocol in (2, 3):
        in_loop(works(f"{any_store}?protocol={protocol}", subject), kind)


@pytest.mark.parametrize("scheme", ["redis+cluster", "valkey+cluster"])
def test_by_the_url_of_a_cluster(
    cluster: Cluster, new_subject: Callable[[], str], kind: str, scheme: str
) -> None:
    """One node is enough to find the others; a dead one among them does not matter."""
    node = cluster.nodes[1]
    for hosts in (f"{HOST}:{node.port}", f"{HOST}:1,{HOST}:{node.port}"):
        for _ in range(4):
            in_loop(works(f"{scheme}://{hosts}", new_subject()), kind)


def test_by_unix_socket(server: Server, subject: str, kind: str) -> None:
    """No port at all."""
    in_loop(works(server.unix_url, subject), kind)

    async def missing() -> None:
        async with Asker("unix:///nowhere/server.sock") as asker:
            with pytest.raises(StoreUnavailable, match=r"store /nowhere/server\.sock"):
                await asker.hit("u")

    in_loop(missing(), kind)


@pytest.mark.parametrize("protocol", [2, 3])
def test_by_password(make_server: MakeServer, kind: str, protocol: int) -> None:
    """In the URL, in the query, over the socket; a wrong or missing one is refused."""
    server = make_server(password=PASSWORD)
    at = f"{HOST}:{server.port}"
    quoted = quote(PASSWORD, safe="")

    async def refused(url: str) -> None:
        async with Asker(url) as asker:
            for call in (asker.hit("u"), asker.hit("u"), asker.open()):
                with pytest.raises(StoreRefused, match="refused our credentials") as raised:
                    await call
                assert "hush" not in str(raised.value)

    for url in (
        f"redis://:{quoted}@{at}?protocol={protocol}",
        f"redis://default:{quoted}@{at}/0?protocol={protocol}",
        f"redis://{at}?password={quoted}&protocol={protocol}",
        f"unix://:{quoted}@{server.unix_socket}?protocol={protocol}",
    ):
        in_loop(works(url), kind)
    for url in (
        f"redis://{at}?protocol={protocol}",
        f"redis://:wrong@{at}?protocol={protocol}",
        f"redis://nobody:{quoted}@{at}?protocol={protocol}",
    ):
        in_loop(refused(url), kind)


def test_by_the_least_rights(guarded: Cluster, make_server: MakeServer, kind: str) -> None:
    """A user with exactly what ``limiter acl`` prints can do everything that we do."""
    server = make_server()
    for node in (server, *guarded.nodes):
        admin = node.client()
        grant(admin)
        admin.close()
    in_loop(works(f"redis://api:hush@{HOST}:{server.port}"), kind)
    for number in range(4):
        in_loop(works(guarded.url.replace("://:", "://api:"), f"u{number}"), kind)


@pytest.mark.parametrize("protocol", [2, 3])
def test_by_tls(tls_server: Server, subject: str, kind: str, protocol: int) -> None:
    """The certificate is checked, and the one connection is kept."""

    async def main() -> None:
        url = f"{tls_server.url}&protocol={protocol}"
        await works(url, subject)
        watcher = tls_server.client()
        async with Asker(url, BOTH) as asker:
            await asker.hit(subject)
            before = watcher.info("stats")["total_connections_received"]
            for _ in range(20):
                await asker.hit(subject)
                asker.connection.since -= (
                    1.0  # as if it had been silent: it is looked at before each call
                )
            assert watcher.info("stats")["total_connections_received"] == before
        watcher.close()

    in_loop(main(), kind)


def test_tls_without_any_handshake_of_redis(
    certificates: Certificates, tls_binary: Any, make_server: MakeServer, subject: str, kind: str
) -> None:
    """Session tickets that wait to be read are no sign that the server hung up."""
    server = make_server(tls_binary, tls=certificates)

    async def main() -> None:
        client = redis.asyncio.Redis(
            host=HOST,
            port=server.port,
            ssl=True,
            ssl_ca_certs=str(certificates.ca),
            protocol=2,
            driver_info=None,
        )
        async with Asker(client, BOTH) as asker:
            await asker.hit(subject)
            connection = asker.connection
            connection.since -= 1.0
            await asker.hit(subject)
            assert asker.connection is connection
        await client.aclose()

    in_loop(main(), kind)


Name = Callable[..., None]


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Name:
    """Makes the name store.example lead to these addresses, after a while."""
    really = socket.getaddrinfo

    def leads_to(*addresses: tuple[str, int], after: threading.Event | None = None) -> None:
        def look_up(host: str, *of_what: Any, **more: Any) -> list[Any]:
            if host != "store.example":
                return really(host, *of_what, **more)
            if after is not None:
                after.wait(10)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
                for address in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return leads_to


@pytest.mark.parametrize("first", ["deaf", "refuses"])
def test_a_name_of_which_one_address_leads_nowhere(
    server: Server, deaf: str, subject: str, first: str, name: Name
) -> None:
    """No address takes all the time that there is for connecting (uvloop looks names up by itself)."""
    port = int(deaf.rpartition(":")[2]) if first == "deaf" else free_port()

    async def main() -> None:
        name((HOST, port), (HOST, server.port))
        async with Asker(f"redis://store.example:{server.port}", timeout=5.0) as asker:
            assert (await asker.hit(subject)).granted == 1

    in_loop(main())


def test_a_name_of_which_no_address_leads_anywhere(deaf: str, name: Name) -> None:
    """The error says so in time, and names the store."""

    async def main(*ports: int) -> StoreUnavailable:
        name(*((HOST, port) for port in ports))
        store = "redis://store.example:1"
        async with Asker(store, timeout=5.0, connect_timeout=0.5) as asker:
            with pytest.raises(StoreUnavailable, match=r"store store\.example:1") as raised:
                await asker.hit("u")
        return raised.value

    silent = int(deaf.rpartition(":")[2])
    assert "no connection within 0.5 s" in str(in_loop(main(silent, silent)))
    assert "no connection within 0.5 s" in str(in_loop(main(silent, free_port())))
    assert "Connect" in str(in_loop(main(free_port(), free_port())))
    assert "empty" in str(in_loop(main()))


def test_nobody_complains_of_a_connection_that_was_given_up(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed as whoever waited for it was cancelled: there is nobody to fetch the error."""
    waiting = asyncio.Event()

    async def fails(*_: Any) -> None:
        try:
            waiting.set()
            await asyncio.sleep(10)  # until it is given up, which is the fault
        finally:
            raise ConnectionRefusedError

    complaints: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        asker = Asker(server.url, timeout=0.5)
        call = asyncio.ensure_future(asker.hit("u"))
        await waiting.wait()
        await asker.transport.close()
        with pytest.raises(StoreUnavailable):
            await call
        await asker.transport.close()

    monkeypatch.setattr(async_connection, "look_up", fails)
    in_loop(main(), kind)
    gc.collect()
    assert complaints == []


def test_look_ups_that_hang_leave_the_loop_its_threads(kind: str, name: Name) -> None:
    """What the application does in them, and the end of the program, wait for no name server."""
    enough, before = threading.Event(), threading.active_count()
    name(after=enough)

    async def main() -> None:
        async with Asker("redis://store.example:1", timeout=0.01, connect_timeout=0.01) as asker:
            for _ in range(40):
                with pytest.raises(StoreUnavailable, match="no connection within"):
                    await asker.hit("u")
            assert threading.active_count() <= before + 2  # they wait for one look-up
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, time.monotonic), 5)

    began = time.monotonic()
    try:
        in_loop(main(), kind)
        assert time.monotonic() - began < 8
    finally:
        enough.set()


def test_tls_to_a_name_that_the_certificate_does_not_have(tls_server: Server, kind: str) -> None:
    """What the certificate is asked for is the name, and not the address that it leads to."""

    async def main() -> None:
        async with Asker(tls_server.url.replace(HOST, "localhost"), timeout=5.0) as asker:
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate.*localhost"):
                await asker.hit("u")

    in_loop(main(), kind)


def test_tls_to_nobody_we_trust(tls_server: Server, kind: str) -> None:
    """A certificate of an unknown authority, or plain text: no decision, in time."""
    bare = f"{HOST}:{tls_server.port}"

    async def main() -> None:
        async with Asker(f"rediss://:hush@{bare}") as asker:
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                await asker.hit("u")
        async with Asker(f"redis://:hush@{bare}") as asker:
            with pytest.raises(StoreUnavailable):
                await asker.hit("u")

    in_loop(main(), kind)


def test_a_tls_handshake_that_stalls(tls_server: Server, kind: str) -> None:
    """It stalls beside the calls, which are in time."""

    async def main(url: str) -> None:
        async with Asker(url, timeout=0.1, connect_timeout=0.5) as asker:
            await all_in_time(lambda: asker.hit("u"), 0.1, 5)

    with Proxy((HOST, tls_server.port)) as proxy:
        proxy.replies = swallow
        in_loop(main(tls_server.url.replace(str(tls_server.port), str(proxy.port))), kind)


def test_a_server_gone_with_tls(
    certificates: Certificates, tls_binary: Any, make_server: MakeServer, kind: str
) -> None:
    """Its end is noticed, and the next call finds the new one."""
    server = make_server(tls_binary, tls=certificates)

    async def main() -> None:
        async with Asker(server.url) as asker:
            await asker.hit("u")
            server.restart()
            assert (await asker.hit("u")).remaining == PLENTY.limit - 1

    in_loop(main(), kind)


def test_a_cluster_by_tls(
    tls_cluster: Cluster, certificates: Certificates, new_subject: Callable[[], str], kind: str
) -> None:
    """By URL and by a client; every node's certificate is checked."""

    async def main() -> None:
        client = redis.asyncio.RedisCluster(
            host=HOST, port=tls_cluster.nodes[0].port, ssl=True, ssl_ca_certs=str(certificates.ca)
        )
        for _ in range(4):
            await works(tls_cluster.url, new_subject())
            await works(client, new_subject())

    in_loop(main(), kind)


class PythonParser(redis.asyncio.Connection):
    """A connection that does without hiredis."""

    def __init__(self, **settings: Any) -> None:
        parser = _AsyncRESP3Parser if settings.get("protocol") == 3 else _AsyncRESP2Parser
        super().__init__(**settings, parser_class=parser)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, None])
@pytest.mark.parametrize("connection", [redis.asyncio.Connection, PythonParser])
def test_by_a_client(
    server: Server, subject: str, decode: bool, protocol: Any, connection: Any
) -> None:
    """Only its connection's settings count; its decoding, retries and time-outs are not ours."""

    async def main() -> None:
        client = redis.asyncio.Redis(
            connection_pool=redis.asyncio.ConnectionPool(
                connection_class=connection,
                host=server.host,
                port=server.port,
                decode_responses=decode,
                protocol=protocol,
                socket_timeout=0.000001,
                health_check_interval=1,
                retry=Retry(ExponentialBackoff(), 9),
                max_connections=1,
                client_name="theirs",
            )
        )
        await works(client, subject)
        await client.aclose()

    in_loop(main())


def test_by_a_client_of_a_url(server: Server, subject: str, kind: str) -> None:
    """Unix sockets and databases reach us through a client as well."""

    async def main() -> None:
        for url in (server.unix_url, f"{server.url.removesuffix('/0')}/5"):
            client = redis.asyncio.Redis.from_url(url)
            await works(client, subject)
            await client.aclose()

    in_loop(main(), kind)


@pytest.mark.parametrize("protocol", [2, 3])
def test_by_a_cluster_client(
    cluster: Cluster, new_subject: Callable[[], str], kind: str, protocol: int
) -> None:
    """Its start nodes, its settings and its remapping of addresses are ours."""
    proxies = {node.port: Proxy((HOST, node.port)) for node in cluster.nodes}

    async def main() -> None:
        client = redis.asyncio.RedisCluster(
            startup_nodes=[ClusterNode(HOST, proxy.port) for proxy in proxies.values()],
            protocol=protocol,
            address_remap=lambda address: (address[0], proxies[address[1]].port),
        )
        async with Asker(client) as asker:
            for _ in range(12):
                assert await asker.hit(new_subject())
        await client.aclose()

    in_loop(main(), kind)
    assert all(proxy.connections for proxy in proxies.values())
    for proxy in proxies.values():
        proxy.close()


@pytest.mark.parametrize(
    ("make", "store", "said"),
    [
        (connect_async, redis.Redis, "redis.client.Redis, which is for Limiter"),
        (connect_async, redis.Redis, r"give AsyncLimiter a URL, .* \(redis.asyncio.Redis\)"),
        (connect, redis.asyncio.Redis, "redis.asyncio.client.Redis, which is for AsyncLimiter"),
        (connect, redis.asyncio.Redis, r"give Limiter a URL, or a client of redis \(redis.Redis\)"),
        (
            connect,
            lambda: redis.asyncio.RedisCluster(host=HOST, port=1),
            r"redis\.RedisCluster",
        ),
        (
            connect_async,
            lambda: redis.asyncio.sentinel.Sentinel([(HOST, 1)]).master_for("m"),
            "Sentinel, which is not supported yet",
        ),
        (connect_async, lambda: None, "store is a NoneType: accepted are redis://"),
        (connect_async, lambda: "redis://h:1?nonsense=1", "its options make no connection"),
        (connect_async, lambda: "redis://:hush@h/prod", r"redis://:\*\*\*@h/\*\*\*"),
    ],
)
def test_no_store(make: Any, store: Any, said: str) -> None:
    """What leads nowhere is an InvalidSetting at once, and says what to give."""
    with pytest.raises(InvalidSetting, match=said):
        make(store(), 0.1, 2.0)


def test_the_clients_of_a_sync_cluster_are_for_threads(cluster: Cluster) -> None:
    """As those of a single server."""
    node = cluster.nodes[0]
    client = redis.RedisCluster(host=HOST, port=node.port)
    with pytest.raises(InvalidSetting, match=r"redis\.asyncio\.RedisCluster"):
        connect_async(client, 0.1, 2.0)
    client.close()


def test_nothing_is_connected_before_it_is_needed(own: Server) -> None:
    """Making a transport is free of I/O, outside of any event loop, so that a module may do it."""
    client = own.client()
    before = client.info("stats")["total_connections_received"]
    connect_async(own.url, 0.1, 2.0)
    assert client.info("stats")["total_connections_received"] == before
    client.close()


def test_a_server_that_quotes_our_password(proxy: Proxy) -> None:
    """A server that does not know the command of the handshake says what it got; we do not."""
    proxy.replies = replace(
        b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2' \r\n"
    )

    async def main() -> None:
        async with Asker(proxy.url.replace("//", "//:hunter2@")) as asker:
            with pytest.raises(StoreRefused) as raised:
                await asker.hit("u")
        error: BaseException | None = raised.value
        while error is not None:
            assert "hunter2" not in str(error)
            error = error.__cause__

    in_loop(main())


def test_opening_may_take_as_long_as_connecting(proxy: Proxy, kind: str) -> None:
    """Nobody waits for a decision: a slow answer to the loading of a script is good enough."""
    proxy.replies = delay(0.15)

    async def main() -> None:
        async with Asker(proxy.url, timeout=0.05) as asker:
            await asker.open()

    in_loop(main(), kind)

"""Coroutines: every accepted form of ``store`` reaches it; clients of sync redis-py are refused."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from limiter import InvalidSetting, StoreUnavailable
from limiter.transport import connect, connect_async, redispy
from limiter.transport.name_lookup import AGAIN_AFTER, MOST_THREADS
from service.demo.servers import HOST, Certificates, Cluster, Server, free_port
from tests.transport.conftest import MakeServer
from tests.transport.support import LOG, PLENTY, Asker, decides_soon, in_loop

BOTH = [PLENTY, LOG]


Name = Callable[..., None]


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Name:
    """Makes the name store.example resolve to these addresses, after a while."""
    really = socket.getaddrinfo

    def leads_to(*addresses: tuple[str, int], after: threading.Event | None = None) -> None:
        def look_up(host: str, *of_what: Any, **more: Any) -> list[Any]:
            if host != "store.example":
                return really(host, *of_what, **more)
            if after is not None:
                after.wait(60)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
                for address in addresses
            ]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return leads_to


@pytest.mark.parametrize("first", ["deaf", "refuses"])
async def test_a_name_of_which_one_address_leads_nowhere(
    server: Server, deaf: str, subject: str, first: str, name: Name, kind: str
) -> None:
    """No address takes the whole connect_timeout."""
    port = int(deaf.rpartition(":")[2]) if first == "deaf" else free_port()
    name((HOST, port), (HOST, server.port))
    async with Asker(f"redis://store.example:{server.port}", timeout=20.0) as asker:
        assert (await asker.hit(subject)).granted == 1


@pytest.mark.slow
def test_a_name_of_which_no_address_leads_anywhere(deaf: str, name: Name) -> None:
    """The error comes in time, and names the store."""

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
    assert "store.example has no address" in str(in_loop(main()))


def test_no_warning_of_a_cancelled_connection(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt failed while its caller was cancelled: no caller is left to retrieve the error."""
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

    monkeypatch.setattr(redispy, "connected_in_loop", fails)
    in_loop(main(), kind)
    gc.collect()
    assert complaints == []


def test_look_ups_that_hang_leave_the_loop_its_threads(kind: str, name: Name) -> None:
    """Neither the application's work in them nor the end of the program waits for a name server."""
    enough, before = threading.Event(), threading.active_count()
    name(after=enough)
    # A port of its own: look-ups of one name and port share their threads, also with an earlier test's.
    store = f"redis://store.example:{free_port()}"

    async def main() -> None:
        async with Asker(store, timeout=0.01, connect_timeout=0.01) as asker:
            for _ in range(40):
                with pytest.raises(StoreUnavailable, match="no connection within"):
                    await asker.hit("u")
            assert threading.active_count() <= before + 1 + MOST_THREADS
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, time.monotonic), 20)

    began = time.monotonic()
    try:
        in_loop(main(), kind)
        assert time.monotonic() - began < 30
    finally:
        enough.set()


def test_a_name_server_that_answers_again(
    server: Server, subject: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Look-ups that began before hang on, and new ones are answered."""
    really, enough, hung = socket.getaddrinfo, threading.Event(), []
    answers = False

    def look_up(host: str, *of_what: Any, **more: Any) -> list[Any]:
        if not answers:
            hung.append(host)
            enough.wait(60)
        return really(HOST, *of_what, **more)

    async def main() -> None:
        nonlocal answers
        async with Asker(f"redis://store.example:{server.port}", timeout=0.1) as asker:
            with pytest.raises(StoreUnavailable, match="no connection within the deadline"):
                await asker.hit(subject)
            assert hung
            answers, began = True, time.monotonic()
            await decides_soon(asker, subject)
            assert time.monotonic() - began < AGAIN_AFTER + 2.0  # a busy machine stalls

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        in_loop(main(), kind)
    finally:
        enough.set()


async def test_tls_to_a_name_that_the_certificate_does_not_have(
    tls_server: Server, kind: str
) -> None:
    """The certificate is checked for the name, and not for the address that it resolves to."""
    async with Asker(tls_server.url.replace(HOST, "localhost"), timeout=5.0) as asker:
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate.*localhost"):
            await asker.hit("u")


async def test_a_server_gone_with_tls(
    certificates: Certificates, tls_binary: Any, make_server: MakeServer, kind: str
) -> None:
    """The end of the old connection is noticed, and the next call finds the new server."""
    server = make_server(tls_binary, tls=certificates)
    async with Asker(server.url) as asker:
        await asker.hit("u")
        server.restart()
        assert (await asker.hit("u")).remaining == PLENTY.limit - 1


def client_of_replicas(kit: Any) -> Any:
    """A client of a Sentinel's replicas, which accept no charges."""
    return kit.sentinel.Sentinel([(HOST, 1)]).replica_for("m")


@pytest.mark.parametrize(
    ("make", "store", "said"),
    [
        (connect_async, redis.Redis, "redis.client.Redis, which is for Limiter"),
        (connect_async, redis.Redis, r"give AsyncLimiter a URL, .* \(redis.asyncio.Redis\)"),
        (connect, redis.asyncio.Redis, "redis.asyncio.client.Redis, which is for AsyncLimiter"),
        (connect, redis.asyncio.Redis, r"give Limiter a URL, or a client of redis \(redis.Redis\)"),
        (connect, lambda: redis.asyncio.RedisCluster(host=HOST, port=1), r"redis\.RedisCluster"),
        (connect, lambda: client_of_replicas(redis), "replicas, .* master_for"),
        (connect_async, lambda: client_of_replicas(redis.asyncio), "master_for"),
        (connect_async, lambda: None, "store is a NoneType: expected redis://"),
        (connect_async, lambda: "redis://h:1?nonsense=1", "its options are wrong"),
        (connect_async, lambda: "redis://:hush@h/prod", r"redis://:\*\*\*@h/\*\*\*"),
    ],
)
def test_no_store(make: Any, store: Any, said: str) -> None:
    """A wrong ``store`` is an InvalidSetting at once, and the message says what to give."""
    with pytest.raises(InvalidSetting, match=said):
        make(store(), 0.1, 2.0)


def test_the_clients_of_a_sync_cluster_are_for_threads(cluster: Cluster) -> None:
    """As those of a single server."""
    client = cluster.client()
    with pytest.raises(InvalidSetting, match=r"redis\.asyncio\.RedisCluster"):
        connect_async(client, 0.1, 2.0)
    client.close()

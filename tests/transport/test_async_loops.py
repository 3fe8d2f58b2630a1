"""Event loops, threads and processes share a transport; each has its own connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import warnings
import weakref

import pytest

from service.demo.servers import Cluster, Server
from tests.parallel import in_child, in_threads
from tests.proxy import Proxy, delay
from tests.transport.support import PLENTY, Asker, in_loop, loops, new_loop, soon, until


def clients(server: Server) -> int:
    """The server's connections, without that of the client which asks."""
    watcher = server.client()
    count = len(watcher.client_list()) - 1
    watcher.close()
    return count


@pytest.mark.slow(4)
@pytest.mark.parametrize("where", ["single", "cluster"])
def test_loops_in_threads(
    store: str, cluster: Cluster, subject: str, kind: str, where: str
) -> None:
    """Eight loops at once: every call gets its own reply, and no connection is shared."""
    asker = Asker(store if where == "single" else cluster.url, timeout=20.0)

    async def main(number: int) -> None:
        async def worker(which: int) -> None:
            for calls in range(1, 11):
                found = await asker.hit(f"{subject}-{number}-{which}", number + 1)
                assert found.remaining == PLENTY.limit - calls * (number + 1)
                await asker.hit(subject)

        await asyncio.gather(*(worker(which) for which in range(5)))

    in_threads(8, lambda number: in_loop(main(number), kind))
    assert in_loop(asker.used(subject), kind) == 400
    assert not asker.transport._by_loop


def test_one_loop_after_the_other(own: Server, kind: str) -> None:
    """A closed loop leaves no connection, no memory, and no warning."""
    asker = Asker(own.url)
    known = []

    async def main() -> None:
        known.append(weakref.ref(asyncio.get_running_loop()))
        await asker.hit("u")
        assert clients(own) == 1

    for _ in range(3):
        in_loop(main(), kind)
        until(lambda: clients(own) == 0)
    gc.collect()
    assert [ref() for ref in known] == [None] * 3
    assert in_loop(asker.used("u"), kind) == 3


def test_a_loop_that_was_closed_at_once(own: Server, kind: str) -> None:
    """The loop was closed without a shutdown; the next loop, or the end of the transport, cleans up."""
    for forgotten in (False, True):
        asker = Asker(own.url)
        for _ in range(2):
            loop = new_loop(kind)
            assert loop.run_until_complete(asker.hit("u"))
            with warnings.catch_warnings():
                if kind == "uvloop":  # it logs a warning before the transport can know of the end
                    warnings.simplefilter("ignore")
                loop.close()
        if forgotten:
            del loop, asker
            gc.collect()
        else:
            in_loop(asker.hit("u"), kind)
        until(lambda: clients(own) == 0)


async def test_a_transport_that_is_forgotten_leaves_nothing(
    own: Server, cluster: Cluster, kind: str
) -> None:
    """Connections are closed with the object that had them, while the loop goes on."""
    for url in (own.url, cluster.url):
        asker = Asker(url)
        await asker.hit("u")
        del asker

    async def gone() -> bool:
        gc.collect()
        return clients(own) == 0

    await soon(gone)


async def test_forgotten_in_another_thread(own: Server, kind: str) -> None:
    """The loop of the connections closes them."""
    askers = [Asker(own.url)]
    await askers[0].hit("u")
    thread = threading.Thread(target=askers.clear)
    thread.start()

    async def gone() -> bool:
        return clients(own) == 0

    await soon(gone)
    thread.join()


async def test_forgotten_while_it_connects(proxy: Proxy, kind: str) -> None:
    """The late connection is closed."""
    proxy.replies = delay(0.05)
    asker = Asker(proxy.url, timeout=0.02)
    with contextlib.suppress(Exception):
        await asker.hit("u")
    del asker

    async def gone() -> bool:
        gc.collect()
        return not proxy._open

    await soon(gone)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.03])
def test_a_loop_that_ends_while_it_connects(proxy: Proxy, kind: str, after: float) -> None:
    """No warning is logged about a connection that was half made."""
    proxy.replies = delay(0.01)

    async def main() -> None:
        call = asyncio.ensure_future(Asker(proxy.url).hit("u"))
        await asyncio.sleep(after)
        call.cancel()

    in_loop(main(), kind)
    until(lambda: not proxy._open)


def test_a_loop_that_ends_with_calls_under_way(proxy: Proxy, subject: str, kind: str) -> None:
    """Their tasks are cancelled, the connection is closed."""

    async def main() -> None:
        asker = Asker(proxy.url)
        await asker.hit(subject)
        proxy.replies = delay(0.2)
        for _ in range(5):
            calls.append(asyncio.ensure_future(asker.hit(subject)))
        await asyncio.sleep(0.01)

    calls: list[asyncio.Future[object]] = []
    in_loop(main(), kind)
    assert all(call.cancelled() for call in calls)
    until(lambda: not proxy._open)


def test_a_fork_has_its_own_connections(own: Server, kind: str) -> None:
    """Children begin with their own loops, also if they were forked in the middle of one."""
    asker = Asker(own.url)
    left = Asker(own.url)

    def child() -> None:
        gc.collect()  # the child's copies must not close the parent's connections

        async def main() -> None:
            async with asker:
                for number in range(20):
                    key = f"{os.getpid()}-{number}"
                    assert (await asker.hit(key)).remaining == PLENTY.limit - 1
                assert await asker.hit("u")

        in_loop(main(), kind)

    async def main() -> None:
        await asker.hit("u")
        await left.hit("u")
        connection = asker.connection
        for _ in range(3):
            assert in_child(child) == 0
            assert (await asker.hit("u")).granted == 1
            assert (await left.hit("u")).granted == 1
        assert asker.connection is connection
        assert not connection.closed
        await asker.transport.close()
        await left.transport.close()

    in_loop(main(), kind)
    assert in_loop(asker.used("u"), kind) == 11
    in_loop(asker.transport.close(), kind)


async def test_a_child_does_not_hold_its_parents_connections(own: Server, kind: str) -> None:
    """When the parent closes a connection, the server sees its end, while the child lives."""
    asker = Asker(own.url)
    await asker.hit("u")
    going, ended = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ended)
        os.read(going, 1)  # until the parent has closed its end
        os._exit(0)
    os.close(going)
    try:
        await asker.transport.close()
        until(lambda: clients(own) == 0)
    finally:
        os.close(ended)
        os.waitpid(pid, 0)


def test_asyncio_run(own: Server) -> None:
    """As users do: one transport, one ``asyncio.run`` after the other, never closed."""
    asker = Asker(own.url)
    for _ in range(3):
        assert asyncio.run(asker.hit("u"), debug=True)
    until(lambda: clients(own) == 0)
    assert asyncio.run(asker.used("u")) == 3


def test_uvloop_is_tested_where_it_has_wheels() -> None:
    """The extra ``test`` installs uvloop; without a wheel of it, only asyncio's loop is tested."""
    assert "asyncio" in loops()

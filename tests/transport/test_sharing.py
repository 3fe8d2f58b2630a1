"""Threads share a limiter, forks inherit it, and servers close connections at any time."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from limiter import Limiter, StoreRefused, StoreUnavailable
from limiter.transport import node as node_module
from limiter.transport.connection import Connection
from limiter.transport.node import IDLE_KEPT, Node
from limiter.transport.redirects import SEARCH_EVERY
from limiter.transport.wire import command
from service.demo.servers import Cluster, Server
from tests.parallel import in_child, in_threads
from tests.proxy import Proxy, delay
from tests.transport.conftest import MakeLimiter
from tests.transport.support import LOG, PLENTY, until, used

PING = command("PING")


@pytest.mark.parametrize("policy", [PLENTY, LOG], ids=lambda policy: policy.algorithm)
def test_64_threads(make_limiter: MakeLimiter, store: str, subject: str, policy: object) -> None:
    """Every thread gets its own replies, and every call is charged once."""
    # 64 threads on few cores: a call may wait long for its turn, which this does not test.
    limiter = make_limiter(store, policy, timeout=20.0)

    def work(number: int) -> None:
        for calls in range(1, 11):
            left = limiter.hit(f"{subject}-{number}", cost=number + 1).remaining
            assert left == limiter.policies[0].capacity - calls * (number + 1)
            limiter.hit(subject)

    in_threads(64, work)
    assert used(limiter, subject) == 640
    assert len(limiter._core.transport._node._idle) <= IDLE_KEPT  # type: ignore[attr-defined]


def test_64_threads_on_a_cluster(make_limiter: MakeLimiter, cluster: Cluster, subject: str) -> None:
    """The slot table was not read before: one call reads it, and the others wait for that."""
    limiter = make_limiter(cluster.url, timeout=20.0)

    def work(number: int) -> None:
        for calls in range(1, 6):
            assert limiter.hit(f"{subject}-{number}").remaining == PLENTY.limit - calls

    in_threads(64, work)
    assert limiter._core.transport._table.readings == 1  # type: ignore[attr-defined]


def test_as_many_connections_as_callers(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str
) -> None:
    """No call waits for a pool: none of 40 gets its reply before all of them were sent."""
    limiter = make_limiter(proxy.url, timeout=30.0).open()
    all_sent, decisions = threading.Barrier(40), []

    def wait_for_all(data: bytes) -> bytes:
        if data.startswith((b"*", b"$")):  # no answer of a handshake
            decisions.append(all_sent.wait(20))
        return data

    proxy.replies = wait_for_all
    in_threads(40, lambda _: bool(limiter.hit(subject)))
    assert len(decisions) == 40
    proxy.mend()
    assert used(limiter, subject) == 40


def test_a_fork_has_its_own_connections(make_limiter: MakeLimiter, own: Server) -> None:
    """Child processes and parent call at the same time, and each reply reaches its own call."""
    limiter = make_limiter(own.url).open()
    limiter.hit("u")

    def hammer() -> None:
        for number in range(30):
            key = f"{os.getpid()}-{len(children)}-{number}"
            assert limiter.hit(key, cost=number + 1).remaining == PLENTY.limit - number - 1

    children: list[int] = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                hammer()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
        hammer()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * 4
    assert used(limiter, "u") == 1


@pytest.mark.parametrize("kind", ["single", "cluster"])
def test_preload_and_fork_many(
    make_limiter: MakeLimiter, store: str, cluster: Cluster, subject: str, kind: str
) -> None:
    """As with gunicorn: used before, forked again and again, while other threads call."""
    gc.freeze()  # the children collect what this test makes: a look at all older objects would copy them
    limiter = make_limiter(store if kind == "single" else cluster.url, timeout=20.0).open()
    going = threading.Event()
    counts: Counter[str] = Counter()

    def busy(number: int) -> None:
        while not going.is_set():
            limiter.hit(f"{subject}-busy")
            counts["parent"] += 1

    threads = [threading.Thread(target=busy, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_child(lambda: _hit_twice(limiter, subject)) for _ in range(10)]
    finally:
        going.set()
        for thread in threads:
            thread.join()
        gc.unfreeze()
    assert codes == [0] * 10
    assert used(limiter, subject) == 20
    assert used(limiter, f"{subject}-busy") == counts["parent"]


def _hit_twice(limiter: Limiter, key: str) -> None:
    gc.collect()  # the child's copies must not close the parent's connections
    limiter.hit(key)
    limiter.hit(key)


def test_a_fork_in_the_middle_of_connecting(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str
) -> None:
    """Locks that threads of the parent held are free in the child."""
    limiter = make_limiter(proxy.url, timeout=20.0)
    proxy.replies = delay(0.1)
    callers = [threading.Thread(target=limiter.hit, args=(subject,)) for _ in range(4)]
    for caller in callers:
        caller.start()
    until(lambda: proxy.connections)
    assert in_child(lambda: _hit_twice(limiter, subject)) == 0
    for caller in callers:
        caller.join()
    assert used(limiter, subject) == 6


def test_connections_that_were_killed(make_limiter: MakeLimiter, own: Server) -> None:
    """CLIENT KILL on all of them: the next calls notice before they send anything."""
    limiter = make_limiter(own.url, timeout=5.0).open()
    in_threads(8, lambda _: bool(limiter.hit("u")))
    client = own.client()
    client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    client.close()
    # On a busy machine the end of a connection is noticed a little later.
    until(
        lambda: not any(connection.is_open() for connection in limiter._core.transport._node._idle)
    )
    assert [limiter.hit("u").remaining for _ in range(10)] == [
        PLENTY.limit - calls for calls in range(9, 19)
    ]


def test_a_restarted_server(make_limiter: MakeLimiter, own: Server) -> None:
    """Its connections and scripts are gone, but no call fails."""
    limiter = make_limiter(own.url, timeout=5.0).open()
    in_threads(4, lambda _: bool(limiter.hit("u")))
    own.restart()
    assert limiter.hit("u").remaining == PLENTY.limit - 1


@pytest.mark.slow
def test_connections_that_were_idle_too_long(
    make_limiter: MakeLimiter, make_server: Callable[..., Server]
) -> None:
    """The server's own ``timeout`` closes them; no call fails."""
    server = make_server(options=["--timeout", "1"])
    limiter = make_limiter(server.url).open()
    limiter.hit("u")
    connection = limiter._core.transport._node._idle[0]  # type: ignore[attr-defined]
    until(lambda: not connection.is_open())  # the server's second has to pass
    assert limiter.hit("u").remaining == PLENTY.limit - 2


def unheard(limiter: Limiter, key: str) -> None:
    """A call that gets no answer."""
    limiter._core.transport.run(limiter._core.plan.call("hit", key, 1), time.monotonic() + 0.1)


def untold(limiter: Limiter, key: str) -> None:
    """A command that gets no reply."""
    transport: Any = limiter._core.transport
    transport.ask(transport._node, PING, time.monotonic() + 0.1)


@pytest.mark.parametrize(
    ("silent", "call"),
    [(b"", unheard), (b"EVAL\r\n", unheard), (b"", untold)],
    ids=["call", "second try", "command"],
)
def test_idle_connections_that_went_dead_in_silence(
    make_limiter: MakeLimiter,
    proxy: Proxy,
    own: Server,
    silent: bytes,
    call: Callable[[Limiter, str], None],
) -> None:
    """A firewall forgot all of them: one call fails, and the others get new connections."""
    proxy.target = (own.host, own.port)
    limiter = make_limiter(proxy.url, timeout=5.0)
    node = limiter._core.transport._node  # type: ignore[attr-defined]
    for connection in [node.take(time.monotonic() + 5) for _ in range(IDLE_KEPT)]:
        node.give(connection)
    proxy.requests = lambda data: b"" if silent in data else data
    with pytest.raises(StoreUnavailable, match="no answer within the deadline"):
        call(limiter, "u")
    assert not node.has_idle
    proxy.mend()
    assert limiter.hit("u")


def test_connections_that_were_used_since_are_kept(
    make_limiter: MakeLimiter, proxy: Proxy, subject: str
) -> None:
    """A lost reply does not close a connection that was used later."""
    limiter = make_limiter(proxy.url).open()
    node = limiter._core.transport._node  # type: ignore[attr-defined]
    older, lost, newer = (node.take(time.monotonic() + 5) for _ in range(3))
    for connection in (older, lost, newer):
        connection.execute(PING, time.monotonic() + 5)
    node.give(older)
    node.give(newer)
    node.distrust(lost)
    assert node._idle == [newer]
    lost.close()
    assert limiter.hit(subject)


def test_a_connection_that_was_just_taken_is_not_closed() -> None:
    """While one thread closes idle connections, another thread takes one of them."""
    node = Node(lambda: None, "store", 5.0, ("localhost", 0))

    class JustTaken(Connection):
        @property
        def used_at(self) -> float:  # type: ignore[override]
            node._idle.remove(self)
            return 0.0

        def close(self) -> None:
            raise AssertionError("another caller uses it")

    connection = JustTaken.__new__(JustTaken)
    node._idle.append(connection)
    node.drop_idle()
    assert not node.has_idle


class Opened:
    """A connection that is open, and was opened just now."""

    def __init__(self, *_: object) -> None:
        self.opened_at = self.used_at = time.monotonic()
        self.closed = False

    def is_open(self) -> bool:
        """Nothing is left to read."""
        return True

    def close(self) -> None:
        """Note it."""
        self.closed = True


def test_connections_to_a_replica_are_replaced_if_a_new_one_may_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until a new connection also leads to a replica, and again when one leads to a primary."""
    monkeypatch.setattr(node_module, "Connection", Opened)
    node: Any = Node(object, "store", 5.0, ("localhost", 0))
    until_soon = time.monotonic() + 30
    old = [node.take(until_soon) for _ in range(5)]
    # The first one begins a search; no reply to its new connection has come when the second one asks.
    new = [node.replace(old[number], until_soon) for number in (0, 1)]
    assert old[0].closed
    assert old[1].closed
    # A replica, too: connections are kept, except for one in each SEARCH_EVERY.
    assert node.replace(new[0], until_soon) is None
    assert node.replace(old[2], until_soon) is new[0]
    assert node._idle == [old[2]]
    assert node.replace(old[3], until_soon) is None
    assert node._idle == [old[2], old[3]]
    node._searched_at -= SEARCH_EVERY
    newest = node.replace(new[1], until_soon)
    assert new[1].closed
    assert node.replace(old[4], until_soon) is None
    # It leads to a primary: the others are of no use any more.
    node.found_primary(newest)
    assert node._idle == []
    assert old[4].closed
    node.give(newest)
    assert node.replace(new[0], until_soon) is newest


def test_a_failed_attempt_to_connect_is_the_failure_of_one_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others wait for their attempts, which succeed."""
    others = threading.Barrier(4)
    attempts = itertools.count()

    def connect() -> object:
        if next(attempts) == 3:
            raise ConnectionRefusedError
        others.wait(10)
        return object()

    monkeypatch.setattr(node_module, "Connection", lambda *_: SimpleNamespace(is_open=lambda: True))
    node = Node(connect, "store", 5.0, ("localhost", 0))  # type: ignore[arg-type]
    outcomes: list[str] = []

    def take() -> None:
        try:
            node.take(time.monotonic() + 10)
            outcomes.append("connected")
        except StoreUnavailable:
            outcomes.append("refused")

    callers = [threading.Thread(target=take) for _ in range(4)]
    for caller in callers:
        caller.start()
    until(lambda: "refused" in outcomes)
    others.wait(10)
    for caller in callers:
        caller.join(10)
    assert sorted(outcomes) == ["connected"] * 3 + ["refused"]


def test_closed_while_it_connects(make_limiter: MakeLimiter, proxy: Proxy, subject: str) -> None:
    """A connection that is made after its limiter was closed is closed, too."""
    limiter = make_limiter(proxy.url, timeout=5.0)
    node = limiter._core.transport._node  # type: ignore[attr-defined]
    proxy.replies = delay(0.1)
    with pytest.raises(StoreUnavailable, match="no connection within the deadline"):
        node.take(time.monotonic() + 0.05)
    limiter.close()
    until(lambda: not node._connecting)
    assert not node.has_idle
    until(lambda: not proxy._open)
    assert limiter.hit(subject)


def test_closed_while_connections_are_in_use(
    make_limiter: MakeLimiter, store: str, subject: str
) -> None:
    """They are closed when their calls end, also one that is made later. The next call keeps its own."""
    limiter = make_limiter(store)
    node = limiter._core.transport._node  # type: ignore[attr-defined]
    in_use = node.take(time.monotonic() + 10)
    limiter.close()
    later = node.take(time.monotonic() + 10)
    for connection in (in_use, later):
        node.give(connection)
        assert not node.has_idle
    assert limiter.hit(subject)
    assert node.has_idle


def test_a_node_that_has_left_keeps_no_connection(make_limiter: MakeLimiter, store: str) -> None:
    """A call that is under way still has one."""
    node = make_limiter(store)._core.transport._node  # type: ignore[attr-defined]
    in_use = node.take(time.monotonic() + 10)
    node.leave()
    later = node.take(time.monotonic() + 10)
    for connection in (in_use, later):
        assert connection.is_open()
        node.give(connection)
        assert not node.has_idle


def test_a_caller_outlives_a_close(make_limiter: MakeLimiter, proxy: Proxy, subject: str) -> None:
    """Another caller that waits for a connection gets one."""
    limiter = make_limiter(proxy.url, timeout=20.0)
    proxy.replies = delay(0.1)
    caller = threading.Thread(target=limiter.hit, args=(subject,))
    caller.start()
    until(lambda: proxy.connections)
    limiter.close()
    caller.join()
    assert used(limiter, subject) == 1


def test_close_then_use(make_limiter: MakeLimiter, own: Server) -> None:
    """``close`` closes the idle connections; the limiter can still be used."""
    limiter = make_limiter(own.url)
    watcher = own.client()
    for _ in range(3):
        with limiter as opened:
            assert opened is limiter
            assert limiter.hit("u")
        until(lambda: len(watcher.client_list()) == 1)
    assert limiter.hit("u")
    watcher.close()


def test_close_a_cluster_then_use(make_limiter: MakeLimiter, cluster: Cluster) -> None:
    """As above, for every node."""
    limiter = make_limiter(cluster.url)
    for _ in range(2):
        with limiter:
            assert limiter.hit("u")
    assert not [node for node in limiter._core.transport._table.nodes.values() if node._idle]  # type: ignore[attr-defined]
    assert limiter.hit("u")


def test_a_limiter_that_is_forgotten_leaves_nothing(own: Server) -> None:
    """Connections are closed with the object that had them."""
    watcher = own.client()
    limiter = Limiter("5/minute", store=own.url).open()
    limiter.hit("u")
    assert len(watcher.client_list()) == 2
    del limiter
    gc.collect()
    until(lambda: len(watcher.client_list()) == 1)
    watcher.close()


class Taken(list):  # type: ignore[type-arg]
    """Idle connections of which another thread takes one after each check."""

    def pop(self, *index: int) -> object:
        """Pretend that the last one was taken in between."""
        super().pop(*index)
        raise IndexError


def test_other_threads_are_faster(make_limiter: MakeLimiter, store: str, subject: str) -> None:
    """A caller finds an idle connection, then none: it waits for another one."""
    limiter = make_limiter(store).open()
    node = limiter._core.transport._node  # type: ignore[attr-defined]
    node._idle = Taken(node._idle * 3)
    began = time.monotonic()
    node._connecting = {began}  # one is being made: it will come
    maker = threading.Timer(0.05, node._open_one, [began])
    maker.start()
    with pytest.raises(StoreUnavailable, match="no connection within the deadline"):
        node.take(time.monotonic() + 0.2)
    maker.join()
    node._idle = []
    assert limiter.hit(subject)


def test_more_clients_than_the_server_lets_in(
    make_limiter: MakeLimiter, make_server: Callable[..., Server]
) -> None:
    """``maxclients`` makes the store unavailable, until there is room again.

    The error of a node of a cluster has another text, which redis-py does not know.
    """
    for more, scheme in (([], "redis"), (["--cluster-enabled", "yes"], "redis+cluster")):
        server = make_server(options=["--maxclients", "3", *more])
        url = server.url.removesuffix("/0")
        others = [server.client() for _ in range(3)]
        for other in others:
            other.ping()
        for store in {url, url.replace("redis", scheme, 1)}:
            with pytest.raises(StoreUnavailable, match=r"max number of clients|closed"):
                make_limiter(store, timeout=1.0).hit("u")
        allowing = make_limiter(url, timeout=1.0, on_error="allow")
        assert allowing.hit("u").degraded
        for other in others:
            other.close()
        if not more:  # the cluster has no slots
            until(lambda: not allowing.hit("u").degraded)  # noqa: B023


def test_an_older_attempt_that_fails_is_not_held_against_a_caller(store: str) -> None:
    """An earlier caller began to connect and gave up; its failure does not count for the next attempt."""
    fail, made = threading.Event(), []

    class Late(redis.Connection):
        def connect(self) -> None:
            made.append(self)
            if len(made) == 1:
                fail.wait(10)
                raise redis.ConnectionError("closed by the server")
            super().connect()

    settings = redis.ConnectionPool.from_url(store).connection_kwargs
    node = Node(lambda: Late(**settings), "store", 5.0, ("localhost", 0))
    with pytest.raises(StoreUnavailable, match="no connection within the deadline"):
        node.take(time.monotonic() + 0.05)
    taken: list[Connection] = []
    caller = threading.Thread(target=lambda: taken.append(node.take(time.monotonic() + 5)))
    caller.start()
    until(lambda: node._waiting)
    fail.set()
    caller.join()
    assert len(made) == 2
    taken[0].close()


def test_a_reply_that_cannot_be_read(store: str) -> None:
    """An array that does not fit into memory, for example: no decision is made from it."""

    def stumble(*_: Any) -> None:
        raise MemoryError

    settings = redis.ConnectionPool.from_url(store).connection_kwargs
    connection = Connection(redis.Connection(**settings), "store")
    connection._feed = stumble
    with pytest.raises(StoreRefused, match="something other than Redis's protocol"):
        connection.execute(PING, time.monotonic() + 5)


def test_a_hanging_look_up_does_not_keep_the_next_from_beginning(store: str) -> None:
    """It takes longer than connecting may: others begin beside it, one at a time."""
    enough, made = threading.Event(), []
    hanging = True

    class Hanging(redis.Connection):
        def connect(self) -> None:
            made.append(self)
            if hanging:
                enough.wait(10)
                raise redis.ConnectionError("no such host")
            super().connect()

    settings = redis.ConnectionPool.from_url(store).connection_kwargs
    node = Node(lambda: Hanging(**settings), "store", 1.0, ("localhost", 0))

    def gives_up(number: int) -> None:
        with pytest.raises(StoreUnavailable, match="no connection within the deadline"):
            node.take(time.monotonic() + 0.5)

    in_threads(4, gives_up)
    assert len(made) == 4
    time.sleep(1.0)  # the time that connecting may take has to pass
    in_threads(4, gives_up)
    assert len(made) == 5
    hanging = False
    node.take(time.monotonic() + 5).close()  # it waits until the fifth has had its time
    assert len(made) == 6
    enough.set()
    until(lambda: not node._connecting)
    assert not node.has_idle

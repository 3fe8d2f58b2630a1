"""Private names of redis-py: used in one module, checked when it is imported."""

from __future__ import annotations

import ast
import asyncio
import logging
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import limiter
from limiter import StoreRefused
from limiter.transport import redispy
from limiter.transport.store import ASYNC, read_store
from service.demo.servers import HOST, Cluster, Server
from tests.proxy import Proxy
from tests.transport.conftest import Maker
from tests.transport.support import in_loop, outcome
from tests.waiting import soon

PRIVATE = {"_sock", "_parser", "_parsers", "_reader", "_writer", "_connection_arguments", "_close"}
PRIVATE |= {"_ssl_protocol"}


def test_one_module_uses_private_names() -> None:
    """Private attributes of anything but ``self`` or a module are used in one module only."""
    users = set()
    for path in Path(limiter.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_own = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self"
            if isinstance(node, ast.Attribute) and node.attr in PRIVATE and not is_own:
                users.add(path.name)
            if isinstance(node, ast.ImportFrom) and "._" in (node.module or ""):
                users.add(path.name)
    assert users == {"redispy.py"}


@pytest.mark.parametrize(
    ("half", "name"),
    [("asyncio.connection.AbstractConnection", "_close"), ("connection.Connection", "can_read")],
)
def test_a_redis_py_that_lacks_a_name_is_refused_at_import(half: str, name: str) -> None:
    """The error has the version found, and the one to install; the first hit would be too late."""
    code = (
        f"import redis.asyncio.connection, redis.connection\n"
        f"for kind in redis.{half}.__mro__:\n"
        f"    if {name!r} in vars(kind): delattr(kind, {name!r})\n"
        f"import limiter"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: redis-py is {redis.__version__}, which has no ")
    assert last.endswith(
        f".{name}: expected 8.0 and later, below 9; pip install 'redis[hiredis]>=8.0,<9'"
    )


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py has renamed an attribute that we use when we connect."""

    def renamed(*_: Any) -> Any:
        raise AttributeError("'Connection' object has no attribute '_sock'")

    async def renamed_in_loop(*_: Any) -> Any:
        renamed()

    monkeypatch.setattr(redispy, "connected", renamed)
    monkeypatch.setattr(redispy, "connected_in_loop", renamed_in_loop)


@pytest.mark.parametrize("on_error", ["allow", "local", "deny"])
@pytest.mark.parametrize("where", ["single", "cluster"])
@pytest.mark.usefixtures("broken")
def test_a_fault_in_the_code_admits_no_call(
    make_any: Maker,
    store: str,
    cluster: Cluster,
    caplog: pytest.LogCaptureFixture,
    where: str,
    on_error: str,
) -> None:
    """Only a failing store may lead to ``on_error``; the log has one traceback, not one for each call."""
    url = store if where == "single" else cluster.url
    limiter = make_any(url, "2/minute", on_error=on_error, timeout=5.0)
    for _ in range(5):
        with pytest.raises(StoreRefused, match="AttributeError: 'Connection'"):
            limiter.hit("u")
    faults = [record for record in caplog.records if record.levelno == logging.ERROR]
    # Each node of a cluster is logged by itself.
    assert 1 <= len(faults) <= (1 if where == "single" else 3)
    assert all(record.exc_info and record.exc_info[0] is AttributeError for record in faults)


def test_the_settings_of_a_client_that_count(make_any: Maker, server: Server, subject: str) -> None:
    """The server sees the client's name; settings for redis-py alone never reach our connections."""
    own = {"client_name": f"of-{subject}", "socket_timeout": 1e-9, "retry_on_error": [OSError]}
    client = make_any.client("Redis", host=server.host, port=server.port, **own)
    assert make_any(client, "2/minute", timeout=5.0).hit(subject)
    with redis.Redis(host=server.host, port=server.port) as admin:
        assert own["client_name"] in {client["name"] for client in admin.client_list()}


def test_settings_by_name() -> None:
    """Address and credentials are kept; settings of the user's own connection class, too."""
    given = {"host": "h", "ssl_ca_certs": "f", "cache_config": 1, "retry": 2, "tenant": "theirs"}
    assert redispy.kept({**given, "maint_notifications_config": 3}) == {
        "host": "h",
        "ssl_ca_certs": "f",
        "tenant": "theirs",
    }


@pytest.mark.parametrize("where", ["single", "cluster"])
def test_a_refusal_that_comes_after_every_deadline_is_known_all_the_same(
    make_any: Maker, store: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A handshake slower than the calls fails: the first call cannot know that, later ones do."""

    def slow(*_: Any) -> Any:
        time.sleep(0.1)  # longer than the deadline: the slowness is the fault
        raise redis.AuthenticationError("wrong password")

    async def slow_in_loop(*_: Any) -> None:
        await asyncio.sleep(0.1)
        raise redis.AuthenticationError("wrong password")

    monkeypatch.setattr(redispy, "connected", slow)
    monkeypatch.setattr(redispy, "connected_in_loop", slow_in_loop)
    url = store if where == "single" else cluster.url
    limiter = make_any(url, "2/minute", on_error="allow", timeout=0.05)
    answers = [outcome(lambda: limiter.hit("u")) for _ in range(12)]
    first = answers.index("StoreRefused")
    assert set(answers[:first]) == {"allow"}
    assert set(answers[first:]) == {"StoreRefused"}


def test_a_connection_on_which_the_server_speaks_first_is_closed_at_once(proxy: Proxy) -> None:
    """Left to the garbage collector, its socket would stay open for a while."""
    proxy.replies = lambda data: data + b"+surplus\r\n"
    connection = read_store(proxy.url).connection(None, 1.0)

    with pytest.raises(redis.ConnectionError, match="sent data without a request"):
        redispy.connected(connection)

    assert not connection.is_connected


def test_a_connection_that_is_reset_before_we_take_it_over(kind: str) -> None:
    """The store failed. A reset leaves nothing to read, and the socket is closed already."""
    listener, connected = socket.create_server((HOST, 0)), threading.Event()

    def shake_hands() -> None:
        client = listener.accept()[0]
        received = b""
        while received.count(b"SETINFO") < 2:
            received += client.recv(4096)
        client.sendall(b"+OK\r\n+OK\r\n")
        connected.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with a reset

    async def main() -> None:
        url = f"redis://{HOST}:{listener.getsockname()[1]}?protocol=2"
        connection = read_store(url, ASYNC).connection(None, 10.0)
        try:
            await redispy.connected_in_loop(connection)
        finally:
            connected.set()
        transport = connection._writer.transport
        await soon(lambda: _returned(transport.is_closing()))
        with pytest.raises(redis.ConnectionError, match="closed the connection"):
            await redispy.taken_over(connection)
        redispy.close_in_loop(connection)

    server = threading.Thread(target=shake_hands)
    server.start()
    try:
        in_loop(main(), kind)
    finally:
        server.join()
        listener.close()


async def _returned(value: bool) -> bool:
    return value

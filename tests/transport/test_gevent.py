"""Under gevent, whose patched modules replace sockets, ``poll``, threads and locks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from service.demo.servers import Server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
)

#: A process of its own, since a patched interpreter stays patched.
PROGRAM = """
from gevent import monkey
monkey.patch_all()

import json, os, signal, sys
import gevent
import redis
from limiter import Limiter, StoreUnavailable

url, pid = sys.argv[1], int(sys.argv[2])

def limiter_of(name, timeout):
    return Limiter("1000/hour", algorithm="fixed_window", store=url, name=name, timeout=timeout)

def paused(count, timeout):
    "Hits from greenlets while the server stands still; another greenlet wakes it after 0.2 s."
    def hit():
        try:
            return limiter.hit("user").remaining
        except StoreUnavailable as error:
            return str(error)
    with limiter_of(str(timeout), timeout) as limiter:
        while isinstance(hit(), str):  # on a busy machine
            pass
        os.kill(pid, signal.SIGSTOP)
        try:
            greenlets = [gevent.spawn(hit) for _ in range(count)]
            gevent.sleep(0.2)
        finally:
            os.kill(pid, signal.SIGCONT)
        gevent.joinall(greenlets)
        return [greenlet.value for greenlet in greenlets]

def closed():
    "A hit after the server has closed the connection, which was idle for longer than a millisecond."
    with limiter_of("closed", 5.0) as limiter:
        limiter.hit("user")
        with redis.Redis.from_url(url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        gevent.sleep(0.01)
        return limiter.hit("user").remaining

print(json.dumps({"waited": paused(50, 20.0), "late": paused(5, 0.05), "closed": closed()}))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the program saw."""
    with Server() as server:
        words = [sys.executable, "-c", PROGRAM, server.url, str(server.pid)]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def test_a_hit_that_waits_does_not_block_other_greenlets(seen: dict[str, Any]) -> None:
    """If a hit blocked the loop, no greenlet could wake the server, and the hits would fail."""
    assert sorted(seen["waited"]) == list(range(949, 999))


def test_a_hit_ends_by_its_deadline(seen: dict[str, Any]) -> None:
    """The server does not answer before it."""
    assert len(seen["late"]) == 5
    for reason in seen["late"]:
        assert "within the deadline" in str(reason)


def test_a_closed_idle_connection_is_noticed(seen: dict[str, Any]) -> None:
    """The patched ``poll`` reports the end of a connection, so the hit makes another one."""
    assert seen["closed"] == 998

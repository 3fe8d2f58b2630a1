"""The servers that all other tests stand on start, obey and disappear."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.demo import servers
from service.demo.children import Child
from service.demo.servers import (
    HOST,
    Certificates,
    Cluster,
    Server,
    ServerError,
    find_server,
)
from tests.waiting import until


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def test_a_server_serves_on_loopback_and_leaves_nothing(binary: Path) -> None:
    with Server(binary) as server:
        folder, pid, port = server.folder, server.pid, server.port
        with server.client() as client:
            assert client.ping()
            assert client.config_get("bind")["bind"] == HOST
            assert client.config_get("save")["save"] == ""
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        with redis.Redis.from_url(server.unix_url) as client:
            assert client.ping()

    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()
    assert is_free(port)
    server.stop()  # again: nothing


def test_options_and_password(binary: Path) -> None:
    with (
        Server(binary, options=["--maxmemory", "5mb"], password="secret") as server,  # noqa: S106
        server.client() as client,
        redis.Redis(HOST, server.port, retry=Retry(NoBackoff(), 0)) as stranger,
    ):
        assert client.config_get("maxmemory")["maxmemory"] == str(5 * 2**20)
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_tls(certificates: Certificates, tls_binary: Path) -> None:
    with Server(tls_binary, tls=certificates) as server, server.client() as client:
        assert server.url.startswith("rediss://")
        assert client.ping()


def test_a_killed_server_comes_back_on_its_port_without_its_data(server: Server) -> None:
    with Server(server.binary) as ours, ours.client() as client:
        client.set("a", 1)
        port = ours.port
        ours.kill()
        assert not ours.alive
        with pytest.raises(redis.ConnectionError):
            client.get("a")

        ours.restart()

        assert ours.port == port
        assert client.get("a") is None


def test_a_paused_server_can_be_stopped() -> None:
    with Server() as server:
        server.pause()
        began = time.monotonic()

    assert time.monotonic() - began < 4  # it ended by SIGTERM, and was not killed after the timeout


def test_a_taken_port_is_answered_by_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process can take the port between its choice and its use."""
    with socket.create_server((HOST, 0)) as taken:
        ports = [taken.getsockname()[1], 1]
        choose = servers.free_port
        monkeypatch.setattr(servers, "free_port", lambda: ports.pop(0) if ports else choose())

        with Server() as server, server.client() as client:
            assert server.port != taken.getsockname()[1]
            assert client.ping()


def test_a_server_that_cannot_start_names_the_reason_and_leaves_nothing() -> None:
    server = Server(options=["--no-such-option", "1"])

    with pytest.raises(ServerError, match="no-such-option"):
        server.start()

    with pytest.raises(ServerError, match="was not started"):
        assert server.folder


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(ServerError, match="no-such-server was not found"):
        find_server("no-such-server")


@pytest.mark.slow
def test_a_cluster_serves_every_slot(binary: Path) -> None:
    with Cluster(3, binary=binary) as cluster, cluster.client() as client:
        for number in range(30):
            client.set(f"key-{number}", number)
            with cluster.primary_of(f"key-{number}").client() as node:
                assert node.get(f"key-{number}") == str(number)
        folders = [node.folder for node in cluster.nodes]

    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
def test_replicas_follow_their_primaries() -> None:
    with Cluster(2, replicas=1) as cluster, cluster.client() as client:
        assert len(cluster.nodes) == 4
        client.set("a", 1)
        primary = cluster.nodes.index(cluster.primary_of("a"))
        with cluster.nodes[2 + primary].client() as replica:
            replica.execute_command("READONLY")
            until(lambda: replica.get("a") == "1")


def test_a_start_can_be_interrupted_and_leaves_nothing() -> None:
    def pause(seconds: float) -> None:
        raise KeyboardInterrupt

    cluster = Cluster(2)
    with pytest.raises(KeyboardInterrupt):
        cluster.start(pause)

    assert not any(node.alive for node in cluster.nodes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_children_end_with_a_parent_that_is_killed() -> None:
    program = (
        "import time; from service.demo.servers import Server; "
        "s = Server().start(); print(s.pid, s.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().decode().split()
        parent.kill()
        parent.wait()

        until(lambda: not Path(f"/proc/{pid}").exists())
    for path in Path(folder).iterdir():  # no process was left to remove it
        path.unlink()
    Path(folder).rmdir()


def test_a_child_of_another_thread_survives_that_thread() -> None:
    """The kernel could take the thread's end for the parent's."""
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(Child("cat", ["/bin/sleep", "60"])))
    thread.start()
    thread.join()
    try:
        # Were it to be killed, it would be by now, or while we ask.
        with pytest.raises(subprocess.TimeoutExpired):
            children[0].process.wait(0.1)
    finally:
        children[0].stop()


def test_a_childs_own_children_end_with_it() -> None:
    script = "trap '' TERM; sleep 60 & echo $!; wait"
    child = Child("shell", ["/bin/sh", "-c", script], output=subprocess.PIPE)
    assert child.process.stdout is not None
    grandchild = int(child.process.stdout.readline())

    child.stop(timeout=0.1)

    child.process.stdout.close()
    assert child.process.returncode == -signal.SIGKILL
    until(lambda: not _runs(grandchild))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]

"""The effect of each fault of the store: a fallback while it lasts, or a refusal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import exceptions as redis_errors

from limiter import Limiter, LimiterError, StoreRefused, StoreUnavailable
from limiter.transport.replies import code, translate
from service.demo.servers import HOST, Cluster, Server, free_port
from tests.transport.conftest import MakeLimiter, Maker, MakeServer
from tests.transport.support import BUCKET, LOG, ONE_OF_EACH, PLENTY, outcome, until

Fault = Callable[[Server, redis.Redis], Any]


@contextmanager
def loading(server: Server, admin: redis.Redis) -> Iterator[None]:
    """The server loads its data: a thousand keys, each of them slowly."""
    for number in range(300):
        admin.set(f"key-{number}", "x" * 2_000)  # after this many bytes it looks at its clients
    admin.config_set("key-load-delay", 3_000)  # microseconds for each key
    admin.config_set("rdbcompression", "no")
    admin.config_set("loading-process-events-interval-bytes", 1024)
    other = server.client()

    def reload() -> None:
        with suppress(redis.RedisError):
            other.execute_command("DEBUG RELOAD")

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        until(lambda: _said(admin).startswith("LOADING"))
        yield
    finally:
        with suppress(redis.RedisError):
            admin.config_set("key-load-delay", 0)
        thread.join()
        other.close()


def _said(admin: redis.Redis) -> str:
    """The error of a plain command, or an empty text."""
    try:
        admin.get("nothing")
    except redis.RedisError as error:
        return f"{code(error)} {error}"
    return ""


@contextmanager
def busy(server: Server, admin: redis.Redis) -> Iterator[None]:
    """Another client's script does not end."""
    admin.config_set("busy-reply-threshold", 1)
    other = server.client()

    def spin() -> None:
        with suppress(redis.RedisError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        until(lambda: _said(admin).startswith("BUSY"))
        yield
    finally:
        admin.script_kill()
        thread.join()
        other.close()


@contextmanager
def configured(admin: redis.Redis, **settings: Any) -> Iterator[None]:
    """Change settings of the server, and restore them afterwards."""
    names = {name: name.replace("_", "-") for name in settings}
    before = {name: admin.config_get(names[name])[names[name]] for name in settings}
    for name, value in settings.items():
        admin.config_set(names[name], value)
    try:
        yield
    finally:
        for name in settings:
            admin.config_set(names[name], before[name])


def full(server: Server, admin: redis.Redis) -> Any:
    """The server has no memory left."""
    return configured(admin, maxmemory=1)


def alone(server: Server, admin: redis.Redis) -> Any:
    """A primary that must not write without its replicas."""
    return configured(admin, min_replicas_to_write=1)


@contextmanager
def unsaved(server: Server, admin: redis.Redis) -> Iterator[None]:
    """The server could not save, and so must not write."""
    (server.folder / "dump.rdb").mkdir()  # no file can be renamed to a folder
    with configured(admin, save="3600 1", stop_writes_on_bgsave_error="yes"):
        admin.bgsave()
        until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield
        (server.folder / "dump.rdb").rmdir()
        admin.bgsave()
        until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "ok")


@contextmanager
def replica(server: Server, admin: redis.Redis) -> Iterator[None]:
    """The server became a replica of a primary that does not exist."""
    admin.replicaof(HOST, free_port())
    try:
        yield
    finally:
        admin.replicaof("NO", "ONE")


@contextmanager
def stale(server: Server, admin: redis.Redis) -> Iterator[None]:
    """A replica that has lost its primary, and does not answer until it is back."""
    with configured(admin, replica_serve_stale_data="no"), replica(server, admin):
        yield


@contextmanager
def stopped(server: Server, admin: redis.Redis) -> Iterator[None]:
    """No server listens there."""
    server.kill()
    try:
        yield
    finally:
        server.restart()


PASSING = {
    "LOADING": loading,
    "BUSY": busy,
    "OOM": full,
    "NOREPLICAS": alone,
    "MISCONF": unsaved,
    "READONLY": replica,
    "MASTERDOWN": stale,
    "refused": stopped,
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_temporary_fault(
    make_limiter: MakeLimiter, make_server: MakeServer, binary: Path, kind: str
) -> None:
    """Each value of on_error decides the calls; afterwards the store decides again."""
    server = make_server(binary, options=["--enable-debug-command", "yes"])
    admin = server.client()
    limiters = {
        on_error: make_limiter(server.url, policies, on_error=on_error).open()
        for on_error, policies in (("raise", PLENTY), ("allow", LOG), ("deny", [PLENTY, BUCKET]))
    }
    for limiter in limiters.values():
        limiter.hit("u")
    with PASSING[kind](server, admin):
        with pytest.raises(StoreUnavailable) as raised:
            limiters["raise"].hit("u")
        if kind.isupper():
            assert f"cannot decide now: {kind} " in str(raised.value)
        assert raised.value.__cause__ is not None
        for on_error in ("allow", "deny"):
            decision = limiters[on_error].hit("u")
            assert decision.degraded
            assert decision.allowed is (on_error == "allow")
            assert decision.policy == limiters[on_error].policies[0]
            if kind not in ("OOM", "NOREPLICAS", "MISCONF", "READONLY"):
                assert limiters[on_error].peek("u").degraded
                with pytest.raises(StoreUnavailable):
                    limiters[on_error].reset("u")
    for limiter in limiters.values():
        until(lambda: outcome(lambda: limiter.hit("u")) == "allow", 3.0)  # noqa: B023
        assert not limiter.hit("u").degraded
    admin.close()


@pytest.mark.parametrize("kind", ["OOM", "NOREPLICAS", "MISCONF"])
def test_a_full_store_still_denies(make_limiter: MakeLimiter, own: Server, kind: str) -> None:
    """A denial and a peek write nothing, so a full store still decides them."""
    admin = own.client()
    limiter = make_limiter(own.url, "3/day", on_error="allow").open()
    limiter.hit("u", cost=3)
    with PASSING[kind](own, admin):
        denied = limiter.hit("u")
        assert not denied
        assert not denied.degraded
        assert not limiter.peek("u").degraded
        assert limiter.hit("v").degraded
    admin.close()


def test_a_cluster_without_slots(make_limiter: MakeLimiter, make_server: MakeServer) -> None:
    """CLUSTERDOWN, for every kind of call."""
    node = make_server(cluster=True)
    with pytest.raises(StoreUnavailable, match="cannot decide now: CLUSTERDOWN"):
        make_limiter(node.url).hit("u")
    as_cluster = make_limiter(node.url.replace("redis:", "redis+cluster:").removesuffix("/0"))
    with pytest.raises(StoreUnavailable, match="the cluster has no slots yet"):
        as_cluster.hit("u")


@pytest.mark.slow
def test_a_slot_without_an_owner(make_limiter: MakeLimiter, make_server: MakeServer) -> None:
    """Half of the slots are missing: their subjects get the fallback, the others are decided."""
    node = make_server(cluster=True, options=["--cluster-require-full-coverage", "no"])
    admin = node.client()
    admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
    until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    url = node.url.replace("redis:", "redis+cluster:").removesuffix("/0")
    limiter = make_limiter(url, on_error="deny")
    outcomes = {limiter.hit(f"u{number}").degraded for number in range(20)}
    assert outcomes == {True, False}
    admin.close()


def wrong_type(server: Server, admin: redis.Redis) -> None:
    """The key holds another program's value."""
    admin.set("rl:{u}:default:v1", "x")
    admin.set(f"rl:{{u}}:default:v1:{LOG.field}", "x")


def no_command(server: Server, admin: redis.Redis) -> None:
    """The server does not know the command (as with ACLs and old servers)."""
    admin.execute_command("ACL SETUSER default -evalsha -eval")


def no_key(server: Server, admin: redis.Redis) -> None:
    """Rights for other keys only."""
    admin.execute_command("ACL SETUSER default resetkeys ~other:*")


def half_rights(server: Server, admin: redis.Redis) -> None:
    """A right is missing that the script needs in the middle."""
    admin.execute_command("ACL SETUSER default -pexpire")


@pytest.mark.parametrize("policy", ONE_OF_EACH, ids=lambda policy: policy.algorithm)
@pytest.mark.parametrize("on_error", ["raise", "allow", "deny"])
@pytest.mark.parametrize("fault", [wrong_type, no_command, no_key, half_rights])
def test_a_refusal_is_never_a_fallback(
    make_limiter: MakeLimiter, own: Server, policy: Any, on_error: str, fault: Fault
) -> None:
    """An operator must change something: a fallback that admits or denies every call would hide it."""
    admin = own.client()
    limiter = make_limiter(own.url, policy, on_error=on_error).open()
    fault(own, admin)
    with pytest.raises(StoreRefused, match="refused"):
        limiter.hit("u")
    assert limiter._core.transport._node._idle  # the connection itself is good  # type: ignore[attr-defined]
    admin.close()


def test_a_command_that_was_renamed(make_limiter: MakeLimiter, make_server: MakeServer) -> None:
    """Some hosts take EVALSHA away altogether."""
    server = make_server(options=["--rename-command", "EVALSHA", ""])
    with pytest.raises(StoreRefused, match="unknown command"):
        make_limiter(server.url, on_error="allow").hit("u")


def test_a_key_of_another_type_can_be_reset(make_limiter: MakeLimiter, own: Server) -> None:
    """So that no administrator is needed."""
    admin = own.client()
    wrong_type(own, admin)
    for policy in ONE_OF_EACH:
        limiter = make_limiter(own.url, policy)
        limiter.reset("u")
        assert limiter.hit("u")
    admin.close()


def test_a_node_of_a_cluster_as_a_single_store(make_limiter: MakeLimiter, cluster: Cluster) -> None:
    """The message says how to write a cluster's URL."""
    limiter = make_limiter(cluster.nodes[0].url, on_error="allow")
    said = set()
    for number in range(12):
        try:
            limiter.hit(f"u{number}")
        except StoreRefused as error:
            said.add(str(error))
    assert len(said) == 1
    assert "give the store as redis+cluster://" in said.pop()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_node_of_a_cluster_is_not_opened(
    make_any: Maker, cluster: Cluster, protocol: int
) -> None:
    """Otherwise it would start well, and then decide only some subjects."""
    url = f"{cluster.nodes[0].url}?protocol={protocol}"
    limiter = make_any(url, on_error="allow")
    with pytest.raises(StoreRefused, match=r"give the store as redis\+cluster://"):
        limiter.open()


def test_a_server_without_hello_is_opened(make_any: Maker, own: Server) -> None:
    """Its mode is unknown; with RESP2 nothing else needs HELLO."""
    admin = own.client()
    admin.execute_command("ACL SETUSER default -hello")
    url = f"{own.url}?protocol=2"
    assert make_any(url).open().hit("u")
    admin.close()


def test_a_single_store_as_a_cluster(make_limiter: MakeLimiter, store: str) -> None:
    """It does not know CLUSTER SLOTS."""
    url = store.replace("redis:", "redis+cluster:").removesuffix("/0")
    with pytest.raises(StoreRefused, match=r"is no cluster \(.*\): give the store as redis://"):
        make_limiter(url, on_error="allow").hit("u")


@pytest.mark.parametrize("kind", ["redis", "redis+cluster"])
def test_an_error_says_the_address_once(make_any: Maker, kind: str) -> None:
    """No server listens: all kinds of call raise the same message, which says what to check."""
    port = free_port()
    url = f"{kind}://{HOST}:{port}"
    said = f"store {HOST}:{port}: Connection refused: does a server listen there?"
    with pytest.raises(StoreUnavailable) as raised:
        make_any(url).hit("u")
    assert str(raised.value) == said


def test_a_name_or_a_path_that_leads_nowhere(make_any: Maker, tmp_path: Path) -> None:
    """The message has the system's text, and no more."""
    with pytest.raises(StoreUnavailable, match=rf"^store {tmp_path}/x: No such file or directory$"):
        make_any(f"unix://{tmp_path}/x").hit("u")
    with pytest.raises(StoreUnavailable) as raised:
        make_any("redis://no.invalid:1", timeout=20.0, connect_timeout=20.0).hit("u")
    assert str(raised.value).count("no.invalid") == 1


def test_tls_to_a_server_without_it(make_any: Maker, own: Server) -> None:
    """The server waits, and so does the client: the message has TLS in it."""
    url = own.url.replace("redis:", "rediss:")
    with pytest.raises(StoreUnavailable, match=rf"^store {HOST}:{own.port} \(TLS\): "):
        make_any(url, timeout=0.1).hit("u")


ERRORS = [
    # As redis-py raises them, and as an unknown server may word them.
    (redis_errors.ConnectionError("refused"), StoreUnavailable),
    (redis_errors.TimeoutError("late"), StoreUnavailable),
    (redis_errors.BusyLoadingError("loading", status_code="LOADING"), StoreUnavailable),
    (redis_errors.ResponseError("LOADING data"), StoreUnavailable),
    (redis_errors.MaxConnectionsError("many"), StoreUnavailable),
    (redis_errors.ClusterDownError("down", status_code="CLUSTERDOWN"), StoreUnavailable),
    (redis_errors.MasterDownError("down", status_code="MASTERDOWN"), StoreUnavailable),
    (redis_errors.ReadOnlyError("no", status_code="READONLY"), StoreUnavailable),
    (redis_errors.OutOfMemoryError("full", status_code="OOM"), StoreUnavailable),
    (redis_errors.TryAgainError("later", status_code="TRYAGAIN"), StoreUnavailable),
    (redis_errors.ResponseError("NOREPLICAS few"), StoreUnavailable),
    (redis_errors.ResponseError("MISCONF disk"), StoreUnavailable),
    (redis_errors.ResponseError("BUSY script"), StoreUnavailable),
    (redis_errors.ResponseError(""), StoreRefused),
    (redis_errors.ResponseError("ERR unknown command"), StoreRefused),
    (redis_errors.ResponseError("WRONGTYPE other"), StoreRefused),
    (redis_errors.ClusterCrossSlotError("x", status_code="CROSSSLOT"), StoreRefused),
    (redis_errors.NoPermissionError("no", status_code="NOPERM"), StoreRefused),
    (redis_errors.AuthenticationError("no", status_code="NOAUTH"), StoreRefused),
    (redis_errors.InvalidResponse("Protocol Error"), StoreRefused),
    (redis_errors.MovedError("1 h:1", status_code="MOVED"), StoreRefused),
    (redis_errors.AskError("1 h:1", status_code="ASK"), StoreRefused),
    (ConnectionResetError(104, "reset"), StoreUnavailable),
    (OSError("unreachable"), StoreUnavailable),
    (asyncio.TimeoutError(), StoreUnavailable),
    (UnicodeError("label too long"), StoreRefused),
    (AttributeError("no attribute '_sock'"), StoreRefused),
]


@pytest.mark.parametrize(("error", "ours"), ERRORS, ids=lambda value: repr(value)[:40])
def test_the_meaning_of_each_error(error: Exception, ours: type[LimiterError]) -> None:
    """Each kind of error becomes one of ours, and names the store."""
    translated = translate(error, "store h:1")
    assert type(translated) is ours
    assert str(translated).startswith("store h:1")


def test_every_error_of_redis_py_is_translated() -> None:
    """An error is StoreRefused, unless it is known to be temporary."""
    kinds = [
        kind
        for kind in vars(redis_errors).values()
        if isinstance(kind, type) and issubclass(kind, redis.RedisError)
    ]
    assert len(kinds) > 20
    for kind in kinds:
        error = kind.__new__(kind)
        error.args = ("said",)
        assert isinstance(translate(error, "store"), (StoreRefused, StoreUnavailable))


@pytest.mark.parametrize(
    ("where", "scheme"), [("store h:1", "redis"), ("store h:1 (TLS)", "rediss")]
)
def test_advice_keeps_tls(where: str, scheme: str) -> None:
    moved = translate(redis_errors.MovedError("1 h:2", status_code="MOVED"), where)
    alone = translate(redis.ResponseError("This instance has cluster support disabled"), where)
    assert str(moved).endswith(f"give the store as {scheme}+cluster://")
    assert str(alone).endswith(f"give the store as {scheme}://")


def test_advice_to_turn_tls_on_or_off() -> None:
    """A first try often has the wrong scheme; the server then only ends the handshake."""
    to_plain = redis.ConnectionError("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)")
    to_tls = redis.ConnectionError(
        "Error while reading from h:1 : (104, 'Connection reset by peer')"
    )
    assert "write redis in the URL" in str(translate(to_plain, "store h:1 (TLS)"))
    assert "write rediss in the URL" in str(translate(to_tls, "store h:1"))


def test_no_thread_can_be_started(
    make_limiter: MakeLimiter, store: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that can start no thread cannot connect; that is temporary."""
    limiters: list[Limiter] = [make_limiter(store), make_limiter(cluster.url)]

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for limiter in limiters:
            with pytest.raises(StoreUnavailable, match="can't start new thread"):
                limiter.hit("u")
    for limiter in limiters:
        until(lambda: outcome(lambda: limiter.hit("u")) == "allow", 3.0)  # noqa: B023

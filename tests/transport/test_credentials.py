"""Credentials beside the store's address, and credentials that change."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis
from redis.credentials import CredentialProvider, StreamingCredentialProvider

from limiter import InvalidSetting, Limiter, StoreRefused
from limiter.version import __version__
from service.demo.servers import HOST, Cluster, Server
from tests.transport.conftest import Maker
from tests.users import rule
from tests.waiting import until

USER = "api"


def set_password(server: Server, password: str) -> None:
    """Let the user have this password alone, and close its connections."""
    with server.client() as admin:
        admin.execute_command(*rule(admin, USER).split())
        admin.execute_command("ACL", "SETUSER", USER, f">{password}")
        admin.execute_command("CLIENT", "KILL", "USER", USER)


def test_a_password_file_is_read_for_each_connection(
    make_any: Maker, own: Server, tmp_path: Path
) -> None:
    """A password that was changed needs no restart; the line's end is no part of it."""
    file = tmp_path / "password"
    for url in (
        f"redis://{HOST}:{own.port}?username={USER}&password_file={file}",
        f"redis://{USER}@{HOST}:{own.port}?password_file={file}",
        f"unix://{own.unix_socket}?username={USER}&password_file={file}",
    ):
        file.write_text("first: @1\n")
        set_password(own, "first: @1")
        limiter = make_any(url)
        assert limiter.hit("u")
        file.write_text("second")
        set_password(own, "second")
        assert limiter.hit("u")


def test_a_password_file_without_a_name_is_of_the_default_user(
    make_any: Maker, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("hush")
    with Server(password="hush") as server:  # noqa: S106
        assert make_any(f"redis://{HOST}:{server.port}?password_file={file}").hit("u")


@pytest.mark.parametrize("on_error", ["raise", "allow", "local"])
def test_a_file_that_is_gone_is_no_failure_of_the_store(
    make_any: Maker, own: Server, tmp_path: Path, on_error: str
) -> None:
    file = tmp_path / "password"
    file.write_text("hush")
    url = f"redis://{HOST}:{own.port}?username={USER}&password_file={file}"
    limiter = make_any(url, on_error=on_error)
    file.unlink()
    for text in ("cannot be read: No such file or directory", "is empty"):
        with pytest.raises(StoreRefused, match=text) as raised:
            limiter.hit("u")
        assert str(file) in str(raised.value)
        file.write_text("\n")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://h:1?password_file=/no/such/file", "cannot be read: No such file or directory"),
        ("redis+cluster://h:1?password_file=/no/such/file", "cannot be read"),
        (f"redis://:hush@h:1?password_file={__file__}", "it has a password and a password_file"),
    ],
)
def test_a_wrong_file_is_an_error_at_once(url: str, text: str) -> None:
    with pytest.raises(InvalidSetting, match=text) as raised:
        Limiter("5/minute", store=url)
    assert "hush" not in str(raised.value)


def test_by_variables(own: Server, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush")
    set_password(own, "hush")
    environ = {
        "LIMITER_LIMITS": "5/minute",
        "LIMITER_STORE_USERNAME": USER,
        "LIMITER_STORE_PASSWORD_FILE": str(file),
    }
    for store in (own.url, f"{own.url}?protocol=2"):
        with Limiter.from_env({**environ, "LIMITER_STORE": store}) as limiter:
            assert limiter.hit("u")
    with pytest.raises(InvalidSetting, match=r"LIMITER_STORE_USERNAME is set: LIMITER_STORE is no"):
        Limiter.from_env({**environ, "LIMITER_STORE": "memory://"})
    file.unlink()
    with pytest.raises(
        InvalidSetting, match=r"^LIMITER_STORE: store is 'redis://.* cannot be read"
    ):
        Limiter.from_env({**environ, "LIMITER_STORE": own.url})


def test_the_name_of_a_client_stands_in_the_servers_list(make_any: Maker, own: Server) -> None:
    limiter = make_any(f"{own.url}?client_name=checkout")
    assert limiter.hit("u")
    with own.client() as admin:
        assert "checkout" in [client["name"] for client in admin.client_list()]


class Rotating(CredentialProvider):
    """A provider whose credentials a test changes."""

    credentials = (USER, "first")

    def get_credentials(self) -> tuple[str, str]:
        """Return them."""
        return self.credentials


class RotatingInLoop(Rotating):
    """The same, with a coroutine of its own."""

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return them."""
        return self.get_credentials()


class Streaming(RotatingInLoop, StreamingCredentialProvider):
    """The same, which calls the user's client when they change; that is not ours to replace."""

    callback: Any = None

    def on_next(self, callback: Any) -> None:
        """Take the one callback."""
        assert self.callback is None
        self.callback = callback

    def on_error(self, callback: Any) -> None:
        """Take nothing."""

    def is_streaming(self) -> bool:
        """Return that it does."""
        return True


def connections_of(admin: redis.Redis, user: str) -> set[str]:
    """The ids of a user's connections."""
    return {client["id"] for client in admin.client_list() if client["user"] == user}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers are asked often."""
    monkeypatch.setattr("limiter.transport.credentials.CHECK_EVERY", 0.1)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("make_any", ["threads", "asyncio"], indirect=True)
@pytest.mark.parametrize("kind", [Rotating, RotatingInLoop, Streaming])
def test_live_connections_follow_their_provider(
    make_any: Maker, own: Server, kind: type[Rotating]
) -> None:
    """Idle ones and those in use are authenticated as the new user, and stay open."""
    set_password(own, "first")
    provider = kind()
    client = make_any.client("Redis", port=own.port, credential_provider=provider)
    limiter = make_any(client)
    with own.client() as admin:
        admin.acl_setuser("other", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
        with ThreadPool(4) as threads:
            several = 4 if isinstance(limiter, Limiter) else 1
            threads.map(lambda _: limiter.hit("u"), range(several))
            before = connections_of(admin, USER)
            in_use = 0
            if isinstance(limiter, Limiter):
                node = limiter._core.transport._node  # type: ignore[attr-defined]
                connection = node.take(time.monotonic() + 5)
                in_use = 1
                before = connections_of(admin, USER)
            provider.credentials = "other", "any"

            def moved() -> bool:
                limiter.hit("u")
                return len(connections_of(admin, USER)) == in_use

            until(moved)
            if in_use:
                node.give(connection)
                in_use = 0
                until(moved)
            # A call makes a further connection if the idle one is just being authenticated.
            assert connections_of(admin, "other") >= before
        admin.acl_setuser("other", enabled=False)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("make_any", ["threads", "asyncio"], indirect=True)
def test_the_connections_of_a_cluster_follow_a_password_file(
    make_any: Maker, cluster: Cluster, tmp_path: Path, new_subject: Callable[[], str]
) -> None:
    """Those of every node. A connection whose authentication fails is closed, and the next one says why."""
    file = tmp_path / "password"
    file.write_text("first")
    for node in cluster.nodes:
        set_password(node, "first")
    limiter = make_any(f"{cluster.url}?username={USER}&password_file={file}")
    try:
        with ExitStack() as stack:
            admins = [stack.enter_context(node.client()) for node in cluster.nodes]
            subjects = [new_subject() for _ in range(30)]
            for subject in subjects:
                assert limiter.hit(subject)
            for admin in admins:
                admin.config_resetstat()
                admin.execute_command("ACL", "SETUSER", USER, ">second")

            def all_authenticated() -> bool:
                limiter.hit(subjects[0])
                return all("cmdstat_auth" in admin.info("commandstats") for admin in admins)

            before = [connections_of(admin, USER) for admin in admins]
            file.write_text("second")
            until(all_authenticated)
            # A call makes a further connection if the idle one is just being authenticated.
            for admin, earlier in zip(admins, before, strict=True):
                assert connections_of(admin, USER) >= earlier
            file.write_text("wrong")
            until(lambda: refused(lambda: limiter.hit(subjects[0])))
    finally:
        for node in cluster.nodes:
            with node.client() as admin:
                admin.execute_command("ACL", "DELUSER", USER)


def refused(call: Callable[[], Any]) -> bool:
    """Whether the store refuses the credentials."""
    try:
        call()
    except StoreRefused as error:
        return "refused our credentials" in str(error)
    return False


def test_a_provider_that_fails_ends_no_connection(
    make_any: Maker, own: Server, often: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The connections keep their authentication, and the log says why."""
    set_password(own, "first")
    provider = RotatingInLoop()
    limiter = make_any(make_any.client("Redis", port=own.port, credential_provider=provider))
    assert limiter.hit("u")

    def fail() -> NoReturn:
        raise RuntimeError("the vault is sealed")

    provider.get_credentials = fail  # type: ignore[method-assign]

    def logged() -> bool:
        assert limiter.hit("u")
        return "credentials were not renewed: the vault is sealed" in caplog.text

    until(logged)


@pytest.mark.parametrize("make", ["Redis", "RedisCluster"])
def test_a_client_keeps_its_name(
    make_any: Maker, make: str, server: Server, cluster: Cluster
) -> None:
    """CLIENT LIST shows it, and our name as the library's."""
    node = server if make == "Redis" else cluster.nodes[0]
    client = make_any.client(make, host=HOST, port=node.port, client_name=f"of-{make}")
    limiter = make_any(client)
    assert limiter.hit("u")
    nodes = [server] if make == "Redis" else cluster.nodes
    found = []
    for each in nodes:
        with each.client() as admin:
            found += [one for one in admin.client_list() if one["name"] == f"of-{make}"]
    ours = f"slotgate_v{__version__}"
    assert any(ours in one.get("lib-name", ours) for one in found)  # new in Redis 7.2

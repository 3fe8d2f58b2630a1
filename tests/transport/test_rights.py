"""``open`` refuses a user who lacks a right, and names it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis

from limiter import AsyncLimiter, Limiter, StoreRefused
from limiter.scripts import COMMANDS, OF_RECORDS
from limiter.transport import rights
from service.demo.servers import HOST, Cluster, Server
from tests.transport.conftest import Maker
from tests.transport.support import BUCKET, LOG, PLENTY
from tests.users import rule


@pytest.fixture
def admin(own: Server) -> Iterator[redis.Redis]:
    """A server of the test's own, with the user ``api``, who has the rights of ``limiter acl``."""
    with own.client() as client:
        grant(client)
        yield client


def grant(client: redis.Redis, *changes: str, prefix: str = "rl") -> None:
    """Make the user ``api`` with these rights, and changes to them."""
    client.execute_command(*rule(client, "api", prefix).split())
    client.execute_command("ACL", "SETUSER", "api", ">hush", *changes)


def url(server: Server) -> str:
    """The server's URL with the user ``api``."""
    return f"redis://api:hush@{HOST}:{server.port}"


@pytest.mark.parametrize("command", ["evalsha", *sorted({*COMMANDS} - {*OF_RECORDS})])
def test_a_missing_right_is_named(make_any: Maker, own: Server, admin, command: str) -> None:
    """Also a right that these limits do not need: the next deploy may."""
    grant(admin, f"-{command}")
    limiter = make_any(url(own), PLENTY)

    with pytest.raises(
        StoreRefused, match=rf"does not grant its user \+{command} on keys"
    ) as raised:
        limiter.open()
    assert f"{HOST}:{own.port}" in str(raised.value)
    assert "limiter acl" in str(raised.value)

    grant(admin)
    limiter.open()
    assert limiter.hit("u")


def test_several_missing_rights_are_named_at_once(make_any: Maker, own: Server, admin) -> None:
    """One change of the user is enough."""
    grant(admin, "-hmget", "-zadd")
    with pytest.raises(StoreRefused, match=r"its user \+hmget \+zadd on keys like rl:\{rights\}:"):
        make_any(url(own)).open()


def test_a_right_to_other_keys_is_not_enough(make_any: Maker, own: Server, admin) -> None:
    """The commands are checked on a key with the limiter's own prefix and name."""
    grant(admin, prefix="other")
    with pytest.raises(
        StoreRefused, match=r"\+evalsha .*\+zscore on keys like rl:\{rights\}:default:v1"
    ):
        make_any(url(own)).open()
    limiter = make_any(url(own), prefix="other")
    limiter.open()
    assert limiter.hit("u")


def test_a_right_to_read_is_not_one_to_write(make_any: Maker, own: Server, admin) -> None:
    """A key pattern may permit reading alone."""
    grant(admin, "resetkeys", "%R~rl:*")
    with pytest.raises(StoreRefused, match=r"\+del \+hset") as raised:
        make_any(url(own)).open()
    assert "+hget" not in str(raised.value)


def test_a_user_who_may_not_call_eval_is_not_checked(make_any: Maker, own: Server, admin) -> None:
    """Such a user calls scripts that are loaded."""
    grant(admin, "-eval")
    limiter = make_any(url(own))
    limiter.open()
    assert limiter.hit("u")
    grant(admin, "-eval", "-hget")
    limiter.open()
    with pytest.raises(StoreRefused):
        limiter.hit("u")


def test_a_user_who_may_not_call_eval_makes_every_call(own: Server, admin) -> None:
    """Two limits are hit by one script, and peeked at by another."""
    grant(admin, "-eval")
    with Limiter([PLENTY, BUCKET], store=url(own), timeout=2.0) as limiter:
        assert limiter.hit("u")
        assert limiter.peek("u")
        limiter.refund("u")
        assert limiter.reset("u")


def test_a_user_who_may_not_load_scripts_is_refused(make_any: Maker, own: Server, admin) -> None:
    """As the server says it."""
    grant(admin, "-script|load")
    with pytest.raises(StoreRefused, match="script"):
        make_any(url(own)).open()


def test_nothing_is_run_or_logged_as_denied(make_any: Maker, own: Server, admin) -> None:
    """The check runs no command, so the server's log of denied calls stays empty."""
    grant(admin, "-hmget")
    admin.acl_log_reset()
    with pytest.raises(StoreRefused):
        make_any(url(own)).open()
    assert admin.acl_log() == []
    assert admin.dbsize() == 0


def test_every_primary_of_a_cluster_is_checked(make_any: Maker, guarded: Cluster) -> None:
    """A right that one primary lacks is named with its address."""
    clients = [node.client() for node in guarded.nodes]
    for client in clients:
        grant(client)
    limiter = make_any(guarded.url.replace("://:", "://api:"), [PLENTY, LOG])
    limiter.open()
    for node, client in zip(guarded.nodes, clients, strict=True):
        grant(client, "-pexpire")
        with pytest.raises(StoreRefused, match=rf":{node.port} does not grant .* \+pexpire on"):
            limiter.open()
        grant(client)
    limiter.open()
    for client in clients:
        client.close()


def test_entering_refuses_too(own: Server, admin) -> None:
    """Whatever ``on_error`` is."""
    grant(admin, "-hmget")
    with (
        pytest.raises(StoreRefused, match="hmget"),
        Limiter(PLENTY, store=url(own), on_error="allow", timeout=2.0),
    ):
        pass


def test_entering_refuses_a_coroutine_too(own: Server, admin) -> None:
    """As for threads."""

    async def enter() -> None:
        async with AsyncLimiter(PLENTY, store=url(own), on_error="allow", timeout=2.0):
            pass

    grant(admin, "-hmget")
    with pytest.raises(StoreRefused, match="hmget"):
        asyncio.run(enter())


def test_a_server_of_any_kind_knows_the_check(any_store: str) -> None:
    """A user with all rights lacks none; a command of which the server knows nothing is an error."""
    key = b"rl:{rights}:default:v1"
    with redis.Redis.from_url(any_store) as client:
        calls = [word.encode() for word in ("hmget a b", "hset a b c", "pexpire a 1 NX")]
        assert client.eval(rights._TEXT, 0, *calls) == []
        with pytest.raises(redis.ResponseError):
            client.eval(rights._TEXT, 0, "nonsense a")
    with Limiter(PLENTY, store=any_store, timeout=2.0) as limiter:
        assert limiter.open()
    rights.check([], key, "store")
    rights.check(None, key, "store")

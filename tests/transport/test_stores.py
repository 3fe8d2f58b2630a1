"""Every accepted form of ``store`` reaches it, with the same replies."""

from __future__ import annotations

import itertools
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
from redis import connection as redis_connection
from redis._parsers import _AsyncRESP2Parser, _AsyncRESP3Parser
from redis.backoff import ExponentialBackoff

from limiter import InvalidSetting, Limiter, StoreRefused, StoreUnavailable, acl
from limiter.transport.store import read_store
from limiter.transport.wire import scripts_of
from service.demo.servers import HOST, Certificates, Cluster, Server
from tests.proxy import Proxy, delay, replace, swallow
from tests.transport.conftest import MakeLimiter, Maker, MakeServer
from tests.transport.support import BUCKET, LOG, PLENTY, outcome, until, within_deadline
from tests.users import rule

BOTH = [PLENTY, LOG]
PASSWORD = "hush:@+%"  # noqa: S105


def works(limiter: Limiter, key: str = "u") -> None:
    """Open, count and reset."""
    with limiter:
        limiter.reset(key)
        assert limiter.hit(key, cost=2)
        left = limiter.hit(key).remaining
        assert left == min(policy.capacity for policy in limiter.policies) - 3
        assert limiter.peek(key).remaining == left
        assert limiter.reset(key).remaining == left
        assert limiter.hit(key).remaining == left + 2


@pytest.mark.parametrize("scheme", ["redis", "valkey", "REDIS"])
def test_by_url(make_any: Maker, server: Server, subject: str, scheme: str) -> None:
    """Both names of the protocol, in any case, with a database."""
    url = f"{scheme}://{server.host}:{server.port}/3"
    works(make_any(url, BOTH), subject)
    client = redis.Redis(host=server.host, port=server.port, db=3)
    assert client.exists(f"rl:{{{subject}}}:default:v1")
    client.close()


def test_by_any_server(make_any: Maker, any_store: str, subject: str) -> None:
    """Valkey and Redis."""
    works(make_any(any_store, [PLENTY, LOG, BUCKET]), subject)


@pytest.mark.parametrize(
    "before", ["redis+cluster://", f"valkey+cluster://{HOST}:1,"], ids=["redis", "valkey"]
)
def test_by_the_url_of_a_cluster(
    make_any: Maker, cluster: Cluster, new_subject: Callable[[], str], before: str
) -> None:
    """One node is enough to find the others; a dead one among them does not matter."""
    limiter = make_any(f"{before}{HOST}:{cluster.nodes[1].port}", BOTH)
    for _ in range(10):
        works(limiter, new_subject())


def test_by_unix_socket(make_any: Maker, server: Server, subject: str) -> None:
    """A Unix socket, without a port."""
    works(make_any(server.unix_url, BOTH), subject)
    missing = make_any("unix:///nowhere/server.sock", timeout=1.0)
    with pytest.raises(StoreUnavailable, match=r"store /nowhere/server\.sock"):
        missing.hit("u")


@pytest.mark.parametrize("protocol", [2, 3])
def test_by_password(make_any: Maker, make_server: MakeServer, protocol: int) -> None:
    """In the URL, in the query, over the socket; a wrong or missing one is refused."""
    server = make_server(password=PASSWORD)
    at = f"{HOST}:{server.port}"
    quoted = quote(PASSWORD, safe="")
    for url in (
        f"redis://:{quoted}@{at}?protocol={protocol}",
        f"redis://default:{quoted}@{at}/0?protocol={protocol}",
        f"redis://{at}?password={quoted}&protocol={protocol}",
        f"unix://:{quoted}@{server.unix_socket}?protocol={protocol}",
    ):
        works(make_any(url, BOTH))
    for url in (
        f"redis://{at}?protocol={protocol}",
        f"redis://:wrong@{at}?protocol={protocol}",
        f"redis://nobody:{quoted}@{at}?protocol={protocol}",
    ):
        for on_error in ("raise", "allow", "deny"):
            limiter = make_any(url, on_error=on_error)
            with pytest.raises(StoreRefused, match="refused our credentials or rights") as raised:
                limiter.hit("u")
            assert "hush" not in str(raised.value)
            with pytest.raises(StoreRefused):
                limiter.open()


def test_a_cluster_by_password(make_any: Maker, guarded: Cluster) -> None:
    """Every node gets the credentials; a wrong one is refused by the slot table already."""
    limiter = make_any(guarded.url, BOTH)
    for number in range(10):
        works(limiter, f"u{number}")
    wrong = make_any(guarded.url.replace(":hush@", ":wrong@"), on_error="allow")
    with pytest.raises(StoreRefused):
        wrong.hit("u")


def grant(admin: redis.Redis) -> None:
    """Make the user ``api``, with the rights of ``limiter acl`` and a password."""
    admin.execute_command(*rule(admin, "api").split())
    admin.execute_command("ACL", "SETUSER", "api", ">hush")


def test_by_the_least_rights(make_any: Maker, make_server: MakeServer) -> None:
    """A user with exactly the rights that ``limiter acl`` prints can make every call."""
    server = make_server()
    printed = subprocess.run(
        [sys.executable, "-m", "limiter", "acl", "--user", "api"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == acl.rule("api")
    admin = server.client()
    grant(admin)
    url = f"redis://api:hush@{HOST}:{server.port}"
    for policies in ([PLENTY], [LOG], [BUCKET], [PLENTY, BUCKET], [PLENTY, LOG, BUCKET]):
        for protocol in (2, 3):
            works(make_any(f"{url}?protocol={protocol}", policies))
    admin.script_flush()
    assert make_any(url).hit("after a flush")
    # Nothing else: no other keys, no other commands.
    with pytest.raises(StoreRefused):
        make_any(url, prefix="other").hit("u")
    api = redis.Redis.from_url(url)
    for command in ("KEYS *", "FLUSHALL", "HGETALL rl:x", "GET other", "CONFIG GET *"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            api.execute_command(*command.split())
    api.close()
    admin.close()


def test_a_cluster_by_the_least_rights(make_any: Maker, guarded: Cluster) -> None:
    """The slot table, and ASKING, are among them."""
    for node in guarded.nodes:
        admin = node.client()
        grant(admin)
        admin.close()
    limiter = make_any(guarded.url.replace("://:", "://api:"), BOTH)
    for number in range(10):
        works(limiter, f"u{number}")


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_by_tls(
    make_any: Maker, tls_server: Server, subject: str, scheme: str, protocol: int
) -> None:
    """The certificate is checked, and the connections are kept."""
    url = f"{tls_server.url.replace('rediss', scheme)}&protocol={protocol}"
    limiter = make_any(url, BOTH)
    works(limiter, subject)
    watcher = tls_server.client()
    before = watcher.info("stats")["total_connections_received"]
    for _ in range(20):
        limiter.hit(subject)
    assert watcher.info("stats")["total_connections_received"] <= before + 1
    watcher.close()


def test_tls_without_any_handshake_of_redis(
    make_any: Maker,
    certificates: Certificates,
    tls_binary: Path,
    make_server: MakeServer,
    subject: str,
) -> None:
    """Unread session tickets do not look like a connection that the server closed."""
    server = make_server(tls_binary, tls=certificates)
    client = make_any.client(
        "Redis",
        host=HOST,
        port=server.port,
        ssl=True,
        ssl_ca_certs=str(certificates.ca),
        protocol=2,
        driver_info=None,
    )
    limiter = make_any(client, BOTH)
    works(limiter, subject)


@pytest.mark.parametrize("scheme", ["rediss+cluster", "valkeys+cluster"])
def test_a_cluster_by_tls(
    make_any: Maker, tls_cluster: Cluster, new_subject: Callable[[], str], scheme: str
) -> None:
    """Every node's certificate is checked."""
    limiter = make_any(tls_cluster.url.replace("rediss+cluster", scheme), BOTH)
    for _ in range(6):
        works(limiter, new_subject())


def test_tls_to_an_untrusted_server(make_any: Maker, tls_server: Server) -> None:
    """A certificate of an unknown authority, or plain text: no decision, in time."""
    bare = f"{HOST}:{tls_server.port}"
    unknown = make_any(f"rediss://:hush@{bare}", timeout=1.0)
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        unknown.hit("u")
    plain = make_any(f"redis://:hush@{bare}", timeout=1.0)
    with pytest.raises(StoreUnavailable, match="if the server uses TLS, write rediss"):
        plain.hit("u")


def test_a_tls_handshake_that_stalls(make_any: Maker, tls_server: Server) -> None:
    """It stalls in the background; the calls fail in time."""
    with Proxy((HOST, tls_server.port)) as proxy:
        proxy.replies = swallow
        url = tls_server.url.replace(str(tls_server.port), str(proxy.port))
        limiter = make_any(url, timeout=0.1, connect_timeout=0.5)
        within_deadline(lambda: limiter.hit("u"), 0.1)


class PythonParser(redis.Connection):
    """A connection that does not use hiredis."""

    def __init__(self, **settings: Any) -> None:
        parser = redis_connection._RESP2Parser
        if settings.get("protocol") == 3:
            parser = redis_connection._RESP3Parser
        super().__init__(**settings, parser_class=parser)


class AsyncPythonParser(redis.asyncio.Connection):
    """The same, for an event loop."""

    def __init__(self, **settings: Any) -> None:
        parser = _AsyncRESP3Parser if settings.get("protocol") == 3 else _AsyncRESP2Parser
        super().__init__(**settings, parser_class=parser)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, None])
@pytest.mark.parametrize("parser", ["hiredis", "python"])
def test_by_a_client(
    make_any: Maker, server: Server, subject: str, decode: bool, protocol: Any, parser: str
) -> None:
    """Only its connection settings are used; its decoding, retries and timeouts are not."""
    kit = make_any.redis
    python_parser = PythonParser if kit is redis else AsyncPythonParser
    pool = kit.ConnectionPool(
        connection_class=kit.Connection if parser == "hiredis" else python_parser,
        host=server.host,
        port=server.port,
        decode_responses=decode,
        protocol=protocol,
        socket_timeout=0.000001,
        health_check_interval=1,
        retry=kit.retry.Retry(ExponentialBackoff(), 9),
        max_connections=1,
        client_name="theirs",
    )
    works(make_any(make_any.client("Redis", connection_pool=pool), BOTH), subject)


@pytest.mark.parametrize(
    "kind", [partial(redis.Connection), lambda **more: redis.Connection(**more)]
)
def test_by_a_client_whose_connections_a_function_makes(
    make_limiter: MakeLimiter, server: Server, subject: str, kind: Any
) -> None:
    """As redis-py takes it, which only calls it."""
    pool = redis.ConnectionPool(connection_class=kind, host=server.host, port=server.port)
    client = redis.Redis(connection_pool=pool)
    works(make_limiter(client, BOTH), subject)
    client.close()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", [redis.Connection, PythonParser])
def test_the_deadline_holds_with_every_parser(
    make_limiter: MakeLimiter, server: Server, subject: str, protocol: int, kind: Any
) -> None:
    """Also after a call that waited for its connection, and so had less time for its reply."""
    with Proxy((server.host, server.port)) as proxy:
        pool = redis.ConnectionPool(
            connection_class=kind, host=HOST, port=proxy.port, protocol=protocol
        )
        for make_ready in (False, True):
            limiter = make_limiter(redis.Redis(connection_pool=pool), timeout=0.3)
            if make_ready:
                limiter.open()
            until(lambda: outcome(lambda: limiter.hit(subject)) == "allow")  # noqa: B023
            proxy.replies = swallow
            within_deadline(lambda: limiter.hit(subject), 0.3)  # noqa: B023
            proxy.mend()
        pool.disconnect()


@pytest.mark.parametrize("single", [True, False])
def test_by_a_blocking_pool(
    make_limiter: MakeLimiter, server: Server, subject: str, single: bool
) -> None:
    """The limiter does not use the pool, which would make callers wait."""
    pool = redis.BlockingConnectionPool(
        host=server.host, port=server.port, max_connections=1, timeout=1
    )
    client = redis.Redis(connection_pool=pool, single_connection_client=single)
    works(make_limiter(client, BOTH), subject)
    client.close()
    pool.disconnect()


def test_by_a_client_of_a_url(make_any: Maker, server: Server, subject: str) -> None:
    """Unix sockets and databases are read from a client as well."""
    for url in (server.unix_url, f"{server.url.removesuffix('/0')}/5"):
        client = make_any.client("Redis.from_url", url)
        works(make_any(client, BOTH), subject)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
def test_by_a_cluster_client(
    make_any: Maker, cluster: Cluster, new_subject: Callable[[], str], decode: bool, protocol: int
) -> None:
    """Its start nodes and its settings are used."""
    client = make_any.client(
        "RedisCluster",
        startup_nodes=[
            make_any.redis.cluster.ClusterNode(HOST, node.port) for node in cluster.nodes
        ],
        decode_responses=decode,
        protocol=protocol,
        require_full_coverage=False,
    )
    limiter = make_any(client, BOTH)
    for _ in range(6):
        works(limiter, new_subject())


def test_by_a_cluster_client_with_addresses_of_its_own(
    make_any: Maker, cluster: Cluster, new_subject: Callable[[], str]
) -> None:
    """``address_remap`` changes the addresses that the cluster names, but no start node."""
    proxies = {node.port: Proxy((HOST, node.port)) for node in cluster.nodes}
    client = make_any.client(
        "RedisCluster",
        host=HOST,
        port=proxies[cluster.nodes[0].port].port,
        address_remap=lambda address: (address[0], proxies[address[1]].port),
    )
    limiter = make_any(client, BOTH)
    for _ in range(9):
        works(limiter, new_subject())
    assert all(proxy.connections for proxy in proxies.values())
    limiter.close()
    for proxy in proxies.values():
        proxy.close()


def test_by_a_cluster_client_with_tls(
    make_any: Maker, certificates: Certificates, tls_cluster: Cluster, subject: str
) -> None:
    """``ssl=True`` of a RedisCluster means TLS for us too."""
    client = make_any.client(
        "RedisCluster",
        host=HOST,
        port=tls_cluster.nodes[0].port,
        ssl=True,
        ssl_ca_certs=str(certificates.ca),
    )
    works(make_any(client, BOTH), subject)


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (None, "store is a NoneType: expected redis://"),
        (5, "store is a int: expected redis://"),
        ("", "store is '': expected redis://"),
        ("localhost:6379", "store is 'localhost:6379': expected redis://"),
        ("redis://", "store is 'redis://': expected redis://"),
        ("http://localhost", "store is 'http://localhost': expected redis://"),
        ("redis://localhost/prod", "the database is not a number; expected a number"),
        ("redis://h:1?nonsense=1", "its options are wrong"),
        ("redis://h:1?protocol=9", "its options are wrong"),
        ("redis://h:1?ssl_cert_reqs=x", "its options are wrong"),
        ("redis+cluster://a:1,,b:2", "a cluster needs host:port,host:port"),
        ("redis+cluster://a:1/3", "a cluster has database 0 only"),
        ("redis+cluster://a:x", "expected redis://"),
        ("unix://", "expected redis://"),
    ],
)
def test_no_store(store: Any, said: str) -> None:
    """A wrong ``store`` is an InvalidSetting at once, and the message says what is accepted."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter("5/minute", store=store)
    assert said in str(raised.value)


def test_nothing_is_connected_before_it_is_needed(make_any: Maker, own: Server) -> None:
    """Making a limiter does no I/O and runs no event loop, so that a module may do it."""
    client = own.client()
    before = client.info("stats")["total_connections_received"]
    make_any(own.url)
    assert client.info("stats")["total_connections_received"] == before
    client.close()


def test_open_makes_every_primary_know_the_scripts(
    make_limiter: MakeLimiter, cluster: Cluster
) -> None:
    """Then the first calls need no second try."""
    clients = [node.client() for node in cluster.nodes]
    for client in clients:
        client.script_flush()
    limiter = make_limiter(cluster.url, BOTH).open()
    shas = [script.sha for script in scripts_of(limiter.policies)]
    known = [True] * len(shas)
    assert [client.script_exists(*shas) for client in clients] == [known] * 3
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "url",
    [
        "user:hunter2@host:6379",
        "redis:/user:hunter2@host",
        "redis://:hunter2",
        "redis://user:hunter2",
        "redis://h:hunter2:6379",
        "redis://h?PASSWORD=hunter2&nothing=1",
        "redis+cluster://:hunter2@h:1/3",
        "redis://:hunter2@h/prod",
        "redis://user:123#hunter2@host:6379/0",
        "redis://user:123?hunter2@host:6379/0",
        "redis://user:hunter2#1@host:6379/0",
        "redis+cluster://user:77#hunter2@h:1,h2:2",
        "redis+cluster://user:77?hunter2@h:1,h2:2",
        "redis+cluster://user:77/hunter2@h:1,h2:2",
        "unix://user:77/hunter2@/server.sock",
        "redis://:#hunter2",
        "redis://h?password=at@hunter2&nothing=1",
    ],
)
def test_no_message_holds_a_password(url: str) -> None:
    """However wrong the address is, its possible password does not appear in the error."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter("1/s", store=url)

    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


#: Passwords that end an address early, or look like another part of it.
PASSWORDS = [
    "",
    "p?",
    "p#",
    "p@",
    "p/",
    "p:",
    "p&",
    "p ",
    "p%",
    "p[",
    "[",
    "p,",
    "6379",
    "p\\",
    "p\n",
    "p=",
]
#: Addresses with a password in every place where a user may put it, forget a host, or mistype.
FORMS = [
    "{s}://:{p}@{h}",
    "{s}://u:{p}@{h}",
    "{s}://{p}@{h}",
    "{s}://:{p}",
    "{s}://u:{p}",
    "{s}://:{p}{h}",
    "{s}://:{p}/0",
    "{s}://:{p}?db=0",
    "{s}:{p}@{h}",
    "{s}:/:{p}@{h}",
    "{s}//:{p}@{h}",
    "{p}@{h}",
    "{s}://{h}?password={p}",
    "{s}://{h}?db=0&PASSWORD={p}",
    "{s}://{h}? password={p}&db=x",
    "{s}://{h}?pass={p}",
    "{s}://{h}?password%3D{p}",
    "{s}://{h}?username=u&password={p}#x",
    "{s}://u:{p}@{h}?db=x",
    "{s}://{h}?ssl_password={p}&ssl_keyfile=x",
    " {s}://:{p}@{h} ",
]
SCHEMES = ["redis", "REDIS", "valkeys", "unix", "VALKEY+cluster", "redis+sentinel", "http", ""]
PLACES = ["", "h:6379/0", "h:x", "h:1,h:2", "/path?db=1", "h?db=x"]


def holds_password(url: str) -> bool:
    """Whether a message about a URL, printed in any way, has a part of its password in it."""
    try:
        Limiter("1/s", store=url)
    except InvalidSetting as error:
        chain = [error, error.__cause__, error.__context__]
        said = "".join(traceback.format_exception(error)) + "".join(map(repr, chain))
        return "hunter2" in said
    return False


def test_no_message_holds_a_part_of_any_password() -> None:
    """1,200 addresses, wrong in most ways or right."""
    passwords = [f"{part}hunter2" for part in PASSWORDS] + [
        f"hunter2{part}ss" for part in PASSWORDS
    ]
    urls = [
        form.format(s=scheme, h=place, p=password)
        for scheme, place, form, password in itertools.product(SCHEMES, PLACES, FORMS, passwords)
        # A user's name is no secret, and stands before a colon.
        if not (form.startswith("{s}://{p}@") and ":" in password.partition("hunter2")[2])
        # What follows an @ is a host, where that is a right address; behind "unix://:p" stands a path.
        if not ("@hunter2" in password and "@{h}" not in form and "?" not in form.split("{p}")[0])
        if not ("/hunter2" in password and scheme == "unix" and "@{h}" not in form)
    ]
    assert [url for url in urls[:: len(urls) // 1_200] if holds_password(url)] == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:x/0", "redis://host:***"),
        ("redis://host:6379/prod", "redis://host:6379/***"),
        ("redis://u:p@host:6379/x", "redis://u:***@host:6379/***"),
        ("http://host:1/0", "http://host:1/0"),
        ("localhost:6379", "localhost:6379"),
        ("redis://h:1?db=x&protocol=3", "redis://h:1?db=***&protocol=3"),
        ("redis+cluster://:p@a:1,b:2/3", "redis+cluster://:***@a:1,b:2/3"),
    ],
)
def test_the_parts_of_an_address_in_a_message(url: str, shown: str) -> None:
    """The parts that are certainly no password."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter("1/s", store=url)
    assert raised.value.value is not None
    assert raised.value.value.startswith(repr(shown))


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:123#word@host:6379/0",
        "redis://user:123?word@host:6379/0",
        "redis://user:123/word@host:6379/0",
        "redis+cluster://user:7#word@h:1,h2:2",
        "unix:///run/a#b.sock",
        "redis://host:6379/0#word",
    ],
)
def test_addresses_that_must_be_quoted(url: str) -> None:
    """Unquoted, it would end the address early, and lead to another store than intended."""
    with pytest.raises(InvalidSetting, match="%23 for #") as raised:
        Limiter("1/s", store=url)

    assert "123" not in str(raised.value)


def test_quoted_addresses_are_read() -> None:
    """Also an @ in the value of an option."""
    for url, name, value in [
        ("redis://user:1%23%3F%2F%40@host:1/2", "password", "1#?/@"),
        ("redis://host?password=a@b", "password", "a@b"),
        ("redis+cluster://:1%23%40@host:1,other:2", "password", "1#@"),
        ("unix:///run/a%40%23.sock?db=1", "path", "/run/a@#.sock"),
    ]:
        assert read_store(url).settings[name] == value


@pytest.mark.parametrize("rest", ["redis:6379/0", "redis", "redis/prod?protocol=3"])
def test_a_password_that_looks_like_a_database(rest: str) -> None:
    """A slash that was not quoted ends the address: what follows is still the password."""
    with pytest.raises(InvalidSetting) as raised:
        Limiter("1/s", store=f"redis://:Zm9v/hunter2@{rest}")

    said = str(raised.value)
    assert "hunter2" not in said
    assert "Zm9v" not in said
    assert "expected redis://" in said


def test_a_server_that_quotes_our_password(make_any: Maker, proxy: Proxy) -> None:
    """A server that does not know the handshake's command quotes it; our message does not."""
    proxy.replies = replace(
        b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2' \r\n"
    )

    with pytest.raises(StoreRefused) as raised:
        make_any(proxy.url.replace("//", "//:hunter2@")).hit("u")

    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__


def test_a_refusal_is_none_the_less_one_where_another_node_is_down(
    make_any: Maker, make_server: MakeServer
) -> None:
    """Wrong credentials never admit a caller, whichever node is asked last."""
    locked = make_server(password="right")  # noqa: S106
    store = f"redis+cluster://127.0.0.1:1,{locked.host}:{locked.port}"

    for _ in range(12):
        with pytest.raises(StoreRefused):
            make_any(store, on_error="allow").hit("u")


def test_opening_may_take_as_long_as_connecting(make_any: Maker, proxy: Proxy) -> None:
    """No caller waits for a decision here: a slow reply to SCRIPT LOAD is allowed."""
    proxy.replies = delay(0.15)

    make_any(proxy.url, timeout=0.1).open()

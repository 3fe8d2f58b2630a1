"""Where the store is: a URL, or a client object of redis-py, as addresses and connection settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff

from limiter.errors import InvalidSetting
from limiter.transport import redispy

Address = tuple[str, int]

ACCEPTED = (
    "accepted are redis://host:port/0, rediss:// (TLS), unix:///path, valkey://, valkeys://, "
    "redis+cluster://host:port,host:port, rediss+cluster://, memory:// (this process alone), and a "
    "client object of redis-py (Redis or RedisCluster)"
)


class Kit(NamedTuple):
    """One of the two halves of redis-py, and whose store its clients may be."""

    user: str
    package: str
    client: type[Any]
    cluster: type[Any]
    pool: type[Any]
    connection: type[Any]
    tls_connection: type[Any]
    retry: type[Any]


SYNC = Kit(
    "Limiter",
    "redis",
    redis.Redis,
    redis.RedisCluster,
    redis.ConnectionPool,
    redis.Connection,
    redis.SSLConnection,
    redis.retry.Retry,
)
ASYNC = Kit(
    "AsyncLimiter",
    "redis.asyncio",
    redis.asyncio.Redis,
    redis.asyncio.RedisCluster,
    redis.asyncio.ConnectionPool,
    redis.asyncio.Connection,
    redis.asyncio.SSLConnection,
    redis.asyncio.retry.Retry,
)


class Store(NamedTuple):
    """Addresses to begin with, and how to connect to any of them."""

    is_cluster: bool
    addresses: tuple[Address, ...]
    connection_class: type[Any]
    settings: dict[str, Any]
    retry_class: type[Any]
    remap: Callable[[Address], Address] | None = None

    def connection(self, address: Address | None, connect_timeout: float) -> Any:
        """A connection of redis-py, not yet connected; without an address, to the only one.

        Until it is connected, handshake included, it waits ``connect_timeout`` for each answer.
        """
        settings = dict(self.settings)
        if address is not None:
            settings["host"], settings["port"] = address
        return self.connection_class(
            **settings,
            socket_timeout=connect_timeout,
            socket_connect_timeout=connect_timeout,
            retry=self.retry_class(NoBackoff(), 0),
        )

    @property
    def where(self) -> str:
        """All addresses, for messages: without credentials."""
        return self.named(*self.addresses)

    def named(self, *addresses: Address) -> str:
        """Some of the addresses, for messages; with TLS, since silence may be all that it meets."""
        places = ",".join(f"{host}:{port}" for host, port in addresses)
        kind = self.connection_class  # perhaps a function that makes one
        tls = isinstance(kind, type) and issubclass(
            kind, (SYNC.tls_connection, ASYNC.tls_connection)
        )
        return f"store {self.settings.get('path', places)}{' (TLS)' if tls else ''}"


def read_store(store: object, kit: Kit = SYNC) -> Store:
    """Understand the ``store`` of a limiter.

    Raises:
        InvalidSetting: It is neither a URL that we know nor a client of that half of redis-py.

    """
    if isinstance(store, str):
        return _checked(_from_url(store, kit), repr(masked(store)), store)
    if isinstance(store, kit.cluster):
        return _checked(_from_cluster(store, kit), "a RedisCluster")
    if isinstance(store, kit.client):
        pool = store.connection_pool
        if type(pool).__name__ == "SentinelConnectionPool":
            raise InvalidSetting("store is a client of a Sentinel, which is not supported yet")
        found = _alone(pool.connection_class, pool.connection_kwargs, kit)
        return _checked(found, "a Redis client")
    name = f"{type(store).__module__}.{type(store).__qualname__}".removeprefix("builtins.")
    other = ASYNC if kit is SYNC else SYNC
    if isinstance(store, (other.client, other.cluster)):
        kind = "RedisCluster" if isinstance(store, other.cluster) else "Redis"
        raise InvalidSetting(
            f"store is a {name}, which is for {other.user}: give {kit.user} a URL, or a client of "
            f"{kit.package} ({kit.package}.{kind})"
        )
    raise InvalidSetting.of("store", f"a {name}", ACCEPTED)


#: What may be shown of a URL: of anything else no part can be told from a password.
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,31}")
_USER = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_HOST = re.compile(r"(?:[A-Za-z0-9_.*-]*|\[[0-9A-Fa-f:.]*\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"(?:/[0-9]{0,5}/?)?")
_UNIX_PATH = re.compile(r"/[A-Za-z0-9_./~-]*")
_OPTION = re.compile(
    r"(?:db|protocol|username|encoding|timeout|path|max_connections|health_check_interval|"
    r"client_name|retry_on_[a-z]{1,16}|decode_responses|(?:ssl|socket)_[a-z_]{1,32})"
)
_VALUE = re.compile(r"[0-9.]{1,16}|[Tt]rue|[Ff]alse|none|optional|required|/[A-Za-z0-9_./~-]*")
_HIDDEN = "***"


def masked(url: str) -> str:
    """The URL, with stars for each part that may be a password, or a part of one that was not quoted."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if all(map(_HOST.fullmatch, url.split(","))) else _HIDDEN
    if not _SCHEME.fullmatch(scheme):
        return _HIDDEN
    found = f"{scheme}://"
    credentials, at, rest = rest.rpartition("@")
    if any(sign in credentials for sign in "?#/"):  # behind the @ may be the end of a password
        return found + _HIDDEN
    if at:
        user, colon, _ = credentials.partition(":")
        found += f"{user if colon and _USER.fullmatch(user) else ''}:{_HIDDEN}@"
    before, mark, options = rest.partition("?")
    if "#" in rest:
        return found + _HIDDEN
    address, slash, path = before.partition("/")
    hosts = address.split(",")
    if not all(map(_HOST.fullmatch, hosts)):  # a port that is none may be a password without a host
        first, colon, _ = address.partition(":")
        return found + (f"{first}:{_HIDDEN}" if colon and _USER.fullmatch(first) else _HIDDEN)
    pattern = _UNIX_PATH if scheme.strip().lower() == "unix" else _PATH
    if not pattern.fullmatch(slash + path):
        return f"{found}{address}/{_HIDDEN}"
    return found + address + slash + path + mark + "&".join(map(_masked_option, options.split("&")))


def _masked_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if not option:
        return ""
    if name.lower() in ("password", "ssl_password") or not (equals and _OPTION.fullmatch(name)):
        return f"{name}={_HIDDEN}" if equals and name.lower() == "password" else _HIDDEN
    return option if _VALUE.fullmatch(value) else f"{name}={_HIDDEN}"


def _ends_early(rest: str) -> bool:
    """Whether the host, as a URL is read, is none: something that was not quoted stands before it."""
    before, _, options = rest.partition("?")
    names = [option.partition("=")[0] for option in options.split("&")]
    return "#" in rest or "@" in before.partition("/")[2] or any("@" in name for name in names)


def _from_url(url: str, kit: Kit) -> Store:
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    plain = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
    if not separator or not rest:
        raise InvalidSetting.of("store", repr(masked(url)), ACCEPTED)
    if _ends_early(rest):
        raise InvalidSetting.of(
            "store",
            repr(masked(url)),
            f"there is a # in it, or an @ after the host; in a user, a "
            f"password and a path write %23 for #, %40 for @, %3F for ? and %2F for /; {ACCEPTED}",
        )
    if plain in ("redis", "rediss", "unix"):
        database = rest.partition("?")[0].partition("/")[2].strip("/")
        if plain != "unix" and database and not database.isdecimal():
            raise InvalidSetting.of(
                "store", repr(masked(url)), "the database is no number; accepted is a number"
            )
        pool = _pool(f"{plain}://{rest}", url, kit)
        return _alone(pool.connection_class, pool.connection_kwargs, kit)
    if plain in ("redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster"):
        return _cluster_from_url(
            "rediss" if plain.startswith(("rediss", "valkeys")) else "redis", rest, url, kit
        )
    raise InvalidSetting.of("store", repr(masked(url)), ACCEPTED)


def _cluster_from_url(scheme: str, rest: str, url: str, kit: Kit) -> Store:
    rest, mark, query = rest.partition("?")
    before, slash, path = rest.partition("/")
    credentials, at, hosts = before.rpartition("@")
    addresses, pool = [], None
    for host in hosts.split(","):
        pool = _pool(f"{scheme}://{credentials}{at}{host}{slash}{path}{mark}{query}", url, kit)
        found = pool.connection_kwargs
        addresses.append((found.get("host", "localhost"), found.get("port", 6379)))
    if pool is None or not all(hosts.split(",")):
        raise InvalidSetting.of("store", repr(masked(url)), "a cluster needs host:port,host:port")
    if pool.connection_kwargs.get("db"):
        raise InvalidSetting.of("store", repr(masked(url)), "a cluster has database 0 only")
    settings = redispy.kept(pool.connection_kwargs)
    return Store(True, tuple(addresses), pool.connection_class, settings, kit.retry)


def _from_cluster(client: Any, kit: Kit) -> Store:
    manager = client.nodes_manager
    settings = manager.connection_kwargs
    kind = kit.tls_connection if settings.get("ssl") else kit.connection
    found = {name: value for name, value in settings.items() if name != "ssl"}
    return Store(
        True,
        tuple((node.host, int(node.port)) for node in manager.startup_nodes.values()),
        found.pop("connection_class", kind),
        redispy.kept(found),
        kit.retry,
        manager.address_remap,
    )


def _alone(kind: type[Any], settings: dict[str, Any], kit: Kit) -> Store:
    address = (settings.get("host", "localhost"), int(settings.get("port", 6379)))
    return Store(False, (address,), kind, redispy.kept(settings), kit.retry)


def _pool(plain: str, url: str, kit: Kit) -> Any:
    try:
        return kit.pool.from_url(plain)
    except (ValueError, TypeError) as error:
        why = str(error)
    # Not in the handler: what redis-py says may quote the password, and would hang on to our error.
    raise InvalidSetting.of("store", repr(masked(url)) + _reason(url, why), ACCEPTED)


def _reason(url: str, why: str) -> str:
    """What redis-py says of a URL, where nothing of that has to be hidden."""
    return f" ({why})" if masked(url) == url else ""


def _checked(store: Store, shown: str, url: str | None = None) -> Store:
    """The store, once a connection could be made: wrong options are found now, not at the first hit."""
    try:
        store.connection(store.addresses[0] if store.is_cluster else None, 1.0)
    except Exception as error:  # a setting may be of any type
        why = str(error)
    else:
        return store
    hides = url is not None and masked(url) != url
    said = "; see the names and values behind the ?" if hides else f": {why}"
    raise InvalidSetting.of("store", shown, f"its options make no connection{said}")

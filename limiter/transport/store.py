"""Where the store is: a URL, or a client object of redis-py, as addresses and connection settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry

from limiter.errors import InvalidSetting

Address = tuple[str, int]

ACCEPTED = (
    "accepted are redis://host:port/0, rediss:// (TLS), unix:///path, valkey://, valkeys://, "
    "redis+cluster://host:port,host:port, rediss+cluster://, and a client object of redis-py "
    "(Redis or RedisCluster)"
)

#: Settings of a connection that are ours: retries, deadlines, decoding, and what pools add.
_OURS = re.compile(
    r"retry.*|.*timeout|health_check_interval|decode_responses|encoding.*|redis_connect_func|"
    r"maint.*|orig_.*|oss_cluster_.*|event_dispatcher|himport_registry|cache.*|parser_class|"
    r"client_name|command_packer|max_connections|connection_pool.*"
)


class Store(NamedTuple):
    """Addresses to begin with, and how to connect to any of them."""

    is_cluster: bool
    addresses: tuple[Address, ...]
    connection_class: type[Any]
    settings: dict[str, Any]
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
            retry=Retry(NoBackoff(), 0),
        )

    @property
    def where(self) -> str:
        """The address for messages, without credentials."""
        if "path" in self.settings:
            return f"store {self.settings['path']}"
        return "store " + ",".join(f"{host}:{port}" for host, port in self.addresses)


def read_store(store: object) -> Store:
    """Understand the ``store`` of a limiter.

    Raises:
        InvalidSetting: It is neither a URL that we know nor a client of redis-py.

    """
    if isinstance(store, str):
        return _checked(_from_url(store), masked(store))
    if isinstance(store, redis.RedisCluster):
        return _checked(_from_cluster(store), "a RedisCluster")
    if isinstance(store, redis.Redis):
        pool = store.connection_pool
        if type(pool).__name__ == "SentinelConnectionPool":
            raise InvalidSetting("store is a client of a Sentinel, which is not supported yet")
        return _checked(_alone(pool.connection_class, pool.connection_kwargs), "a Redis client")
    name = f"{type(store).__module__}.{type(store).__qualname__}".removeprefix("builtins.")
    raise InvalidSetting(f"store is a {name}: {ACCEPTED}")


#: All that stands before the last @: a scheme, a user, and what may be a password.
_CREDENTIALS = re.compile(r"\A([^:@/]*:/{0,2})?([^:@/]*:)?.*@", re.DOTALL)
#: What stands where a port belongs and is none: a password whose host was forgotten.
_NO_PORT = re.compile(r"\A([^:@/]*://[^/@\[*]*?:)(?![0-9]+(?:[/?,]|\Z))[^/?@*]*\Z")


def masked(url: str) -> str:
    """The URL without its password, also where the password should have been quoted."""
    hidden = _CREDENTIALS.sub(lambda m: f"{m[1] or ''}{m[2] or ':'}***@", url)
    hidden = _NO_PORT.sub(r"\1***", hidden)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden, flags=re.IGNORECASE)


def _from_url(url: str) -> Store:
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    plain = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
    if not separator or not rest:
        raise InvalidSetting(f"store is {masked(url)!r}: {ACCEPTED}")
    if plain in ("redis", "rediss", "unix"):
        database = rest.partition("?")[0].partition("/")[2].strip("/")
        if plain != "unix" and database and not database.isdecimal():
            raise InvalidSetting(
                f"store is {masked(url)!r}: the database is {database!r}; accepted is a number"
            )
        pool = _pool(f"{plain}://{rest}", url)
        return _alone(pool.connection_class, pool.connection_kwargs)
    if plain in ("redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster"):
        return _cluster_from_url(
            "rediss" if plain.startswith(("rediss", "valkeys")) else "redis", rest, url
        )
    raise InvalidSetting(f"store is {masked(url)!r}: {ACCEPTED}")


def _cluster_from_url(scheme: str, rest: str, url: str) -> Store:
    rest, mark, query = rest.partition("?")
    before, slash, path = rest.partition("/")
    credentials, at, hosts = before.rpartition("@")
    addresses, pool = [], None
    for host in hosts.split(","):
        pool = _pool(f"{scheme}://{credentials}{at}{host}{slash}{path}{mark}{query}", url)
        found = pool.connection_kwargs
        addresses.append((found.get("host", "localhost"), found.get("port", 6379)))
    if pool is None or not all(hosts.split(",")):
        raise InvalidSetting(f"store is {masked(url)!r}: a cluster needs host:port,host:port")
    if pool.connection_kwargs.get("db"):
        raise InvalidSetting(f"store is {masked(url)!r}: a cluster has database 0 only")
    settings = _theirs(pool.connection_kwargs)
    return Store(True, tuple(addresses), pool.connection_class, settings)


def _from_cluster(client: redis.RedisCluster) -> Store:
    manager = client.nodes_manager
    nodes: list[ClusterNode] = list(manager.startup_nodes.values())
    settings = manager.connection_kwargs
    kind = redis.SSLConnection if settings.get("ssl") else redis.Connection
    kept = {name: value for name, value in settings.items() if name != "ssl"}
    return Store(
        True,
        tuple((node.host, int(node.port)) for node in nodes),
        kept.pop("connection_class", kind),
        _theirs(kept),
        manager.address_remap,
    )


def _alone(kind: type[Any], settings: dict[str, Any]) -> Store:
    address = (settings.get("host", "localhost"), int(settings.get("port", 6379)))
    return Store(False, (address,), kind, _theirs(settings))


def _theirs(settings: dict[str, Any]) -> dict[str, Any]:
    """The user's settings that are not ours to make."""
    return {name: value for name, value in settings.items() if not _OURS.fullmatch(name)}


def _pool(plain: str, url: str) -> redis.ConnectionPool:
    try:
        pool = redis.ConnectionPool.from_url(plain)
    except (ValueError, TypeError) as error:
        # What redis-py says may quote the password; where there is one, nothing is said.
        why = f" ({error})" if masked(url) == url else ""
        raise InvalidSetting(f"store is {masked(url)!r}{why}: {ACCEPTED}") from None
    return pool


def _checked(store: Store, shown: str) -> Store:
    """The store, once a connection could be made: wrong options are found now, not at the first hit."""
    try:
        store.connection(store.addresses[0] if store.is_cluster else None, 1.0)
    except Exception as error:
        raise InvalidSetting(f"store is {shown}: its options make no connection: {error}") from None
    return store

"""Read a limiter's ``store``, a URL or a client of redis-py, as addresses and connection settings."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple
from urllib.parse import unquote

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.retry
import redis.sentinel
from redis.backoff import NoBackoff

from limiter.errors import InvalidSetting, StoreRefused
from limiter.transport import redispy
from limiter.transport.credentials import Credentials, PasswordFile
from limiter.transport.roles import connect_to_primary, connect_to_primary_in_loop
from limiter.version import __version__

Address = tuple[str, int]

ACCEPTED = (
    "expected redis://host:port/0, rediss:// (TLS), unix:///path, valkey://, valkeys://, "
    "redis+cluster://host:port,host:port, rediss+cluster://, redis+sentinel://host:port,host:port/service, "
    "rediss+sentinel://, memory:// (this process alone), and a client object of redis-py (Redis, "
    "RedisCluster or a Sentinel's)"
)


class Kit(NamedTuple):
    """The classes of ``redis`` or ``redis.asyncio``, and the limiter that takes its clients."""

    user: str
    package: str
    client: type[Any]
    cluster: type[Any]
    pool: type[Any]
    connection: type[Any]
    tls_connection: type[Any]
    retry: type[Any]
    sentinel_pool: type[Any]
    connect_to_primary: Callable[[Any], Any]


SYNC = Kit(
    "Limiter",
    "redis",
    redis.Redis,
    redis.RedisCluster,
    redis.ConnectionPool,
    redis.Connection,
    redis.SSLConnection,
    redis.retry.Retry,
    redis.sentinel.SentinelConnectionPool,
    connect_to_primary,
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
    redis.asyncio.sentinel.SentinelConnectionPool,
    connect_to_primary_in_loop,
)


class Service(NamedTuple):
    """A service that sentinels watch, which name its primary."""

    name: str
    sentinels: Store
    min_others: int = 0
    """How many other sentinels one must know to be believed."""


class Store(NamedTuple):
    """The first addresses to try, and how to connect to any address of the store."""

    is_cluster: bool
    addresses: tuple[Address, ...]
    connection_class: type[Any]
    settings: dict[str, Any]
    retry_class: type[Any]
    remap: Callable[[Address], Address] | None = None
    tls: redispy.SharedTls | None = None
    service: Service | None = None
    title: str = "store"
    """What its addresses are, for messages."""

    def connection(self, address: Address | None, connect_timeout: float) -> Any:
        """Make a connection of redis-py, not yet connected; without an address, to the only one.

        While it connects, handshake included, it waits up to ``connect_timeout`` for each answer.
        """
        settings = dict(self.settings)
        if address is not None:
            settings["host"], settings["port"] = address
        connection = self.connection_class(
            **settings,
            socket_timeout=connect_timeout,
            socket_connect_timeout=connect_timeout,
            retry=self.retry_class(NoBackoff(), 0),
        )
        if self.tls is not None:
            self.tls.share(connection)
        return connection

    @property
    def credentials(self) -> Credentials | None:
        """The user's provider of credentials, if there is one."""
        provider = self.settings.get("credential_provider")
        return provider if isinstance(provider, Credentials) else None

    @property
    def where(self) -> str:
        """All addresses, for messages, without credentials."""
        if self.service is not None:
            title = f"store {self.service.name} of the sentinels"
            return self._replace(title=title).named(*self.addresses)
        return self.named(*self.addresses)

    def named(self, *addresses: Address) -> str:
        """Some of the addresses, for messages, and whether TLS is used: a server without it is silent."""
        listed = ",".join(f"{host}:{port}" for host, port in addresses)
        return f"{self.title} {self.settings.get('path', listed)}{' (TLS)' if self._is_tls else ''}"

    @property
    def _is_tls(self) -> bool:
        kind = self.connection_class  # may also be a function
        return isinstance(kind, type) and issubclass(
            kind, (SYNC.tls_connection, ASYNC.tls_connection)
        )

    @property
    def checks_certificates(self) -> bool | None:
        """Whether TLS checks the servers' certificates; None without TLS."""
        if not self._is_tls:
            return None
        return self.settings.get("ssl_cert_reqs", "required") not in ("none", ssl.CERT_NONE)


def read_store(store: object, kit: Kit = SYNC) -> Store:
    """Read the ``store`` of a limiter.

    Raises:
        InvalidSetting: It is neither a URL that we know nor a client of the kit's classes.

    """
    if isinstance(store, str):
        return _checked(_from_url(store, kit), repr(masked(store)), store)
    if isinstance(store, kit.cluster):
        return _checked(_from_cluster(store, kit), "a RedisCluster")
    if isinstance(store, kit.client):
        pool = store.connection_pool
        if isinstance(pool, kit.sentinel_pool):
            return _checked(_from_sentinel(pool, kit), "a client of a Sentinel")
        parsed = _alone(pool.connection_class, pool.connection_kwargs, kit)
        return _checked(parsed, "a Redis client")
    name = f"{type(store).__module__}.{type(store).__qualname__}".removeprefix("builtins.")
    other = ASYNC if kit is SYNC else SYNC
    if isinstance(store, (other.client, other.cluster)):
        kind = "RedisCluster" if isinstance(store, other.cluster) else "Redis"
        raise InvalidSetting(
            f"store is a {name}, which is for {other.user}: give {kit.user} a URL, or a client of "
            f"{kit.package} ({kit.package}.{kind})"
        )
    raise InvalidSetting.of("store", f"a {name}", ACCEPTED)


#: The parts of a URL that a message may show: any other text may be a password.
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,31}")
_USER = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_HOST = re.compile(r"(?:[A-Za-z0-9_.*-]*|\[[0-9A-Fa-f:.]*\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"(?:/[0-9]{0,5}/?)?")
_SERVICE_PATH = re.compile(r"(?:/[A-Za-z0-9_.-]{0,64}(?:/[0-9]{0,5})?)?")
_UNIX_PATH = re.compile(r"/[A-Za-z0-9_./~-]*")
_OPTION = re.compile(
    r"(?:db|protocol|(?:sentinel_)?username|encoding|timeout|path|max_connections|health_check_interval|"
    r"password_file|client_name|retry_on_[a-z]{1,16}|decode_responses|(?:ssl|socket)_[a-z_]{1,32})"
)
_VALUE = re.compile(r"[0-9.]{1,16}|[Tt]rue|[Ff]alse|none|optional|required|/[A-Za-z0-9_./~-]*")
_HIDDEN = "***"


def masked(url: str) -> str:
    """The URL with ``***`` for each part that may be a password, or the rest of one that was not quoted."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url if all(map(_HOST.fullmatch, url.split(","))) else _HIDDEN
    if not _SCHEME.fullmatch(scheme):
        return _HIDDEN
    safe = f"{scheme}://"
    credentials, at, rest = rest.rpartition("@")
    if any(sign in credentials for sign in "?#/"):  # the end of a password may come after the @
        return safe + _HIDDEN
    if at:
        user, colon, _ = credentials.partition(":")
        safe += f"{user if colon and _USER.fullmatch(user) else ''}:{_HIDDEN}@"
    before, mark, options = rest.partition("?")
    if "#" in rest:
        return safe + _HIDDEN
    address, slash, path = before.partition("/")
    hosts = address.split(",")
    if not all(
        map(_HOST.fullmatch, hosts)
    ):  # "user:password" without a host looks like a wrong port
        first, colon, _ = address.partition(":")
        return safe + (f"{first}:{_HIDDEN}" if colon and _USER.fullmatch(first) else _HIDDEN)
    kind = scheme.strip().lower()
    pattern = _UNIX_PATH if kind == "unix" else _PATH
    if kind.endswith("+sentinel"):
        pattern = _SERVICE_PATH
    if not pattern.fullmatch(slash + path):
        return f"{safe}{address}/{_HIDDEN}"
    return safe + address + slash + path + mark + "&".join(map(_masked_option, options.split("&")))


def _masked_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if not option:
        return ""
    if name.lower() in ("password", "ssl_password", "sentinel_password") or not (
        equals and _OPTION.fullmatch(name)
    ):
        is_plain = equals and name.lower() in ("password", "sentinel_password")
        return f"{name}={_HIDDEN}" if is_plain else _HIDDEN
    return option if _VALUE.fullmatch(value) else f"{name}={_HIDDEN}"


def _ends_early(rest: str) -> bool:
    """Whether a # or @ that was not quoted ends the URL's host too early."""
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
            f"it has a # in it, or an @ after the host; in a user, a "
            f"password and a path write %23 for #, %40 for @, %3F for ? and %2F for /; {ACCEPTED}",
        )
    if plain in ("redis", "rediss", "unix"):
        database = rest.partition("?")[0].partition("/")[2].strip("/")
        if plain != "unix" and database and not database.isdecimal():
            raise InvalidSetting.of(
                "store", repr(masked(url)), "the database is not a number; expected a number"
            )
        pool = _pool(f"{plain}://{rest}", url, kit)
        return _alone(pool.connection_class, _from_options(pool.connection_kwargs, url), kit)
    if plain in ("redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster"):
        return _cluster_from_url(_scheme_of(plain), rest, url, kit)
    if plain in ("redis+sentinel", "rediss+sentinel", "valkey+sentinel", "valkeys+sentinel"):
        return _sentinel_from_url(_scheme_of(plain), rest, url, kit)
    raise InvalidSetting.of("store", repr(masked(url)), ACCEPTED)


def _scheme_of(plain: str) -> str:
    """Return the scheme of one server, for one of several servers."""
    return "rediss" if plain.startswith(("rediss", "valkeys")) else "redis"


def _cluster_from_url(scheme: str, rest: str, url: str, kit: Kit) -> Store:
    addresses, pool = _each_host(scheme, rest, url, kit, 6379)
    if not addresses:
        raise InvalidSetting.of("store", repr(masked(url)), "a cluster needs host:port,host:port")
    if pool.connection_kwargs.get("db"):
        raise InvalidSetting.of("store", repr(masked(url)), "a cluster has database 0 only")
    settings = _from_options(pool.connection_kwargs, url)
    return Store(True, addresses, pool.connection_class, settings, kit.retry)


def _each_host(
    scheme: str, rest: str, url: str, kit: Kit, port: int
) -> tuple[tuple[Address, ...], Any]:
    """Return the addresses of a URL with several hosts (none if one is empty), and a pool of the last."""
    rest, mark, query = rest.partition("?")
    before, slash, path = rest.partition("/")
    credentials, at, hosts = before.rpartition("@")
    addresses, pool = [], None
    for host in hosts.split(","):
        pool = _pool(f"{scheme}://{credentials}{at}{host}{slash}{path}{mark}{query}", url, kit)
        options = pool.connection_kwargs
        addresses.append((options.get("host", "localhost"), options.get("port", port)))
    return tuple(addresses) if all(hosts.split(",")) else (), pool


#: Where sentinels listen.
_SENTINEL_PORT = 26_379
#: Settings of the service's servers that the sentinels do not have.
_OF_SERVERS = ("host", "port", "db", "username", "password", "credential_provider")
_OF_SENTINELS = ("sentinel_username", "sentinel_password")


def _sentinel_from_url(scheme: str, rest: str, url: str, kit: Kit) -> Store:
    before, mark, query = rest.partition("?")
    hosts, _, path = before.partition("/")
    name, _, database = path.partition("/")
    if not name or (database and not database.isdecimal()):
        expected = (
            "expected redis+sentinel://host:port,host:port/service, and after it perhaps / and the "
            "number of a database"
        )
        raise InvalidSetting.of("store", repr(masked(url)), expected)
    addresses, pool = _each_host(
        scheme, f"{hosts}/{database}{mark}{query}", url, kit, _SENTINEL_PORT
    )
    if not addresses:
        raise InvalidSetting.of("store", repr(masked(url)), "a Sentinel needs host:port,host:port")
    options = dict(pool.connection_kwargs)
    login = {each.removeprefix("sentinel_"): options.pop(each, None) for each in _OF_SENTINELS}
    settings = _from_options(options, url)
    of_sentinels = {each: value for each, value in settings.items() if each not in _OF_SERVERS}
    sentinels = _sentinels(addresses, pool.connection_class, {**of_sentinels, **login}, kit)
    return _watched(Service(unquote(name), sentinels), pool.connection_class, settings, kit)


def _from_sentinel(pool: Any, kit: Kit) -> Store:
    if not pool.is_master:
        raise InvalidSetting(
            "store is a client of a service's replicas, which accept no charges: give the one that "
            "master_for makes"
        )
    manager = pool.sentinel_manager
    if not manager.sentinels:
        raise InvalidSetting("store is a client of a Sentinel that has no sentinels: give it some")
    pools = [client.connection_pool for client in manager.sentinels]
    each_alone = [_alone(each.connection_class, each.connection_kwargs, kit) for each in pools]
    addresses = tuple(address for store in each_alone for address in store.addresses)
    _, _, kind, of_sentinels, *_ = each_alone[0]
    sentinels = _sentinels(addresses, kind, of_sentinels, kit)
    service = Service(pool.service_name, sentinels, manager.min_other_sentinels)
    is_tls = issubclass(pool.connection_class, kit.tls_connection)
    settings = redispy.kept(pool.connection_kwargs)
    kind = kit.tls_connection if is_tls else kit.connection
    return _watched(service, kind, settings, kit)._replace(remap=redispy.forced_address(manager))


def _sentinels(
    addresses: tuple[Address, ...], kind: type[Any], settings: dict[str, Any], kit: Kit
) -> Store:
    """Return how to connect to sentinels, which are no servers of the store."""
    return _completed(Store(False, addresses, kind, settings, kit.retry, title="sentinel"))


def _watched(service: Service, kind: type[Any], settings: dict[str, Any], kit: Kit) -> Store:
    """Return a store whose every connection checks that its server is a primary."""
    settings = {**settings, "redis_connect_func": kit.connect_to_primary}
    return Store(False, service.sentinels.addresses, kind, settings, kit.retry, service=service)


def _from_options(options: dict[str, Any], url: str) -> dict[str, Any]:
    """Return the settings of a URL's connections, with what ``password_file`` stands for."""
    settings = redispy.kept(options)
    path = settings.pop("password_file", None)
    if path is None:
        return settings
    if settings.get("password"):
        raise InvalidSetting.of(
            "store",
            repr(masked(url)),
            "it has a password and a password_file; expected one of them",
        )
    provider = PasswordFile(path, settings.pop("username", None))
    settings.pop("password", None)
    try:
        provider.get_credentials()
    except StoreRefused as error:
        raise InvalidSetting.of("store", repr(masked(url)), str(error)) from None
    return {**settings, "credential_provider": provider}


def _from_cluster(client: Any, kit: Kit) -> Store:
    manager = client.nodes_manager
    settings = manager.connection_kwargs
    kind = kit.tls_connection if settings.get("ssl") else kit.connection
    options = {name: value for name, value in settings.items() if name != "ssl"}
    return Store(
        True,
        tuple((node.host, int(node.port)) for node in manager.startup_nodes.values()),
        options.pop("connection_class", kind),
        redispy.kept(options),
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
        reason = str(error)
    # Raised outside the handler: redis-py's error may quote the password, and must not be our context.
    raise InvalidSetting.of("store", repr(masked(url)) + _reason(url, reason), ACCEPTED)


def _reason(url: str, reason: str) -> str:
    """redis-py's reason to reject a URL, in parentheses; empty if a part of the URL must be hidden."""
    return f" ({reason})" if masked(url) == url else ""


def _completed(store: Store) -> Store:
    """Add what the connections of a store share, and our name for CLIENT LIST."""
    settings = dict(store.settings)
    provider = settings.get("credential_provider")
    if provider is not None:
        settings["credential_provider"] = Credentials(provider, store.where)
    if not {"lib_name", "lib_version"} & settings.keys():
        driver = settings.get("driver_info", redis.DriverInfo())
        if driver is not None:
            settings["driver_info"] = deepcopy(driver).add_upstream_driver("slotgate", __version__)
    tls = redispy.shared_tls(store.connection_class, settings)
    return store._replace(settings=settings, tls=tls)


def _checked(store: Store, shown: str, url: str | None = None) -> Store:
    """Return the store after making a connection object: wrong options fail now, not at the first hit."""
    try:
        is_alone = not store.is_cluster and store.service is None
        store.connection(None if is_alone else store.addresses[0], 1.0)
        if store.service is not None:
            store.service.sentinels.connection(store.addresses[0], 1.0)
    except Exception as error:  # options may be of any type, and raise any error
        reason = str(error)
    else:
        return _completed(store)
    hides = url is not None and masked(url) != url
    details = "; see the names and values behind the ?" if hides else f": {reason}"
    raise InvalidSetting.of("store", shown, f"its options are wrong{details}")

"""The only code that uses private names of redis-py, hiredis and asyncio's streams.

redis-py makes a connection: it does the address, TLS, AUTH and HELLO. Then we take the connection over,
and read its replies with our own hiredis reader, which needs private names. Those of redis-py are checked
when this module is imported, so that a version that lacks one is refused before the first connection.
"""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, ResponseError

from limiter.transport import forks

#: A reader returns this while a reply is not complete.
NOT_COMPLETE = object()

#: A message that a server sends by itself (RESP3), which is not the reply to a call.
Push = hiredis.PushNotification

#: Settings of a client that we keep: the address, the credentials, and how TLS is checked. We choose all
#: others (timeouts, retries, decoding, caches, notifications) ourselves.
_KEPT = frozenset(
    {
        *("host", "port", "path", "db", "protocol"),
        *("username", "password", "credential_provider"),
        *("client_name", "lib_name", "lib_version", "driver_info"),
        *("socket_keepalive", "socket_keepalive_options", "socket_type"),
    }
)
_KEPT_PREFIX = "ssl_"
#: Settings of TLS that name files, which may change while the program runs.
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
#: Settings of TLS that only connections for threads have: each connection is checked by redis-py itself.
_TLS_OF_THREADS = ("ssl_validate_", "ssl_ocsp_")

#: Replaces the transport of a stream whose connection was taken over: the stream must not close it.
_CLOSING = SimpleNamespace(is_closing=lambda: True)


class ErrorReply(ResponseError):
    """An error reply of the server; ``status_code`` is its first word, which names its kind."""

    def __init__(self, text: str) -> None:
        code, _, rest = text.partition(" ")
        super().__init__(rest or text, status_code=code)


def new_reader() -> Any:
    """Make a reader of replies that returns errors as ``ErrorReply``, and does not decode bytes."""
    return hiredis.Reader(
        protocolError=InvalidResponse,
        replyError=ErrorReply,
        errors="replace",
        notEnoughData=NOT_COMPLETE,
    )


def forced_address(manager: Any) -> Callable[[tuple[str, int]], tuple[str, int]] | None:
    """What a ``Sentinel`` with ``force_master_ip`` makes of an address; None without it."""
    host = getattr(manager, "_force_master_ip", None)
    return None if host is None else lambda address: (host, address[1])


def kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a client's connections that our connections get, too.

    A setting that redis-py does not know is kept: the user's own connection class may know it. If it does
    not, making a connection fails with a message.
    """
    return {
        name: value
        for name, value in settings.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIX) or name not in _known
    }


def connected(connection: Any) -> socket.socket:
    """Connect, and return the socket with nothing left to read on it.

    Raises:
        redis.RedisError, OSError: The connection could not be made.

    """
    try:
        connection.connect()
        connected_socket = connection._sock
        if is_tls(connected_socket):
            # A server may send TLS session tickets after the handshake. Unread, they would look as if it
            # had closed the connection. The reply to PING comes after them.
            connection.send_command("PING", check_health=False)
            connection.read_response()
        if connection.can_read(0):
            raise ConnectionLost("the server closed the connection, or sent data without a request")
    except BaseException:  # redis-py closes the socket only after its own errors while it connects
        connection.disconnect()
        raise
    return cast("socket.socket", connected_socket)


def is_tls(connected_socket: socket.socket) -> bool:
    """Whether a socket speaks TLS, and so may hold data that it has read and not yet returned."""
    return hasattr(connected_socket, "pending")


class SharedTls:
    """One SSL context for all connections of a store: to make one takes 10 to 40 ms.

    It is made anew when a file of certificates has changed, so that renewed ones are used.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {
            name: value for name, value in settings.items() if name.startswith(_KEPT_PREFIX)
        }
        system = ssl.get_default_verify_paths()
        files = [system.cafile, system.capath, *map(self._settings.get, _TLS_FILES)]
        self._files = [file for file in files if file]
        self._versions: list[tuple[int, int] | None] | None = None
        self.after_fork()
        forks.remember(self)

    def after_fork(self) -> None:
        """Replace the lock: in a fork's child, it may be held."""
        self._lock = threading.Lock()

    def share(self, connection: Any) -> None:
        """Make a connection of redis-py use the shared context when it connects."""
        if hasattr(connection, "ssl_context"):
            connection.ssl_context = self._current()
        else:  # it is for threads
            connection._wrap_socket_with_ssl = partial(self._wrapped, connection.host)

    def _wrapped(self, host: str, plain: socket.socket) -> ssl.SSLSocket:
        with self._lock:  # threads that connect at the same time must not each make one
            context: ssl.SSLContext = self._current().get()
        return context.wrap_socket(plain, server_hostname=host)

    def _current(self) -> Any:
        """The context, which redis-py makes at its first use."""
        versions = [_version_of(file) for file in self._files]
        if versions != self._versions:
            self._context = redis.asyncio.SSLConnection(**self._settings).ssl_context
            self._versions = versions
        return self._context


def shared_tls(kind: type[Any], settings: Mapping[str, Any]) -> SharedTls | None:
    """Make the shared context of such connections; None without TLS, or if they make their own."""
    if kind not in (redis.SSLConnection, redis.asyncio.SSLConnection):
        return None
    if any(name.startswith(_TLS_OF_THREADS) for name in settings):
        return None
    return SharedTls(settings)


def host_name(connection: Any) -> str | None:
    """The host name to which a connection of ``redis.asyncio`` leads, if it takes a connected socket."""
    host = getattr(connection, "host", None)
    own = type(connection)._connect is redis.asyncio.Connection._connect
    return host if own and not _is_address(host) else None


def use_socket(connection: Any, dialed: socket.socket) -> None:
    """Make a connection of ``redis.asyncio`` use this socket in place of one of its own."""
    arguments = connection._connection_arguments()
    if arguments.get("ssl"):
        arguments["server_hostname"] = arguments["host"]
    del arguments["host"], arguments["port"]
    arguments["sock"] = dialed
    connection._connection_arguments = lambda: arguments


async def connected_in_loop(connection: Any) -> None:
    """As ``connected``, for a connection of ``redis.asyncio``; afterwards call ``taken_over``."""
    await connection.connect()
    if connection._writer.get_extra_info("ssl_object") is not None:
        # As in ``connected``.
        await connection.send_command("PING", check_health=False)
        await connection.read_response()


async def taken_over(connection: Any) -> asyncio.Transport:
    """Take the transport from a connection of redis-py, which can no longer use or close it.

    The caller must set its own protocol before it awaits anything else: until then nothing is read.

    Raises:
        redis.ConnectionError: The server closed it, or sent data without a request.

    """
    writer = connection._writer
    transport = writer.transport
    # A reset closes the transport, and shows in nothing that can be read.
    if await connection.can_read() or transport.is_closing():
        raise ConnectionLost("the server closed the connection, or sent data without a request")
    # When a stream's writer is garbage-collected, it closes its transport, unless that is closing already.
    writer._transport = _CLOSING
    connection._reader = connection._writer = None
    return cast("asyncio.Transport", transport)


def close_in_loop(connection: Any) -> None:
    """Close a connection of ``redis.asyncio`` without waiting, unless it was taken over."""
    connection._close()


def free_socket(transport: asyncio.Transport) -> None:
    """Close a transport's socket now, because its event loop was closed before the loop could do it."""
    inner: Any = getattr(transport, "_ssl_protocol", transport)
    inner = getattr(inner, "_transport", inner)
    inner_socket = getattr(inner, "_sock", None)
    if inner_socket is not None:
        inner_socket.close()
        inner._sock = None


def _version_of(file: str) -> tuple[int, int] | None:
    """What changes when a file is replaced, written, or becomes readable."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _is_address(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return not host
    return True


def _known_settings() -> frozenset[str]:
    """Every setting of redis-py's connections, pools and clients."""
    names = {"response_callbacks"}  # RedisCluster adds it by itself
    for half in (redis, redis.asyncio):
        for kind in (
            *(half.Connection, half.SSLConnection, half.UnixDomainSocketConnection),
            *(half.ConnectionPool, half.Redis, half.RedisCluster),
        ):
            for base in kind.__mro__:
                with suppress(TypeError, ValueError):  # a class without a signature
                    names |= set(inspect.signature(base.__init__).parameters)
    return frozenset(names - {"self", "args", "kwargs"})


def check() -> None:
    """Check that the installed redis-py has the private names that this module uses.

    Raises:
        ImportError: It lacks one; the message has the name and the version.

    """
    sync: Any = redis.Connection
    in_loop: Any = redis.asyncio.Connection
    wanted = {
        "Connection": (sync(), ("_sock", "can_read")),
        "SSLConnection": (redis.SSLConnection(), ("_wrap_socket_with_ssl",)),
        "asyncio.SSLConnection": (redis.asyncio.SSLConnection(), ("ssl_context",)),
        "asyncio.Connection": (
            in_loop(),
            ("_reader", "_writer", "_connect", "_connection_arguments", "_close", "can_read"),
        ),
    }
    lacking = [
        f"{kind}.{name}"
        for kind, (connection, names) in wanted.items()
        for name in names
        if not hasattr(connection, name)
    ]
    if lacking:
        raise ImportError(
            f"redis-py is {redis.__version__}, which has no {' and no '.join(lacking)}: expected 8.0 "
            f"and later, below 9; pip install 'redis[hiredis]>=8.0,<9'"
        )


check()
_known = _known_settings()

"""What we take from redis-py and hiredis beyond calling them, in one place.

redis-py connects: address, TLS, AUTH and HELLO are its work. Then we take the connection over, and read its
replies with a reader of our own. For that we use names that are not public, of redis-py and of asyncio's
streams. They stand here and nowhere else, and those of redis-py are checked when this is imported: a
version that lacks one of them is refused at once, and not when the first connection is made.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import InvalidResponse, ResponseError

#: What a reader answers as long as a reply is not complete.
NOT_COMPLETE = object()

#: What a server sends by itself (RESP3): no reply to a call.
Push = hiredis.PushNotification

#: Settings of a client that we keep: where the server is, who we are there, and how TLS is checked. All
#: others (time-outs, retries, decoding, caches, notifications) are ours to choose.
_KEPT = frozenset(
    {
        *("host", "port", "path", "db", "protocol"),
        *("username", "password", "credential_provider"),
        *("client_name", "lib_name", "lib_version", "driver_info"),
        *("socket_keepalive", "socket_keepalive_options", "socket_type"),
    }
)
_KEPT_PREFIX = "ssl_"

#: Seconds after which a name's next address is tried beside the one before (RFC 8305 recommends it).
_EYEBALLS_DELAY = 0.25

#: Stands for the transport of a stream that was taken over; such a stream must not close it.
_CLOSING = SimpleNamespace(is_closing=lambda: True)


class ErrorReply(ResponseError):
    """An error that the server answered; ``status_code`` is its first word, which tells its kind."""

    def __init__(self, text: str) -> None:
        code, _, rest = text.partition(" ")
        super().__init__(rest or text, status_code=code)


def new_reader() -> Any:
    """A reader of replies that returns errors as ``ErrorReply``, and bytes as they are."""
    return hiredis.Reader(
        protocolError=InvalidResponse,
        replyError=ErrorReply,
        errors="replace",
        notEnoughData=NOT_COMPLETE,
    )


def kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a client's connections that hold for ours as well.

    What redis-py does not know stays, too: a connection class of the user's own may, and if not, making
    a connection says so.
    """
    return {
        name: value
        for name, value in settings.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIX) or name not in _known
    }


def connected(connection: Any) -> socket.socket:
    """Connect, and return the socket, on which nothing is left to be read.

    Raises:
        redis.RedisError, OSError: It failed.

    """
    connection.connect()
    found = connection._sock
    if hasattr(found, "pending"):
        # TLS sends session tickets after its handshake. Unread, they would look like a server
        # that closed the connection; an answer comes behind them.
        connection.send_command("PING", check_health=False)
        connection.read_response()
    if connection.can_read(0):
        raise ConnectionLost("the server closed the connection, or sent what was not asked for")
    return cast("socket.socket", found)


def dial_in_parallel(connection: Any) -> None:
    """Have a connection of ``redis.asyncio`` try the next address of a name while one is silent.

    Only for a name with several addresses: asyncio may leave a socket to the garbage collector where
    this is cancelled. uvloop has no such option; it tries one address after the other.
    """
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        given = connection._connection_arguments()
        given["happy_eyeballs_delay"] = _EYEBALLS_DELAY
        connection._connection_arguments = lambda: given


async def connected_in_loop(connection: Any) -> None:
    """As ``connected``, for a connection of ``redis.asyncio``; then it may be taken over."""
    await connection.connect()
    if connection._writer.get_extra_info("ssl_object") is not None:
        # As in ``connected``.
        await connection.send_command("PING", check_health=False)
        await connection.read_response()


async def taken_over(connection: Any) -> asyncio.Transport:
    """The transport of a connection, which nothing else may use or close any more.

    The caller sets a protocol of its own before anything else is awaited: until then nothing is read.

    Raises:
        redis.ConnectionError: The server closed it, or sent what was not asked for.

    """
    if await connection.can_read():
        raise ConnectionLost("the server closed the connection, or sent what was not asked for")
    writer = connection._writer
    transport = writer.transport
    # A stream's writer that is collected closes its connection, unless that is closed already.
    writer._transport = _CLOSING
    connection._reader = connection._writer = None
    return cast("asyncio.Transport", transport)


def close_in_loop(connection: Any) -> None:
    """Close a connection of ``redis.asyncio`` without waiting, unless it was taken over."""
    connection._close()


def free_socket(transport: asyncio.Transport) -> None:
    """Close a transport's socket now, where its event loop was closed before it could."""
    inner: Any = getattr(transport, "_ssl_protocol", transport)
    inner = getattr(inner, "_transport", inner)
    held = getattr(inner, "_sock", None)
    if held is not None:
        held.close()
        inner._sock = None


def _known_settings() -> frozenset[str]:
    """Every setting of redis-py's connections, pools and clients."""
    found = {"response_callbacks"}  # which RedisCluster adds by itself
    for half in (redis, redis.asyncio):
        for kind in (
            *(half.Connection, half.SSLConnection, half.UnixDomainSocketConnection),
            *(half.ConnectionPool, half.Redis, half.RedisCluster),
        ):
            for one in kind.__mro__:
                with suppress(TypeError, ValueError):  # a class without a signature
                    found |= set(inspect.signature(one.__init__).parameters)
    return frozenset(found - {"self", "args", "kwargs"})


def check() -> None:
    """Refuse a redis-py that we cannot work with.

    Raises:
        ImportError: It lacks a name that we need; the message says which, and the version.

    """
    sync: Any = redis.Connection
    in_loop: Any = redis.asyncio.Connection
    wanted = {
        "Connection": (sync(), ("_sock", "can_read")),
        "asyncio.Connection": (
            in_loop(),
            ("_reader", "_writer", "_connection_arguments", "_close", "can_read"),
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
            f"redis-py is {redis.__version__}, which has no {' and no '.join(lacking)}: accepted are 8.0 "
            f"and later, below 9; pip install 'redis[hiredis]>=8.0,<9'"
        )


check()
_known = _known_settings()

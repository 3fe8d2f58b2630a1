"""Check, once for each connection, that a server is a primary: a sentinel may name one that is none now.

HELLO answers that, and needs no right, unlike ROLE.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import ResponseError

from limiter.transport.replies import fields_of


def connect_to_primary(connection: Any) -> None:
    """Log in on a connection of redis-py, and check its server; for ``redis_connect_func``.

    Raises:
        redis.ConnectionError: The server is a replica.

    """
    connection.on_connect()
    connection.send_command("HELLO", check_health=False)
    try:
        reply = connection.read_response()
    except ResponseError:  # the server does not know HELLO
        return
    _check(reply)


async def connect_to_primary_in_loop(connection: Any) -> None:
    """As ``connect_to_primary``, for a connection of ``redis.asyncio``."""
    await connection.on_connect()
    await connection.send_command("HELLO", check_health=False)
    try:
        reply = await connection.read_response()
    except ResponseError:
        return
    _check(reply)


def _check(hello: Any) -> None:
    role = fields_of(hello).get("role", "master")
    if role != "master":
        raise NotConnected(f"it is no primary: its role is {role}")

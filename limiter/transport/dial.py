"""Connect a socket to a host name for an event loop, at the first of its addresses that answers.

asyncio can do that, and uvloop cannot. Both would also look the name up by themselves, in one of the loop's
few threads.
"""

from __future__ import annotations

import asyncio
import socket
from itertools import zip_longest

from limiter.transport.name_lookup import Address, look_up

#: Seconds after which a name's next address is tried, beside the one before (recommended by RFC 8305).
NEXT_AFTER = 0.25


async def dial(host: str, port: int) -> socket.socket:
    """Return a connected socket, which does not block.

    Raises:
        OSError: There is no such name, or none of its addresses accepts a connection.

    """
    addresses = _by_turns(await look_up(host, port))
    attempts: list[asyncio.Task[socket.socket]] = []
    failure = OSError(f"{host} has no address")
    try:
        while addresses or attempts:
            if addresses:
                attempts.append(asyncio.ensure_future(_connected(addresses.pop(0))))
            await asyncio.wait(
                attempts,
                timeout=NEXT_AFTER if addresses else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in [attempt for attempt in attempts if attempt.done()]:
                attempts.remove(attempt)
                error = attempt.exception()
                if error is None:
                    return attempt.result()
                if not isinstance(error, OSError):
                    raise error
                failure = error
        raise failure
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_close)
            attempt.cancel()


async def _connected(address: Address) -> socket.socket:
    made = socket.socket(address.family, address.kind, address.protocol)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, address.address)
    except BaseException:
        made.close()
        raise
    return made


def _by_turns(addresses: list[Address]) -> list[Address]:
    """Order the addresses so that their families take turns: one of them may lead nowhere at all."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    return [address for turn in zip_longest(*families.values()) for address in turn if address]


def _close(attempt: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that is not needed any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()

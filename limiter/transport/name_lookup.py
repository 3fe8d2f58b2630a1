"""Look-ups of host names for an event loop, in their own threads.

An event loop has few threads for all such work. While a name server is silent, abandoned look-ups would
fill them: the application's own work would wait, and the program could not end. (asyncio looks the name
up once more when it connects, but only after a look-up here has been answered.)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import os
import socket
from contextlib import suppress
from functools import partial

from limiter.threads import start_thread

_Name = tuple[int, str, int]
_LookUp = concurrent.futures.Future[int]
#: Look-ups under way, by process (the child of a fork does not have the thread), host and port.
_under_way: dict[_Name, _LookUp] = {}


async def look_up(host: str, port: int) -> int:
    """Count the addresses of a host name; look-ups of one name at the same time share a thread.

    Raises:
        OSError: There is no such name.

    """
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return 1
    name = (os.getpid(), host, port)
    pending = _under_way.get(name)
    if pending is None:
        pending = _LookUp()
        pending.set_running_or_notify_cancel()  # a caller may give up; the look-up cannot
        start_thread(partial(_run, name, pending), f"{host}:{port}")
    return await asyncio.wrap_future(pending)


def _run(name: _Name, pending: _LookUp) -> None:
    _under_way[name] = pending
    try:
        addresses = socket.getaddrinfo(*name[1:], type=socket.SOCK_STREAM)
    except Exception as error:
        _under_way.pop(name, None)
        pending.set_exception(error)
    else:
        _under_way.pop(name, None)
        pending.set_result(len(addresses))

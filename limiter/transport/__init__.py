"""The round trip to a server: the only code that imports redis.

``store`` reads a limiter's ``store``, ``node`` keeps the connections to one server, ``base`` sends a call
and handles its reply, and ``single`` and ``cluster`` know which node has a subject. The modules for
coroutines begin with ``async_``; ``async_connection`` handles the calls on one connection, and ``joined``
those that are sent as one. ``wire`` (a call as bytes), ``replies`` (errors), ``redirects`` (what an error
reply allows next) and ``slots`` (a cluster's table) do no I/O.
"""

from __future__ import annotations

from limiter.transport.async_base import AsyncTransport, LoopTransport, finish
from limiter.transport.async_cluster import ClusterLoopTransport
from limiter.transport.async_single import SingleLoopTransport
from limiter.transport.base import Transport
from limiter.transport.cluster import ClusterTransport
from limiter.transport.single import SingleTransport
from limiter.transport.store import ASYNC, read_store
from limiter.transport.wire import checked, scripts_of


def connect(store: object, timeout: float, connect_timeout: float) -> Transport:
    """Make the transport for a limiter's ``store``; its first call connects.

    Raises:
        InvalidSetting: ``store`` is neither a URL that we know nor a client of redis-py.

    """
    parsed = read_store(store)
    kind = ClusterTransport if parsed.is_cluster else SingleTransport
    return kind(parsed, timeout, connect_timeout)


def connect_async(store: object, timeout: float, connect_timeout: float) -> AsyncTransport:
    """As ``connect``, for coroutines; callable outside of any event loop."""
    parsed = read_store(store, ASYNC)
    kind: type[LoopTransport] = ClusterLoopTransport if parsed.is_cluster else SingleLoopTransport
    return AsyncTransport(kind, parsed, timeout, connect_timeout)


__all__ = [
    "AsyncTransport",
    "Transport",
    "checked",
    "connect",
    "connect_async",
    "finish",
    "scripts_of",
]

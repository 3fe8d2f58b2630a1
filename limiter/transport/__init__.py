"""The round trip: the only code that imports redis.

``store`` says where the store is, ``replies`` what its errors mean, ``node`` keeps the connections to
one server, ``base`` sends a call and follows what comes back, ``single`` and ``cluster`` know which node
has a subject. For coroutines the same with ``async_`` before it, and ``async_connection`` for the calls on
one connection. ``wire`` (a call as bytes), ``redirects`` (what an error
reply allows next) and ``slots`` (a cluster's table) do no I/O.
"""

from __future__ import annotations

from limiter.transport.async_base import AsyncTransport, LoopTransport
from limiter.transport.async_cluster import ClusterLoopTransport
from limiter.transport.async_single import SingleLoopTransport
from limiter.transport.base import Transport
from limiter.transport.cluster import ClusterTransport
from limiter.transport.single import SingleTransport
from limiter.transport.store import ASYNC, read_store
from limiter.transport.wire import script_of


def connect(store: object, timeout: float, connect_timeout: float) -> Transport:
    """The transport for the ``store`` of a limiter; nothing is connected yet.

    Raises:
        InvalidSetting: ``store`` is neither a URL that we know nor a client of redis-py.

    """
    found = read_store(store)
    kind = ClusterTransport if found.is_cluster else SingleTransport
    return kind(found, timeout, connect_timeout)


def connect_async(store: object, timeout: float, connect_timeout: float) -> AsyncTransport:
    """As ``connect``, for coroutines; callable outside of any event loop."""
    found = read_store(store, ASYNC)
    kind: type[LoopTransport] = ClusterLoopTransport if found.is_cluster else SingleLoopTransport
    return AsyncTransport(kind, found, timeout, connect_timeout)


__all__ = ["AsyncTransport", "Transport", "connect", "connect_async", "script_of"]

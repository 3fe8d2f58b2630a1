"""The round trip to a server: the only code that imports redis.

``store`` reads a limiter's ``store``, ``node`` keeps the connections to one server, ``base`` sends a call
and handles its reply, and ``single``, ``cluster`` and ``sentinel`` know which node has a subject; the last
two need tables, which ``reader`` reads. The modules for coroutines begin with ``async_``;
``async_connection`` handles the calls on one connection, and ``joined`` those that are sent as one.
``wire`` (a call as bytes), ``replies`` (errors), ``redirects`` (what an error reply allows next),
``attempts`` (when to connect again), ``slots`` (a cluster's table) and ``sentinels`` (the primary that they
name) do no I/O. ``credentials`` asks providers whose credentials change.
"""

from __future__ import annotations

from limiter.transport.async_base import AsyncTransport, LoopTransport, finish
from limiter.transport.async_cluster import ClusterLoopTransport
from limiter.transport.async_sentinel import SentinelLoopTransport
from limiter.transport.async_single import SingleLoopTransport
from limiter.transport.base import Transport
from limiter.transport.cluster import ClusterTransport
from limiter.transport.sentinel import SentinelTransport
from limiter.transport.single import SingleTransport
from limiter.transport.store import ASYNC, Store, read_store
from limiter.transport.wire import checked, scripts_of


def connect(store: object, timeout: float, connect_timeout: float) -> Transport:
    """Make the transport for a limiter's ``store``; its first call connects.

    Raises:
        InvalidSetting: ``store`` is neither a URL that we know nor a client of redis-py.

    """
    parsed = read_store(store)
    return _kind(parsed)(parsed, timeout, connect_timeout)


def connect_async(store: object, timeout: float, connect_timeout: float) -> AsyncTransport:
    """As ``connect``, for coroutines; callable outside of any event loop."""
    parsed = read_store(store, ASYNC)
    return AsyncTransport(_loop_kind(parsed), parsed, timeout, connect_timeout)


def _kind(store: Store) -> type[Transport]:
    if store.service is not None:
        return SentinelTransport
    return ClusterTransport if store.is_cluster else SingleTransport


def _loop_kind(store: Store) -> type[LoopTransport]:
    if store.service is not None:
        return SentinelLoopTransport
    return ClusterLoopTransport if store.is_cluster else SingleLoopTransport


__all__ = [
    "AsyncTransport",
    "Transport",
    "checked",
    "connect",
    "connect_async",
    "finish",
    "scripts_of",
]

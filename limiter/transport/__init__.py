"""The round trip: the only code that imports redis.

``store`` says where the store is, ``replies`` what its errors mean, ``node`` keeps the connections to
one server, ``base`` sends a call and follows what comes back, ``single`` and ``cluster`` know which node
has a subject.
"""

from __future__ import annotations

from limiter.transport.base import Transport
from limiter.transport.cluster import ClusterTransport
from limiter.transport.single import SingleTransport
from limiter.transport.store import read_store


def connect(store: object, timeout: float, connect_timeout: float) -> Transport:
    """The transport for the ``store`` of a limiter; nothing is connected yet.

    Raises:
        InvalidSetting: ``store`` is neither a URL that we know nor a client of redis-py.

    """
    found = read_store(store)
    kind = ClusterTransport if found.is_cluster else SingleTransport
    return kind(found, timeout, connect_timeout)


__all__ = ["Transport", "connect"]

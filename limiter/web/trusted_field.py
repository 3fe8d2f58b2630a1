"""A header field that counts only if a trusted proxy or service sends it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from limiter.web.identity import Network, is_trusted
from limiter.web.request import Request

log = logging.getLogger("limiter.web")


class TrustedField:
    """A header field by which trusted peers decide about a request; one that a client sends does not count.

    ``instead`` is a sentence about what holds for requests whose field does not count.
    """

    def __init__(self, name: str, instead: str) -> None:
        self.name = name.lower()
        self._instead = instead
        self._has_warned = False

    def value(self, request: Request, trusted: Sequence[Network]) -> str | None:
        """Return the field's value; None if the request has none, or its peer is not trusted."""
        value = request.headers.get(self.name)
        if value is None:
            return None
        if is_trusted(request.peer, trusted):
            return value.strip()
        if request.has_replaced_peer:
            self.warn_of_replaced_peers()
        return None

    def warn_of_replaced_peers(self) -> None:
        """Log, once, that the server replaces the address of the trusted proxy."""
        if self._has_warned:
            return
        self._has_warned = True
        log.warning(
            "%s: the server replaces the trusted proxy's address with the client's; "
            "run uvicorn with --no-proxy-headers (proxy_headers=False), and name the proxies in "
            "LIMITER_TRUSTED_PROXIES",
            self._instead,
        )

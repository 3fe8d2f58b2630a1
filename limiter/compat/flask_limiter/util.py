"""Key functions."""

from __future__ import annotations

from flask import request

from limiter.web.identity import of_peer

__all__ = ["get_remote_address"]


def get_remote_address() -> str:
    """The caller's address as the server sees it: an IPv4 address, or an IPv6 network of 64 bits.

    Raises:
        Unidentified: There is no address; the request is refused (400), not counted as 127.0.0.1.

    """
    return of_peer(request.remote_addr)

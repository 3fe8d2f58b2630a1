"""A proxy's question about a request: the client's request as the proxy reports it, or a refusal.

The decision service and ``limiter explain`` share this module. It knows no framework, and calls no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from limiter.web import paths
from limiter.web.guard import AsyncGuard, Guard
from limiter.web.identity import Network, Unidentified, is_trusted
from limiter.web.request import Request, bare_host
from limiter.web.subjects import TOKEN


class Refusal(NamedTuple):
    """Why the service does not decide about a request; the client gets to see it.

    Attributes:
        status: 400, 403, 404 or 422.
        detail: The reason.
        path: The path that the problem is about: the client's if it is known, else the proxy's.

    """

    status: int
    detail: str
    path: str


def reported(
    request: Request,
    guard: Guard | AsyncGuard | None,
    trusted: Sequence[Network],
    appended: str = "",
) -> Request | Refusal:
    """Return the client's request that a proxy's request reports, or why the guard does not decide.

    ``guard`` is None if the proxy names a policy that does not exist. ``appended`` is the client's target,
    if the proxy appends it to its own path.
    """
    if not is_trusted(request.peer, trusted):
        return Refusal(403, "Only trusted proxies are answered.", request.path)
    if guard is None:
        return Refusal(404, "There is no such policy.", request.path)
    if guard.counts_leases:
        detail = "This policy counts leases, and ForwardAuth does not see a request end."
        return Refusal(422, detail, request.path)
    if not guard.rules:
        detail = "Every policy counts leases, and ForwardAuth does not see a request end."
        return Refusal(422, detail, request.path)
    client = original(request, appended, guard.address_from)
    if client is None or (not client.target and _reads_paths(guard)):
        detail = "The proxy does not report the method, host or path."
        return Refusal(400, detail, request.path)
    try:
        if client.headers.get(client.address_from) is None:
            raise Unidentified("the proxy reports no client")
        client.caller(trusted)
    except Unidentified:
        return Refusal(400, "The proxy does not report the client's address.", client.path)
    return client


def original(request: Request, appended: str, address_from: str) -> Request | None:
    """Return the client's request, as the proxy reports it in header fields, else as the proxy sent it.

    Return None if a method, host or target is invalid, or if there are several: then the upstream may get
    another than the one that is checked.
    """
    headers = request.headers
    target = headers.get("x-forwarded-uri")
    method = (headers.get("x-forwarded-method") or request.method).upper()
    host = headers.get("x-forwarded-host") or request.host
    if target is None and not appended:
        target = ""
    else:
        target = appended if target is None else target
        if not paths.is_target(target, method):
            return None
    if "," in host or not TOKEN.fullmatch(method):
        return None
    if headers.get("content-length") == "0":  # the length of Envoy's own request, not the client's
        headers = {name: value for name, value in headers.items() if name != "content-length"}
    client = object.__new__(_Reported)
    client.__dict__.update(
        method=method,
        headers=headers,
        peer=request.peer,
        parts=request.parts,
        address_from=address_from,
        announces_body=False,  # the proxy's own request does not show the client's body
        target=target,
        environ=request.environ,
        scope=request.scope,
        _sent_host=host,
        _of_proxy=request,
    )
    return client


class _Reported(Request):
    """A client's request that computes its host and path only when a rule reads them."""

    _sent_host: str
    _of_proxy: Request

    @cached_property
    def host(self) -> str:
        return bare_host(self._sent_host)

    @cached_property
    def path(self) -> str:
        return paths.path_of_target(self.target) if self.target else "/"

    @cached_property
    def has_replaced_peer(self) -> bool:
        return self._of_proxy.has_replaced_peer


def _reads_paths(guard: Guard | AsyncGuard) -> bool:
    """Whether a rule of the guard depends on the path."""
    return any(rule.match.paths or rule.exempt_paths for rule in guard.rules)

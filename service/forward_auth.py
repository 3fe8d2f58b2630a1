"""What a proxy asks before it passes a request on: Traefik's ForwardAuth, and its like in others.

``/forward-auth/<policy>``, by any method: 204 and the header fields, or a refusal that the proxy passes
on to the client. What is asked about is not this request but the proxy's: its client stands in
X-Forwarded-For, its method, host and path in X-Forwarded-Method, -Host and -Uri, which count because
only trusted proxies get an answer. A proxy without these (Envoy) asks by the original's own method and
host, and puts its path behind ours: ``/forward-auth/<policy>/<path>``.

This is no Flask route: it serves methods that have no name yet, is asked about everything, and never
reads a body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from limiter.policyfile import Policies
from limiter.web import paths, problems, wiring
from limiter.web.guard import Guard
from limiter.web.identity import Network, Unidentified
from limiter.web.request import Request, bare_host, from_wsgi
from limiter.web.subjects import TOKEN
from limiter.web.verdict import Verdict
from service.one_policy import OnePolicy
from service.recorder import Recorder

PREFIX = "/forward-auth/"

Environ = dict[str, Any]
#: A status, header fields, and a body.
Reply = tuple[int, list[wiring.Field], bytes]


class ForwardAuth:
    """The WSGI application behind ``PREFIX``."""

    def __init__(
        self,
        policies: Policies | OnePolicy,
        trusted: tuple[Network, ...],
        recorder: Recorder,
    ) -> None:
        self._policies = policies
        self._trusted = trusted
        self._recorder = recorder

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a proxy."""
        request = from_wsgi(environ)
        name, appended, _ = request.path.removeprefix(PREFIX).partition("/")
        status, fields, body = self._answer(request, name, _appended(request))
        if status == 200:
            # Envoy takes nothing but 200 for a yes; the others take 204, which has no body at all.
            status, fields = (
                (200, [*fields, ("Content-Length", "0")]) if appended else (204, fields)
            )
        start_response(f"{status} {problems.title(status)}", fields)
        return [] if request.method == "HEAD" else [body]

    def _answer(self, request: Request, name: str, appended: str) -> Reply:
        if not request.is_proxied(self._trusted):
            return _refusal(403, "This is for proxies that are trusted here.", request)
        guard = self._policies.guard_for(name)
        if guard is None:
            return _refusal(404, "There is no such policy.", request)
        if guard.counts_leases:
            return _refusal(
                422,
                "This policy counts what is held, and nobody sees here when that ends.",
                request,
            )
        proxied = original(request, appended, guard.address_from)
        if proxied is None or (not proxied.target and _looks_at_paths(guard)):
            return _refusal(400, "The proxy does not say which request it asks about.", request)
        try:
            if proxied.forwarded_for is None:
                raise Unidentified("the proxy names no client")
            proxied.client(self._trusted)
        except Unidentified:
            return _refusal(400, "The proxy does not say whose request it is.", proxied)
        verdict = self._recorder.enter(guard, proxied)
        if verdict.allowed:
            return 200, verdict.fields, b""
        return verdict.status, *wiring.refusal(verdict)


def _refusal(status: int, detail: str, request: Request) -> Reply:
    refused = Verdict(status, body=problems.problem(status, detail, request.path))
    return status, *wiring.refusal(refused)


def original(request: Request, appended: str, address_from: str) -> Request | None:
    """The request that a proxy asks about, by its header fields, else by its own request.

    ``appended`` is the target that stands behind the policy's name, as it was sent. None where the proxy
    names a method, a host or a target that is none, or several: another one reaches the upstream.
    """
    headers = request.headers
    target = headers.get("x-forwarded-uri", appended)
    method = (headers.get("x-forwarded-method") or request.method).upper()
    host = headers.get("x-forwarded-host") or request.host
    path = paths.path_of(target, method) if target or "x-forwarded-uri" in headers else "/"
    if path is None or "," in host or not TOKEN.fullmatch(method):
        return None
    if headers.get("content-length") == "0":  # of the proxy's own request, as Envoy asks
        headers = {name: value for name, value in headers.items() if name != "content-length"}
    return request.changed(
        address_from=address_from,
        method=method,
        host=bare_host(host),
        path=path,
        headers=headers,
        target=target,
        announces_body=False,  # that of the proxy's own request says nothing
    )


def _appended(request: Request) -> str:
    """What a proxy has put behind the policy's name, as it was sent; empty where that is nothing."""
    sent = request.target or quote(request.path)
    _, slash, rest = paths.raw_path(sent).removeprefix(PREFIX).partition("/")
    return slash + rest


def _looks_at_paths(guard: Guard) -> bool:
    """Whether it makes a difference which path a request has."""
    return any(rule.match.paths or rule.exempt_paths for rule in guard.rules)

"""Answers proxies that ask before they pass a request on: Traefik's ForwardAuth, and others like it.

``/forward-auth/<policy>`` answers any method: 204 and the header fields, or a refusal that the proxy
passes on to the client. It decides about the client's request. X-Forwarded-For has the client, and
X-Forwarded-Method, -Host and -Uri have the method, host and path; only trusted proxies get an answer. A
proxy without these fields (Envoy) keeps the original method and host, and appends the original path:
``/forward-auth/<policy>/<path>``.

This is no Flask route: it must serve unknown methods, be fast, and never read a body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from limiter.web import paths, problems, wiring
from limiter.web.guard import Guard
from limiter.web.identity import Network, Unidentified, is_trusted
from limiter.web.request import Request, bare_host, from_wsgi
from limiter.web.subjects import TOKEN
from limiter.web.verdict import Verdict
from service.one_policy import AnyPolicies
from service.recorder import Recorder

PREFIX = "/forward-auth/"

Environ = dict[str, Any]
#: A status, header fields, and a body.
Reply = tuple[int, list[wiring.Field], bytes]


class ForwardAuth:
    """The WSGI application behind ``PREFIX``."""

    def __init__(
        self,
        policies: AnyPolicies,
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
            # Envoy passes a request on only after a 200; the others accept 204, which has no body.
            status, fields = (
                (200, [*fields, ("Content-Length", "0")]) if appended else (204, fields)
            )
        start_response(f"{status} {problems.title(status)}", fields)
        return [] if request.method == "HEAD" else [body]

    def _answer(self, request: Request, name: str, appended: str) -> Reply:
        if not is_trusted(request.peer, self._trusted):
            return _refusal(403, "Only trusted proxies are answered.", request)
        guard = self._policies.guard_for(name)
        if guard is None:
            return _refusal(404, "There is no such policy.", request)
        if guard.counts_leases:
            return _refusal(
                422,
                "This policy counts leases, and ForwardAuth does not see a request end.",
                request,
            )
        proxied = original(request, appended, guard.address_from)
        if proxied is None or (not proxied.target and _looks_at_paths(guard)):
            return _refusal(400, "The proxy does not report the method, host or path.", request)
        try:
            if proxied.forwarded_for is None:
                raise Unidentified("the proxy reports no client")
            proxied.client(self._trusted)
        except Unidentified:
            return _refusal(400, "The proxy does not report the client's address.", proxied)
        verdict = self._recorder.enter(guard, proxied)
        if verdict.allowed:
            return 200, verdict.fields, b""
        return verdict.status, *wiring.refusal(verdict)


def _refusal(status: int, detail: str, request: Request) -> Reply:
    refused = Verdict(status, body=problems.problem(status, detail, request.path))
    return status, *wiring.refusal(refused)


def original(request: Request, appended: str, address_from: str) -> Request | None:
    """Return the client's request, as the proxy reports it in header fields, else as the proxy sent it.

    ``appended`` is the target after the policy's name. Return None if a method, host or target is
    invalid, or if there are several: then the upstream may get another than the one that is checked.
    """
    headers = request.headers
    target = headers.get("x-forwarded-uri", appended)
    method = (headers.get("x-forwarded-method") or request.method).upper()
    host = headers.get("x-forwarded-host") or request.host
    path = paths.path_of(target, method) if target or "x-forwarded-uri" in headers else "/"
    if path is None or "," in host or not TOKEN.fullmatch(method):
        return None
    if headers.get("content-length") == "0":  # the length of Envoy's own request, not the client's
        headers = {name: value for name, value in headers.items() if name != "content-length"}
    return request.changed(
        address_from=address_from,
        method=method,
        host=bare_host(host),
        path=path,
        headers=headers,
        target=target,
        announces_body=False,  # the proxy's own request does not show the client's body
    )


def _appended(request: Request) -> str:
    """Return the target that a proxy has appended to the policy's name, not decoded; perhaps empty."""
    sent = request.target or quote(request.path)
    _, slash, rest = paths.raw_path(sent).removeprefix(PREFIX).partition("/")
    return slash + rest


def _looks_at_paths(guard: Guard) -> bool:
    """Whether a rule of the guard reads paths."""
    return any(rule.match.paths or rule.exempt_paths for rule in guard.rules)

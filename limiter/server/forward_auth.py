"""Answers proxies that ask before they pass a request on: Traefik's ForwardAuth, and others like it.

``/forward-auth`` decides by all policies that match, all or none; those that count leases are left out.
``/forward-auth/<policy>`` decides by one. Both answer any method: 204 and the header fields, or a refusal
that the proxy passes on to the client. They decide about the client's request. X-Forwarded-For has the
client, and X-Forwarded-Method, -Host and -Uri have the method, host and path; only trusted proxies get an
answer. A proxy without these fields (Envoy) keeps the original method and host, and appends the original
path: ``/forward-auth/<policy>/<path>``.

This is no route of the framework: it must serve unknown methods, be fast, and never read a body.
"""

from __future__ import annotations

from urllib.parse import quote

from limiter.server.one_policy import AnyPolicies
from limiter.server.recorder import Recorder
from limiter.web import asgi_messages, paths, problems
from limiter.web.asgi_messages import Receive, Scope, Send
from limiter.web.guard import AsyncGuard
from limiter.web.identity import Network, Unidentified, is_trusted
from limiter.web.request import Request, bare_host, from_asgi
from limiter.web.subjects import TOKEN
from limiter.web.verdict import Verdict

#: The path that asks all policies; a slash and a policy's name may follow.
PATH = "/forward-auth"
_PREFIX = f"{PATH}/"


class ForwardAuth:
    """The ASGI application behind ``PATH``."""

    def __init__(
        self,
        policies: AnyPolicies,
        trusted: tuple[Network, ...],
        recorder: Recorder,
    ) -> None:
        self._policies = policies
        self._trusted = trusted
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a proxy."""
        request = from_asgi(scope)
        name, _, _ = request.path.removeprefix(PATH).removeprefix("/").partition("/")
        appended = _appended(request)
        verdict = await self._verdict(request, name, appended)
        if not verdict.allowed:
            await asgi_messages.refuse(verdict, send, "http", request.method == "HEAD")
            return
        fields = asgi_messages.encoded(verdict.fields)
        # Envoy passes a request on only after a 200; the others accept 204, which has no body.
        if appended:
            fields.append((b"content-length", b"0"))
        status = 200 if appended else 204
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": b""})

    async def _verdict(self, request: Request, name: str, appended: str) -> Verdict:
        if not is_trusted(request.peer, self._trusted):
            return _refusal(403, "Only trusted proxies are answered.", request)
        guard = self._guard(request, name)
        if guard is None:
            return _refusal(404, "There is no such policy.", request)
        if guard.counts_leases:
            return _refusal(
                422,
                "This policy counts leases, and ForwardAuth does not see a request end.",
                request,
            )
        proxied = original(request, appended, guard.address_from)
        if proxied is None or (not proxied.target and _reads_paths(guard)):
            return _refusal(400, "The proxy does not report the method, host or path.", request)
        try:
            if proxied.forwarded_for is None:
                raise Unidentified("the proxy reports no client")
            proxied.caller(self._trusted)
        except Unidentified:
            return _refusal(400, "The proxy does not report the client's address.", proxied)
        return await self._recorder.enter(guard, proxied)

    def _guard(self, request: Request, name: str) -> AsyncGuard | None:
        if request.path == PATH:
            return self._policies.forward_auth
        return self._policies.guard_for(name)


def _refusal(status: int, detail: str, request: Request) -> Verdict:
    return Verdict(status, body=problems.problem(status, detail, request.path))


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
    path = paths.raw_path(sent)
    if not path.startswith(_PREFIX):
        return ""
    _, slash, rest = path[len(_PREFIX) :].partition("/")
    return slash + rest


def _reads_paths(guard: AsyncGuard) -> bool:
    """Whether a rule of the guard reads paths."""
    return any(rule.match.paths or rule.exempt_paths for rule in guard.rules)

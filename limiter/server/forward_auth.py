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

from limiter.server import logs
from limiter.server.one_policy import AnyPolicies
from limiter.server.recorder import Recorder
from limiter.web import asgi_messages, forward_auth, paths, problems
from limiter.web.asgi_messages import Receive, Scope, Send
from limiter.web.forward_auth import Refusal
from limiter.web.guard import AsyncGuard
from limiter.web.identity import Network
from limiter.web.request import Request, from_asgi
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
        path = scope["path"]
        guard: AsyncGuard | None
        appended = ""
        if path == PATH:
            guard = self._policies.forward_auth
        else:
            name, slash, _ = path[len(_PREFIX) :].partition("/")
            guard = self._policies.guard_for(name)
            if slash:
                appended = _appended(request)
        client = forward_auth.reported(request, guard, self._trusted, appended)
        if isinstance(client, Refusal):
            logs.not_decided(client, request.peer)
            body = problems.problem(client.status, client.detail, client.path)
            verdict = Verdict(client.status, body=body)
        else:
            assert guard is not None  # noqa: S101 (``reported`` refuses that)
            verdict = await self._recorder.enter(guard, client)
        if not verdict.allowed:
            await asgi_messages.refuse(verdict, send, "http", request.method == "HEAD")
            return
        status, fields = 204, asgi_messages.encoded(verdict.fields)
        if appended:
            # Envoy passes a request on only after a 200; the others accept 204, which has no body.
            status = 200
            fields.append((b"content-length", b"0"))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": b""})


def _appended(request: Request) -> str:
    """Return the target that a proxy has appended to the policy's name, not decoded; perhaps empty."""
    path = paths.raw_path(request.target or quote(request.path, errors="replace"))
    _, slash, rest = path.removeprefix(_PREFIX).partition("/")
    return slash + rest

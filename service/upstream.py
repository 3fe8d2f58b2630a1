"""An upstream without a limiter of its own, for the demo and Compose: a proxy asks the service first.

``gunicorn "service.upstream:create_app()"`` runs it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from typing import Any

_CHUNK = 65_536

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def create_app(name: str | None = None) -> App:
    """Make the upstream; ``name`` is its name in responses, by default that of its host."""
    body = json.dumps({"message": "Hello!", "upstream": name or socket.gethostname()}) + "\n"
    raw = body.encode()
    fields = [("Content-Type", "application/json"), ("Content-Length", str(len(raw)))]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        while environ["wsgi.input"].read(_CHUNK):
            pass  # read all: an early answer may end the connection while the proxy still sends
        start_response("200 OK", list(fields))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [raw]

    return passing_on(app)


def passing_on(app: App) -> App:
    """Copy the limit's header fields, which the proxy adds to the request, to the response."""

    def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        copied = [
            (name, environ[variable])
            for name in ("RateLimit-Policy", "RateLimit")
            if (variable := "HTTP_" + name.upper().replace("-", "_")) in environ
        ]

        def start(status: str, fields: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*fields, *copied], *more)

        return app(environ, start)

    return wrapped

"""Writes responses: JSON, and every refusal as problem+json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from limiter.web import problems
from limiter.web.headers import Field
from limiter.web.request import Request as OwnRequest
from limiter.web.request import from_asgi

#: Set in a request's state once the client has ended its side of the connection. The client may still read,
#: but one that is gone looks the same.
CLIENT_LEFT = "limiter.client_left"

#: Details of the refusals that Starlette makes itself.
_DETAILS = {404: "There is no such path.", 405: "This path does not have this method."}


def abort(status: int, detail: str, fields: Mapping[str, str] | None = None) -> NoReturn:
    """End the request with a refusal."""
    raise HTTPException(status, detail, fields)


def application(
    routes: Sequence[BaseRoute], check: Callable[[OwnRequest], None] | None = None
) -> Starlette:
    """Make an application; ``check`` may abort any request, before its route is looked up."""
    app = Starlette(
        routes=routes,
        middleware=[] if check is None else [Middleware(_Checked, check)],
        exception_handlers={HTTPException: _refused, ClientDisconnect: _gone, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


class _Checked:
    """An application whose requests are checked first."""

    def __init__(self, app: ASGIApp, check: Callable[[OwnRequest], None]) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            try:
                self._check(from_asgi(scope))
            except HTTPException as error:
                app = await _refused(Request(scope), error)
        await app(scope, receive, send)


def json_response(body: Any) -> Response:
    """Make the response to a request that succeeded, with a JSON body."""
    return written(200, json.dumps(body))


def written(status: int, body: str, fields: Iterable[Field] = ()) -> Response:
    """Make a response with a JSON body: problem+json if the status is 400 or more."""
    media_type = "application/json" if status < 400 else problems.MEDIA_TYPE
    headers = {"Cache-Control": "no-store", **dict(fields)}
    return Response(body + "\n", status, headers, media_type)


def problem(status: int, detail: str, path: str) -> str:
    """Return the JSON object of a problem with the request of this path."""
    return problems.problem(status, detail, path).rstrip()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (Starlette's type is wider)
    status, detail = error.status_code, error.detail
    if detail == problems.title(status):  # Starlette's own refusals have no other text
        detail = _DETAILS.get(status, detail)
    body = problem(status, detail, request.scope["path"])
    return written(status, body, (error.headers or {}).items())


async def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Make a response that no one reads: the client closed the connection before its body was here."""
    return Response(status_code=400)


async def _failed(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Make the response to a request that failed by a fault of this program; the server logs it."""
    detail = "The service failed; its log has the reason."
    return written(500, problem(500, detail, request.scope["path"]))

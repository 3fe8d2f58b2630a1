"""The decision service; ``create_app`` makes its ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from limiter import LimiterError
from limiter.server import health, logs, settings
from limiter.server.forward_auth import PATH, ForwardAuth
from limiter.server.metrics import Metrics
from limiter.server.one_policy import AnyPolicies
from limiter.server.recorder import Recorder
from limiter.web import problems
from limiter.web.asgi_messages import App, Receive, Scope, Send


class Service:
    """Chooses the application that answers a request; opens the store at the start, and closes it.

    Attributes:
        policies: The policies of the service.
        metrics: Its counters.
        operators: The application for operators.
        operators_port: The port of the operators' address; None without one. It is read from the socket,
            so that no client can choose it.

    """

    operators_port: int | None = None

    def __init__(
        self,
        policies: AnyPolicies,
        metrics: Metrics,
        forward_auth: App,
        public: App,
        operators: App,
    ) -> None:
        self.policies = policies
        self.metrics = metrics
        self.operators = operators
        self._forward_auth = forward_auth
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the operators' application on their port, else by the path."""
        if scope["type"] == "http":
            await self._application(scope)(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:  # the service has no websockets: the server answers 403
            await receive()
            await send({"type": "websocket.close"})

    def _application(self, scope: Scope) -> App:
        if self.operators_port is not None and scope["server"][1] == self.operators_port:
            return self.operators
        path = scope["path"]
        if path.startswith(PATH) and path[len(PATH) : len(PATH) + 1] in ("", "/"):
            return self._forward_auth
        return self._public

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Connect and load the scripts before the first request; serve also without a store."""
        await receive()
        try:
            await self.policies.open()
        except LimiterError as error:
            logs.log.warning("started without the store: %s", error)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def close(self) -> None:
        """Add the last counts to the metrics, and close the store."""
        self.metrics.flush()
        await self.policies.close()


def create_app() -> Service:
    """Make the service of LIMITER_*; raise InvalidSetting, which names the variable, for an invalid one."""
    policies, trusted, _, _ = settings.from_env()
    for rule in policies.guard.rules:
        if rule.counts_leases:
            logs.log.warning(
                "policy %s counts leases: /forward-auth leaves it out, and refuses its name, since it does "
                "not see a request end",
                rule.name,
            )
    metrics = Metrics(policies)
    recorder = Recorder(metrics)
    public = Starlette(
        routes=health.routes(policies), exception_handlers={HTTPException: _refused}
    )
    public.router.redirect_slashes = False
    operators = Starlette(exception_handlers={HTTPException: _refused})
    forward_auth = ForwardAuth(policies, trusted, recorder)
    return Service(policies, metrics, forward_auth, public, operators)


def _refused(request: Request, error: Exception) -> Response:
    """Make the response to a request that no route answers."""
    assert isinstance(error, HTTPException)  # noqa: S101 (Starlette's type is wider)
    body = problems.problem(error.status_code, error.detail, request.url.path)
    fields = {"Cache-Control": "no-store", **(error.headers or {})}
    return Response(body, error.status_code, fields, problems.MEDIA_TYPE)

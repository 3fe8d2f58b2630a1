"""The decision service; ``create_app`` makes its ASGI application."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette

from limiter import LimiterError, StoreRefused, StoreUnavailable
from limiter.policyfile import AsyncPolicies
from limiter.policyfile.watch import LOOK_EVERY
from limiter.server import (
    checks,
    health,
    holds,
    logs,
    openapi,
    operators,
    reservations,
    responses,
    settings,
)
from limiter.server.callers import Callers, Token, only_known
from limiter.server.forward_auth import PATH, ForwardAuth
from limiter.server.metrics import Metrics
from limiter.server.one_policy import AnyPolicies, OnePolicy
from limiter.server.recorder import Recorder
from limiter.server.store_check import check_store
from limiter.settings import API_TOKEN
from limiter.web.asgi_messages import App, Receive, Scope, Send

__all__ = ["create_app"]


class Service:
    """Chooses the application that answers a request; opens the store at the start, and closes it.

    Attributes:
        policies: The policies of the service.
        metrics: Its counters.
        public: The application for services, and for probes.
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
        public: Starlette,
        operators: Starlette,
    ) -> None:
        self.policies = policies
        self.metrics = metrics
        self.operators = operators
        self._forward_auth = forward_auth
        self.public = public

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
        if self.operators_port is not None:
            server = scope.get("server")  # None for a Unix socket, or a path without a port
            if server and server[1] == self.operators_port:
                return self.operators
        path = scope["path"]
        if path.startswith(PATH) and path[len(PATH) : len(PATH) + 1] in ("", "/"):
            return self._forward_auth
        return self.public

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Connect and load the scripts before the first request; serve also without a store."""
        await receive()
        try:
            await self._meet_store()
        except StoreRefused as error:
            logs.log.error("the service does not start: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        watching = asyncio.get_running_loop().create_task(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watching.cancel()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _meet_store(self) -> None:
        """Connect, and check the store.

        Raises:
            StoreRefused: The limiter's promises do not hold on this server.

        """
        try:
            await self.policies.open()
        except LimiterError as error:
            logs.log.warning("started without the store: %s", error)
            if isinstance(error, StoreUnavailable):
                return
        await check_store()

    async def _watch(self) -> None:
        """Notice a changed policy file also while no request arrives."""
        while isinstance(self.policies, AsyncPolicies):
            await asyncio.sleep(LOOK_EVERY)
            _ = self.policies.current

    async def close(self) -> None:
        """Add the last counts to the metrics, and close the store."""
        self.metrics.flush()
        await self.metrics.shadow_denials.close()
        await self.policies.close()


def create_app() -> Service:
    """Make the service of LIMITER_*; raise InvalidSetting, which names the variable, for an invalid one."""
    policies, trusted, admin_token, api_token = settings.from_env()
    if isinstance(policies, OnePolicy) and policies.guard.counts_leases:
        logs.log.warning(
            "LIMITER_LIMITS counts leases: /forward-auth answers 422, since it does not see a request end"
        )
    metrics = Metrics(policies)
    recorder = Recorder(metrics)
    callers = Callers(policies, trusted)
    token = None if api_token is None else Token(API_TOKEN, api_token, callers)
    routes = [*health.routes(policies), *openapi.routes()]
    for module in (checks, holds, reservations):
        routes += module.routes(policies, recorder)
    return Service(
        policies,
        metrics,
        ForwardAuth(policies, trusted, recorder),
        responses.application(routes, only_known(callers, token)),
        operators.create_operators_app(policies, metrics, admin_token, callers),
    )

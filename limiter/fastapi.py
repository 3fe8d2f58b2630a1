"""A limit as a dependency of FastAPI: ``Depends(limit("5/minute"))``."""

# No postponed annotations here: FastAPI reads them of the dependency, where it could not resolve them.

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_type_hints

from fastapi import HTTPException, Response, params
from fastapi.requests import HTTPConnection
from fastapi.websockets import WebSocket

from limiter.aio import AsyncLimiter
from limiter.errors import InvalidSetting
from limiter.keys import Key
from limiter.web import problems, wiring
from limiter.web.asgi_messages import Scope, closing
from limiter.web.guard import AsyncGuard
from limiter.web.identity import Network
from limiter.web.request import Request, from_asgi
from limiter.web.request_leases import HeldLeases
from limiter.web.rules import CostFunction
from limiter.web.subjects import Identity, KeyFunction, checked_subject, hashed
from limiter.web.verdict import Verdict
from limiter.web.wiring import LimitSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Under this name the path as the route spells it stands among a request's parts.
_ROUTE = "limiter.route"
#: Behind this and the name of an argument, a scope has what the argument's dependency returned.
_RESULT = "limiter.result."
#: Where a scope counts the limits without a name that it was asked about.
_PLACE = "limiter.place"


class Refused(HTTPException):
    """A limit denied, or nobody could tell; answered with ``application/problem+json``.

    An exception handler of the application for this class, or for its status, answers instead.
    """

    def __init__(self, verdict: Verdict, headers: dict[str, str]) -> None:
        super().__init__(verdict.status, json.loads(verdict.body), headers)
        self.verdict = verdict


class Limit:
    """The dependency that ``limit`` makes; its value is the ``Verdict``.

    ``dependencies`` are those whose results are its arguments: FastAPI finds them in its signature.

    FastAPI asks nobody who is not given to it in a ``Depends``; what it does instead is an error here.
    """

    def __init__(
        self,
        limits: Any,
        *,
        dependencies: Mapping[str, params.Depends],
        sleep: bool = False,
        **more: Any,
    ) -> None:
        self._guard = wiring.source(AsyncGuard, AsyncLimiter, limits, **more)
        self._sleep = sleep
        self._held = HeldLeases()
        self.__signature__ = _with_dependencies(inspect.signature(self.__call__), dependencies)

    async def __call__(
        self, connection: HTTPConnection, response: Response, **results: Any
    ) -> AsyncIterator[Verdict]:
        """Decide about the request, and hold its leases until the response is sent.

        ``results`` are those of the dependencies, by the names of their arguments.
        """
        scope = connection.scope
        guard = self._guard_in(scope)
        known = {f"{_RESULT}{name}": result for name, result in results.items()}
        verdict = await guard.enter(from_asgi({**scope, **known}, _parts(scope)))
        verdicts: list[Verdict] = scope.setdefault(wiring.VERDICTS, _Own())
        verdicts.append(verdict)
        # A middleware around us says it all, and on every response.
        fields = dict(wiring.fields_of(verdicts)) if isinstance(verdicts, _Own) else {}
        if not verdict.allowed:
            _answer_in(scope)
            raise Refused(verdict, {**fields, "Cache-Control": "no-store"})
        leases = self._held.of(guard, verdict)
        try:
            for name, value in fields.items():
                response.headers[name] = value
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            yield verdict
        finally:
            await leases.release()

    def _guard_in(self, scope: Scope) -> AsyncGuard:
        return self._guard()

    def _asked_by_nobody(self, *_: object) -> NoReturn:
        raise TypeError(
            "a limit is asked about requests in a Depends alone: write Depends(limit(...))"
        )

    dependency = property(_asked_by_nobody)  # in a list of dependencies
    __deepcopy__ = _asked_by_nobody  # the default of a parameter
    __get_pydantic_core_schema__ = _asked_by_nobody  # in an Annotated

    async def close(self) -> None:
        """Give back what is still held, and close the event loop's connections; for a lifespan's end."""
        await self._held.release()
        for limiter in wiring.limiters(self._guard()):
            await limiter.close()


class _Unnamed(Limit):
    """A limit of each route's own: the first without a name that a request is asked about, the second...

    By their place they have names, and so places in the store, in every process the same.
    """

    def __init__(
        self,
        limits: Any,
        *,
        dependencies: Mapping[str, params.Depends],
        key: str | Sequence[str] | KeyFunction | None,
        sleep: bool,
        **more: Any,
    ) -> None:
        more["key"] = _by_route(key)
        super().__init__(limits, dependencies=dependencies, sleep=sleep, name="route", **more)
        self._more = {name: value for name, value in more.items() if name != "algorithm"}
        self._guards = {1: self._guard()}

    def _guard_in(self, scope: Scope) -> AsyncGuard:
        place = scope[_PLACE] = scope.get(_PLACE, 0) + 1
        if place not in self._guards:
            first = self._guard().rules[0].limiter
            more = {**self._more, "store": first, "name": f"route-{place}"}
            self._guards[place] = wiring.source(AsyncGuard, AsyncLimiter, first.policies, **more)()
        return self._guards[place]


class _Own(list[Verdict]):
    """What dependencies have decided about a request that no middleware speaks for."""


def limit(
    limits: Any,
    *,
    key: str | Sequence[str] | KeyFunction | params.Depends | None = None,
    cost: int | CostFunction | params.Depends | None = None,
    sleep: bool = False,
    **settings: "Unpack[LimitSettings]",
) -> Limit:
    """A dependency that limits the routes it is given to.

    Without ``name`` each route has a limit of its own, also where the dependency is a router's, and
    several on one route are several; all limits of one ``name`` are one. ``key`` and ``cost`` may also be
    dependencies: ``key=Depends(current_user_id)``. Everything else is as in
    ``limiter.asgi.LimiterMiddleware``, ``enabled=False`` too; limiters that share connections are given
    ``store=`` another limiter.

    What is left is told on responses that FastAPI makes; with a ``LimiterMiddleware`` around the
    application, on every response.
    """
    enabled = settings.get("enabled", True)
    if enabled is not True:  # in tests of something else; no dependency is asked either
        return Limit(limits, enabled=enabled, dependencies={})
    given = {"key": key, "cost": cost}
    dependencies = {
        name: value for name, value in given.items() if isinstance(value, params.Depends)
    }
    for argument, value in given.items():
        _check_dependency(argument, value)
    more: dict[str, Any] = {**given, **{name: _result(name) for name in dependencies}, **settings}
    more |= {"dependencies": dependencies, "sleep": sleep}
    if settings.get("name") is None and wiring.is_plain(limits):
        more.pop("name", None)
        return _Unnamed(limits, **more)
    return Limit(limits, **more)


def _check_dependency(setting: str, value: Any) -> None:
    """Raise InvalidSetting where FastAPI could not call it, or we could not: a ``Depends`` is missing."""
    if isinstance(value, params.Depends):
        if value.dependency is None:
            expected = "accepted is a dependency with its function, as in Depends(current_user_id)"
            raise InvalidSetting.of(setting, repr(value), expected)
    elif callable(value) and _is_dependency(value):
        name = getattr(value, "__name__", None) or repr(value)
        raise InvalidSetting.of(
            setting,
            f"{name}, which only FastAPI can call",
            f"accepted is a dependency in a Depends; write {setting}=Depends({name})",
        )


def _is_dependency(function: Any) -> bool:
    """Whether a function needs FastAPI to be called: it is async, or has parameters of FastAPI's kinds."""
    call = function if inspect.isroutine(function) else type(function).__call__
    kinds = (params.Depends, params.Param, params.Body)
    marks: list[Any] = []
    hints: dict[str, Any] = {}
    with suppress(
        NameError, TypeError, ValueError
    ):  # written in C, or names for type checkers alone
        marks += [one.default for one in inspect.signature(call).parameters.values()]
        hints = get_type_hints(call, include_extras=True)
    marks += [mark for hint in hints.values() for mark in get_args(hint)[1:]]
    return (
        inspect.iscoroutinefunction(call)
        or any(isinstance(mark, kinds) for mark in marks)
        or any(
            isinstance(hint, type) and issubclass(hint, HTTPConnection) for hint in hints.values()
        )
    )


def _with_dependencies(
    signature: inspect.Signature, dependencies: Mapping[str, params.Depends]
) -> inspect.Signature:
    """The signature that FastAPI reads: with a parameter for each dependency in the place of ``**``."""
    kinds = inspect.Parameter
    own = [one for one in signature.parameters.values() if one.kind is not kinds.VAR_KEYWORD]
    more = [kinds(name, kinds.KEYWORD_ONLY, default=one) for name, one in dependencies.items()]
    return signature.replace(parameters=[*own, *more])


def _result(argument: str) -> Any:
    """The function that reads what a dependency has returned for this request."""
    return lambda request, trusted: request.scope[f"{_RESULT}{argument}"]  # noqa: ARG005 (no address)


def _by_route(key: str | Sequence[str] | KeyFunction | None) -> Identity:
    """The subject, and the route: each of them has a limit of its own."""
    inner = wiring.identity_by(key)

    def find(request: Request, trusted: Sequence[Network]) -> Key:
        subject = checked_subject(inner(request, trusted))
        parts = subject if isinstance(subject, tuple) else (subject,)
        return (*parts, str(request.parts[_ROUTE]))

    return find


def _parts(scope: Scope) -> dict[str, str]:
    parts = {name: str(value) for name, value in scope.get("path_params", {}).items()}
    return {**parts, _ROUTE: _route(scope)}


def _route(scope: Scope) -> str:
    """Which route this is: its function, and its path with the names of its parts.

    The path of an included router's route has its prefix in some versions of FastAPI, and in others
    stands with it elsewhere. Neither has to be there.
    """
    endpoint = scope.get("endpoint")
    context = (scope.get("fastapi") or {}).get("effective_route_context")
    route = scope.get("route")
    found = [context, getattr(context, "starlette_route", None), route]
    paths = [path for one in found if (path := getattr(one, "path", None))]
    function = f"{getattr(endpoint, '__module__', '')}.{getattr(endpoint, '__qualname__', '')}"
    return hashed("route", f"{function} {paths[0] if paths else ''}")


def _answer_in(scope: Scope) -> None:
    """Have a refusal answered as what it is, unless the application says how."""
    handlers = scope.get("starlette.exception_handlers")
    if handlers:
        handlers[0].setdefault(Refused, _answer)


async def _answer(connection: HTTPConnection, error: Refused) -> Response | None:
    verdict = error.verdict
    if isinstance(connection, WebSocket) and (
        "websocket.http.response" not in (connection.scope.get("extensions") or {})
    ):
        await connection.close(*closing(verdict))
        return None
    return Response(
        verdict.body, verdict.status, dict(error.headers or {}), media_type=problems.MEDIA_TYPE
    )

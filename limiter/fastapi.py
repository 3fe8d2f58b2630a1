"""A limit as a dependency of FastAPI: ``Depends(limit("5/minute"))``."""

# No postponed annotations: FastAPI reads those of the dependency, and could not resolve them.

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
from limiter.web.open_requests import OpenRequests
from limiter.web.request import Request, from_asgi
from limiter.web.rules import CostFunction
from limiter.web.subjects import Identity, KeySpec, checked_subject, hashed
from limiter.web.verdict import Verdict
from limiter.web.wiring import LimitSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Limit", "Refused", "limit"]

#: The name of the route among a request's parts.
_ROUTE = "limiter.route"
#: The prefix of a scope's keys for the results of dependencies, before the argument's name.
_RESULT = "limiter.result."
#: The scope's key for the number of checked limits without a name.
_PLACE = "limiter.place"
_UNSEEN = (
    "refund_unless and true_cost need the response, which only a middleware sees: add one around the "
    "application, as in app.add_middleware(LimiterMiddleware, limits=())"
)


class Refused(HTTPException):
    """A limit refused the request; the response is ``application/problem+json``.

    If the application has an exception handler for this class, or for its status, that one answers.
    """

    def __init__(self, verdict: Verdict, headers: dict[str, str]) -> None:
        super().__init__(verdict.status, json.loads(verdict.body), headers)
        self.verdict = verdict


class Limit:
    """The dependency that ``limit`` returns; its value is the ``Verdict``.

    ``dependencies`` have the results that this one needs as arguments: FastAPI finds them in its signature.
    ``by_route`` means that it has no name, and counts each route by itself.
    FastAPI calls it only in a ``Depends``; other uses would enforce no limit, so they raise TypeError.
    """

    def __init__(
        self,
        limits: Any,
        *,
        dependencies: Mapping[str, params.Depends],
        by_route: bool = False,
        sleep: bool = False,
        **settings: Any,
    ) -> None:
        if by_route:
            settings |= {"key": _by_route(settings["key"]), "name": "route"}
        self._guard = wiring.source(AsyncGuard, AsyncLimiter, limits, **settings)
        self._settings = settings
        self._guards = {1: self._guard()} if by_route else {}
        self._sleep = sleep
        self._open = OpenRequests()
        self.__signature__ = _with_dependencies(inspect.signature(self.__call__), dependencies)

    async def __call__(
        self, connection: HTTPConnection, response: Response, **results: Any
    ) -> AsyncIterator[Verdict]:
        """Check the request, and hold its leases until the response is sent.

        ``results`` are the dependencies' results, by argument.
        """
        scope = connection.scope
        guard = self._guard_in(scope)
        known = {f"{_RESULT}{name}": result for name, result in results.items()}
        verdicts: list[Verdict] = scope.setdefault(wiring.VERDICTS, _Own())
        if guard.settles and isinstance(verdicts, _Own):
            raise InvalidSetting(_UNSEEN)
        verdict = await guard.enter(from_asgi({**scope, **known}, _parts(scope)))
        verdicts.append(verdict)
        # A middleware around the application writes all fields, on every response.
        fields = dict(wiring.fields_of(verdicts)) if isinstance(verdicts, _Own) else {}
        if not verdict.allowed:
            _answer_in(scope)
            raise Refused(verdict, {**fields, "Cache-Control": "no-store"})
        self._open.hold(guard, verdict)
        try:
            for name, value in fields.items():
                response.headers[name] = value
            if self._sleep and verdict.delay:
                await asyncio.sleep(verdict.delay)
            yield verdict
        finally:
            await self._open.release(verdict)

    def _guard_in(self, scope: Scope) -> AsyncGuard:
        """Return the guard; without a name, the limit is named by its place among those of the request.

        So it has the same keys in the store in every process.
        """
        if not self._guards:
            return self._guard()
        place = scope[_PLACE] = scope.get(_PLACE, 0) + 1
        if place not in self._guards:
            first = self._guard().rules[0].limiter
            settings = {**self._settings, "store": first, "name": f"route-{place}"}
            settings.pop("algorithm", None)
            guard_of = wiring.source(AsyncGuard, AsyncLimiter, first.policies, **settings)
            self._guards[place] = guard_of()
        return self._guards[place]

    def _outside_depends(self, *_: object) -> NoReturn:
        raise TypeError("a limit stands outside a Depends: write Depends(limit(...))")

    dependency = property(_outside_depends)  # in a list of dependencies
    __deepcopy__ = _outside_depends  # the default of a parameter
    __get_pydantic_core_schema__ = _outside_depends  # in an Annotated

    async def close(self) -> None:
        """Release the leases that are still held, and close the event loop's connections; for shutdown."""
        await self._open.end_all()
        for limiter in wiring.limiters(self._guard()):
            await limiter.close()


class _Own(list[Verdict]):
    """The verdicts of dependencies, in an application without a ``LimiterMiddleware``."""


def limit(
    limits: Any,
    *,
    key: KeySpec | params.Depends | None = None,
    cost: int | CostFunction | params.Depends | None = None,
    sleep: bool = False,
    **settings: "Unpack[LimitSettings]",
) -> Limit:
    """Return a dependency that limits the routes that use it.

    Without ``name``, each route counts by itself, also if the dependency is a router's, and several limits
    of one route are separate. Limits with the same ``name`` are one limit. ``key`` and ``cost`` may also be
    dependencies: ``key=Depends(current_user_id)``. The other arguments are those of
    ``limiter.asgi.LimiterMiddleware``. To share connections, pass another limiter as ``store``.

    FastAPI's own responses have the header fields with the remaining quota. With a ``LimiterMiddleware``
    around the application, every response has them.
    """
    enabled = settings.get("enabled", True)
    if enabled is not True:  # as in tests of other things; dependencies are not called either
        return Limit(limits, enabled=enabled, dependencies={})
    given = {"key": key, "cost": cost}
    dependencies = {
        name: value for name, value in given.items() if isinstance(value, params.Depends)
    }
    for argument, value in given.items():
        _check_dependency(argument, value)
    arguments: dict[str, Any] = {**given, **{name: _result(name) for name in dependencies}}
    by_route = settings.get("name") is None and wiring.is_plain(limits)
    arguments |= {**settings, "dependencies": dependencies, "by_route": by_route, "sleep": sleep}
    return Limit(limits, **arguments)


def _check_dependency(setting: str, value: Any) -> None:
    """Raise InvalidSetting for a ``Depends`` without its function, or a dependency without ``Depends``."""
    if isinstance(value, params.Depends):
        if value.dependency is None:
            expected = "expected a dependency with its function, as in Depends(current_user_id)"
            raise InvalidSetting.of(setting, repr(value), expected)
    elif callable(value) and _is_dependency(value):
        name = getattr(value, "__name__", None) or repr(value)
        raise InvalidSetting.of(
            setting,
            f"{name}, which only FastAPI can call",
            f"expected a dependency in a Depends; write {setting}=Depends({name})",
        )


def _is_dependency(function: Any) -> bool:
    """Whether only FastAPI can call a function: it is async, or has parameters of FastAPI's kinds."""
    call = function if inspect.isroutine(function) else type(function).__call__
    kinds = (params.Depends, params.Param, params.Body)
    marks: list[Any] = []
    hints: dict[str, Any] = {}
    with suppress(
        NameError, TypeError, ValueError
    ):  # written in C, or names for type checkers alone
        marks += [each.default for each in inspect.signature(call).parameters.values()]
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
    """Return the signature that FastAPI reads: a parameter for each dependency in place of ``**``."""
    kinds = inspect.Parameter
    own = [each for each in signature.parameters.values() if each.kind is not kinds.VAR_KEYWORD]
    added = [kinds(name, kinds.KEYWORD_ONLY, default=each) for name, each in dependencies.items()]
    return signature.replace(parameters=[*own, *added])


def _result(argument: str) -> Any:
    """Return a function that reads a dependency's result for this request."""
    return lambda request, trusted: request.scope[f"{_RESULT}{argument}"]  # noqa: ARG005 (no address)


def _by_route(key: KeySpec | None) -> Identity:
    """Return an identity of subject and route, so that each route counts by itself."""
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
    """Return a name of the route: a hash of its function, and of its path with the names of its parts.

    In some versions of FastAPI, the path of an included router's route has the router's prefix; in others,
    the full path stands in the scope's context. Both may be missing.
    """
    endpoint = scope.get("endpoint")
    context = (scope.get("fastapi") or {}).get("effective_route_context")
    route = scope.get("route")
    holders = [context, getattr(context, "starlette_route", None), route]
    paths = [path for holder in holders if (path := getattr(holder, "path", None))]
    function = f"{getattr(endpoint, '__module__', '')}.{getattr(endpoint, '__qualname__', '')}"
    return hashed("route", f"{function} {paths[0] if paths else ''}")


def _answer_in(scope: Scope) -> None:
    """Make a refusal's response problem+json, unless the application has its own handler."""
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

"""Limits by authenticated user: dependencies as keys, and key functions that read the connection."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Security, WebSocket
from fastapi.security import APIKeyHeader
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from limiter import InvalidSetting
from limiter.asgi import LimiterMiddleware
from limiter.fastapi import limit
from limiter.web.guard import AsyncGuard
from tests.asgi.support import Connection, ask

MEMORY = "memory://"


async def hello() -> dict[str, str]:
    """Say hello."""
    return {"hello": "world"}


async def token(authorization: Annotated[str, Header()] = "") -> str:
    """A sub-dependency."""
    if authorization == "wrong":
        raise HTTPException(401, "wrong token")
    return authorization


async def user_id(header_value: Annotated[str, Depends(token)]) -> str | None:
    """Return the authenticated user; None for no caller."""
    return header_value or None


def user_id_in_a_thread(header_value: str = Depends(token)) -> str | None:
    """The same, as a function that is not async."""
    return header_value or None


def by_state(connection: Request) -> Any:
    """Return the user that a middleware has found."""
    return connection.state.user


async def statuses(app: Any, *users: str, path: str = "/") -> list[int]:
    """Return the statuses of requests of these users."""
    header_value = [
        await ask(app, path, headers={"authorization": user} if user else {}) for user in users
    ]
    return [one.status for one in header_value]


@pytest.mark.parametrize("user", [user_id, user_id_in_a_thread])
@pytest.mark.parametrize("more", [{}, {"name": "named"}], ids=["unnamed", "named"])
async def test_a_key_may_be_a_dependency(user: Any, more: dict[str, str]) -> None:
    """It may have dependencies; its HTTPException is the response, and None is a 400."""
    app = FastAPI()
    limited = limit("2/minute", key=Depends(user), store=MEMORY, **more)
    app.get("/", dependencies=[Depends(limited)])(hello)

    assert await statuses(app, "ann", "ann", "bob", "ann", "") == [200, 200, 200, 429, 400]
    wrong = await ask(app, headers={"authorization": "wrong"})
    assert (wrong.status, json.loads(wrong.body)) == (401, {"detail": "wrong token"})
    nobody = await ask(app)
    assert nobody.headers["content-type"] == "application/problem+json"


async def test_a_dependency_is_called_once_and_may_be_overridden() -> None:
    """FastAPI does so with every dependency: of a router, of an application, and of several limits."""
    calls: list[str] = []

    def user(header_value: Annotated[str, Depends(token)]) -> str:
        calls.append(header_value)
        return header_value

    def by_user(limits: str) -> Any:
        return Depends(limit(limits, key=Depends(user), store=MEMORY))

    app = FastAPI(dependencies=[by_user("9/minute")])
    router = APIRouter(dependencies=[by_user("5/minute")])

    @router.get("/", dependencies=[by_user("2/minute")])
    async def whom(name: str = Depends(user)) -> str:
        return name

    app.include_router(router)
    assert await statuses(app, "ann", "bob", "ann", "ann") == [200, 200, 200, 429]
    assert calls == ["ann", "bob", "ann", "ann"]
    app.dependency_overrides[user] = lambda: "carl"
    assert json.loads((await ask(app, headers={"authorization": "ann"})).body) == "carl"


async def test_a_cost_may_be_a_dependency() -> None:
    async def cost(x_cost: Annotated[int, Header()] = 1) -> int:
        return x_cost

    app = FastAPI()
    limited = limit("5/minute", key=Depends(user_id), cost=Depends(cost), store=MEMORY)
    app.get("/", dependencies=[Depends(limited)])(hello)

    async def left(user: str, **more: str) -> str:
        return (await ask(app, headers={"authorization": user, **more})).headers["ratelimit"]

    assert await left("ann") == '"route";r=4;t=60'
    assert (await left("ann", **{"x-cost": "3"})).startswith('"route";r=1;t=')
    assert (await ask(app, headers={"authorization": "ann", "x-cost": "x"})).status == 422
    assert await left("bob", **{"x-cost": "4"}) == '"route";r=1;t=60'


async def test_a_dependency_s_parameters_are_the_route_s() -> None:
    """The OpenAPI document has them, and no parameter of the limit's."""
    by_key = Security(APIKeyHeader(name="X-Key"))
    app = FastAPI()
    app.get("/key", dependencies=[Depends(limit("1/minute", key=by_key, store=MEMORY))])(hello)
    app.get("/user", dependencies=[Depends(limit("1/minute", key=Depends(user_id), store=MEMORY))])(
        hello
    )
    app.get("/plain", dependencies=[Depends(limit("1/minute", store=MEMORY))])(hello)
    paths = app.openapi()["paths"]

    assert paths["/key"]["get"]["security"] == [{"APIKeyHeader": []}]
    assert [one["name"] for one in paths["/user"]["get"]["parameters"]] == ["authorization"]
    assert "parameters" not in paths["/plain"]["get"]
    assert [(await ask(app, "/key", headers={"x-key": key})).status for key in "aba"] == [
        200,
        200,
        429,
    ]


async def test_a_websocket_s_key_may_be_a_dependency() -> None:
    app = FastAPI()
    limited = limit("1/minute", key=Depends(user_id), store=MEMORY)

    @app.websocket("/", dependencies=[Depends(limited)])
    async def chat(socket: WebSocket) -> None:
        await socket.accept()

    async def began(user: str) -> str:
        connection = Connection(app, kind="websocket", headers={"authorization": user})
        connection.tell("websocket.connect")
        await connection.start()
        return str(connection.sent[0]["type"])

    assert [await began(user) for user in ("ann", "bob", "ann")] == [
        "websocket.accept",
        "websocket.accept",
        "websocket.close",
    ]


async def test_a_key_that_is_no_subject_is_an_error_of_the_program() -> None:
    """The request does not pass, and the message says what to return."""

    class User:
        pass

    app = FastAPI()
    app.get("/", dependencies=[Depends(limit("1/minute", key=Depends(User), store=MEMORY))])(hello)
    with pytest.raises(TypeError, match=r"key is <.*User.*: expected .*; return the caller's id"):
        await ask(app)


@pytest.mark.parametrize("setting", ["key", "cost"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (user_id, r"write \w+=Depends\(user_id\)"),
        (user_id_in_a_thread, r"write \w+=Depends\(user_id_in_a_thread\)"),
        (by_state, r"write \w+=Depends\(by_state\)"),
        (APIKeyHeader(name="X-Key"), r"write \w+=Depends\("),
        (Depends(), r"expected a dependency with its function"),
        (
            lambda one, two, three: (one, two, three),
            "expected a function without arguments, of the request, or",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_forgotten_depends_is_an_error_at_once(setting: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{setting} is .*{message}"):
        limit("5/minute", store=MEMORY, **{setting: value})


def test_a_dependency_beside_a_guard_is_an_error_at_once() -> None:
    with pytest.raises(InvalidSetting, match="key cannot be combined with a guard"):
        limit(AsyncGuard([]), key=Depends(user_id))


# --- functions of the connection ---


class SetsState:
    """An application's middleware that identifies the caller."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Set it where ``request.state`` of Starlette and FastAPI reads it."""
        fields = dict(scope["headers"])
        scope.setdefault("state", {})["user"] = fields.get(b"authorization", b"").decode()
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    "key",
    [
        lambda request: request.state.user,
        lambda request: request.scope["state"]["user"],
        lambda request, trusted: (request.state.user, len(trusted)) if request.state.user else None,
    ],
)
async def test_a_key_may_be_a_function_of_the_connection(key: Any) -> None:
    """Both the middleware and the dependency accept it, and a function without arguments as the cost."""
    settings: dict[str, Any] = {"key": key, "cost": lambda: 2, "store": MEMORY}
    app = FastAPI()
    app.get("/", dependencies=[Depends(limit("4/minute", **settings))])(hello)
    app.add_middleware(SetsState)
    assert await statuses(app, "ann", "ann", "bob", "ann", "") == [200, 200, 200, 429, 400]

    plain = FastAPI()
    plain.get("/")(hello)
    plain.add_middleware(LimiterMiddleware, limits="4/minute", **settings)
    plain.add_middleware(SetsState)
    assert await statuses(plain, "ann", "ann", "bob", "ann", "") == [200, 200, 200, 429, 400]


class Backend:
    """An authentication backend for Starlette's middleware."""

    async def authenticate(self, connection: Any) -> Any:
        """By the header."""
        name = connection.headers.get("authorization")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


def by_user(request: Any) -> str | None:
    """The user that Starlette's AuthenticationMiddleware has found."""
    user = request.scope["user"]
    return str(user.display_name) if user.is_authenticated else None


async def test_a_key_may_be_starlette_s_user() -> None:
    async def page(request: Any) -> PlainTextResponse:
        return PlainTextResponse("hello")

    middleware = [
        Middleware(AuthenticationMiddleware, backend=Backend()),
        Middleware(LimiterMiddleware, limits="1/minute", key=by_user, store=MEMORY),
    ]
    app = Starlette(routes=[Route("/", page)], middleware=middleware)
    assert await statuses(app, "ann", "bob", "ann", "") == [200, 200, 429, 400]

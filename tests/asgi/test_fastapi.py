"""A limit as a dependency of FastAPI."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse

from limiter import AsyncLimiter, Concurrency, InvalidSetting, LeakyBucket
from limiter.asgi import LimiterMiddleware
from limiter.fastapi import Limit, Refused, limit
from limiter.web.guard import AsyncGuard
from limiter.web.rules import Rule
from limiter.web.verdict import Verdict
from service.demo.servers import HOST, free_port
from tests.asgi.support import Connection, ask, eventually_free, free

MEMORY = "memory://"


async def hello() -> dict[str, str]:
    """Say hello."""
    return {"hello": "world"}


def by(limits: Any, **more: Any) -> Any:
    """The dependency, with a store of its own."""
    return Depends(limit(limits, store=MEMORY, **more))


async def test_a_route_is_limited() -> None:
    app = FastAPI()
    app.get("/", dependencies=[by("2/minute")])(hello)
    answers = [await ask(app) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert json.loads(answers[0].body) == {"hello": "world"}
    assert answers[0].headers["ratelimit-policy"] == '"route";q=2;w=60'
    assert answers[0].headers["ratelimit"] == '"route";r=1;t=60'
    denied = answers[2]
    wait = denied.headers["retry-after"]
    assert denied.headers == {
        "content-type": "application/problem+json",
        "content-length": str(len(denied.body)),
        "cache-control": "no-store",
        "ratelimit-policy": '"route";q=2;w=60',
        "ratelimit": f'"route";r=0;t={wait}',
        "retry-after": wait,
    }
    assert json.loads(denied.body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": "Policy route allows 2 requests per 60 s.",
        "instance": "/",
        "violated-policies": ["route"],
    }


async def test_its_value_is_the_verdict() -> None:
    app = FastAPI()

    @app.get("/")
    async def left(verdict: Annotated[Verdict, by("5/minute")]) -> int:
        return verdict.results[0].decision.remaining

    assert (await ask(app)).body == b"4"


async def test_each_route_has_a_limit_of_its_own() -> None:
    """So has one dependency of a router, for any prefix and any names of its parts."""
    items = APIRouter(prefix="/items", dependencies=[by("1/minute")])
    items.get("/")(hello)
    items.get("/{item}")(hello)
    items.post("/{item}/{part:path}")(hello)
    outer = APIRouter(prefix="/v1")
    outer.include_router(items)
    app = FastAPI()
    app.include_router(outer, prefix="/api")
    mounted = FastAPI()
    mounted.get("/items/", dependencies=[by("1/minute")])(hello)
    app.mount("/mounted", mounted)

    async def status(path: str, method: str = "GET") -> int:
        return (await ask(app, path, method=method)).status

    assert await status("/api/v1/items/") == 200
    assert await status("/api/v1/items/1") == 200
    assert await status("/api/v1/items/2") == 429  # the route, and not the path
    assert await status("/api/v1/items/1/a/b", "POST") == 200
    assert await status("/api/v1/items/2/b", "POST") == 429
    assert await status("/api/v1/items/") == 429
    assert await status("/mounted/items/") == 200
    assert await status("/mounted/items/") == 429


async def test_functions_of_one_name_in_two_routers_are_two_routes() -> None:
    def router() -> APIRouter:
        made = APIRouter(dependencies=[Depends(shared)])

        @made.get("/list")
        async def listed() -> int:
            return 1

        return made

    shared = limit("1/minute", store=MEMORY)
    app = FastAPI()
    app.include_router(router(), prefix="/users")
    app.include_router(router(), prefix="/orders")

    assert [(await ask(app, f"/{one}/list")).status for one in ("users", "orders")] == [200, 200]
    assert [(await ask(app, f"/{one}/list")).status for one in ("users", "orders")] == [429, 429]


async def test_all_limits_of_one_name_are_one() -> None:
    store = AsyncLimiter("1/minute", store=MEMORY)
    app = FastAPI()
    for path in ("/a", "/b"):
        shared = Depends(limit("2/minute", name="both", store=store))
        app.get(path, dependencies=[shared])(hello)

    assert [(await ask(app, path)).status for path in ("/a", "/b", "/a", "/b")] == [
        200,
        200,
        429,
        429,
    ]


async def test_several_on_one_route_join_their_fields() -> None:
    app = FastAPI()
    router = APIRouter(dependencies=[by("9/minute", name="all")])
    router.get("/", dependencies=[by("1/minute")])(hello)
    app.include_router(router)
    passed, denied = await ask(app), await ask(app)

    assert passed.headers["ratelimit"] == '"all";r=8;t=60, "route";r=0;t=60'
    assert denied.status == 429
    assert denied.headers["ratelimit"].startswith('"all";r=7;t=60, "route";r=0;t=')
    assert json.loads(denied.body)["violated-policies"] == ["route"]


@pytest.mark.parametrize("more", [{}, {"name": "named"}], ids=repr)
async def test_a_limit_without_depends_is_an_error(more: dict[str, str]) -> None:
    """FastAPI would enforce no limit, and the author would not notice."""
    app = FastAPI()
    limited: Any = limit("5/minute", store=MEMORY, **more)

    async def by_default(verdict: Any = limited) -> None: ...

    async def annotated(verdict: Any) -> None: ...

    annotated.__annotations__["verdict"] = Annotated[str, limited]
    with pytest.raises(TypeError, match=r"write Depends\(limit\(...\)\)"):
        app.get("/", dependencies=[limited])(hello)
    with pytest.raises(TypeError, match=r"write Depends\(limit\(...\)\)"):
        FastAPI(dependencies=[limited]).get("/")(hello)
    with pytest.raises(TypeError, match=r"write Depends\(limit\(...\)\)"):
        app.get("/annotated")(annotated)
    app.get("/default")(by_default)
    with pytest.raises(TypeError, match=r"write Depends\(limit\(...\)\)"):
        await ask(app, "/default")


async def test_a_router_s_limit_and_a_route_s_are_two() -> None:
    """They have no names, one store and one subject, and may be equal."""
    store = AsyncLimiter("1/minute", store=MEMORY)

    def one(limits: Any, **more: Any) -> Any:
        return Depends(limit(limits, store=store, **more))

    app = FastAPI(dependencies=[one("100/minute")])
    router = APIRouter(dependencies=[one("6/minute", cost=2)])
    router.get("/a", dependencies=[one("6/minute"), one("9/minute; 50/hour")])(hello)
    router.get("/b")(hello)
    app.include_router(router)
    answers = [await ask(app, "/a") for _ in range(4)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == (
        '"route";q=100;w=60, "route-2";q=6;w=60, "route-3";q=6;w=60, '
        '"route-4.1";q=9;w=60, "route-4.2";q=50;w=3600'
    )
    assert answers[2].headers["ratelimit"] == (
        '"route";r=97;t=60, "route-2";r=0;t=60, "route-3";r=3;t=60, '
        '"route-4.1";r=6;t=60, "route-4.2";r=47;t=3600'
    )
    assert json.loads(answers[3].body)["violated-policies"] == ["route-2"]
    assert (await ask(app, "/b")).headers["ratelimit"] == '"route";r=99;t=60, "route-2";r=4;t=60'


async def test_another_process_uses_the_same_keys(store: str, subject: str) -> None:
    """The key of each of several limits depends only on the application's code."""

    async def left() -> str:
        base = AsyncLimiter("1/minute", store=store, timeout=5, connect_timeout=5)
        more: dict[str, Any] = {"store": base, "prefix": subject, "timeout": 5.0}
        found = [limit(f"{number}/minute", **more) for number in (9, 8)]
        app = FastAPI(dependencies=[Depends(found[0])])
        app.get("/", dependencies=[Depends(found[1])])(hello)
        answer = await ask(app)
        for one in found:
            await one.close()
        states: str = answer.headers["ratelimit"]
        return states

    assert await left() == '"route";r=8;t=60, "route-2";r=7;t=60'
    assert (await left()).startswith('"route";r=7;')
    assert '"route-2";r=5;' in await left()


async def test_keys_costs_rules_and_limiters() -> None:
    app = FastAPI()
    app.get("/orgs/{org}", dependencies=[by("4/minute", key="path:org", cost=2)])(hello)
    own = AsyncLimiter("1/minute", store=MEMORY, name="own")
    app.get("/limiter", dependencies=[Depends(limit(own))])(hello)
    app.get("/rule", dependencies=[Depends(limit([Rule(own)]))])(hello)
    app.get("/guard", dependencies=[Depends(limit(AsyncGuard([Rule(own)])))])(hello)

    assert [(await ask(app, "/orgs/a")).status for _ in range(3)] == [200, 200, 429]
    assert (await ask(app, "/orgs/b")).headers["ratelimit"] == '"route";r=2;t=60'
    for path, subject in (("/int", 42), ("/str", "x"), ("/tuple", ("x", 42))):

        def whom(request: object, trusted: object, subject: Any = subject) -> Any:
            return subject

        app.get(path, dependencies=[by("1/minute", key=whom)])(hello)
        assert [(await ask(app, path)).status for _ in range(2)] == [200, 429]
    assert (await ask(app, "/limiter")).headers["ratelimit"] == '"own";r=0;t=60'
    assert (await ask(app, "/rule")).status == 429
    assert (await ask(app, "/guard")).status == 429
    with pytest.raises(InvalidSetting, match="name cannot be combined with rules"):
        limit([Rule(own)], name="x")


async def test_an_unidentified_caller_is_refused() -> None:
    app = FastAPI()
    app.get("/", dependencies=[by("4/minute", key=["address", "header:X-User"])])(hello)

    answer = await ask(app)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert (await ask(app, headers={"x-user": "ann"})).status == 200
    for more in ({}, {"name": "named"}):
        nobody: Any = by("4/minute", key=lambda *_: None, **more)
        app.get(f"/nobody/{len(more)}", dependencies=[nobody])(hello)
        assert (await ask(app, f"/nobody/{len(more)}")).status == 400


async def test_which_invalid_bodies_are_counted() -> None:
    """A body that is not JSON is not counted; JSON of another schema is."""
    app = FastAPI()
    counted = limit("9/minute", store=MEMORY, key="global")

    @app.post("/")
    async def post(body: dict[str, int], verdict: Verdict = Depends(counted)) -> int:  # noqa: B008
        return verdict.results[0].decision.remaining

    async def status(body: bytes) -> tuple[int, bytes]:
        connection = Connection(app, method="POST", headers={"content-type": "application/json"})
        connection.tell("http.request", body=body)
        await connection.start()
        return connection.status, connection.body

    assert (await status(b"{"))[0] == 422
    assert (await status(b'{"a": "x"}'))[0] == 422
    assert await status(b'{"a": 1}') == (200, b"7")
    assert (await ask(app, "/nowhere")).status == 404
    assert set(app.openapi()["paths"]["/"]["post"]) & {"parameters"} == set()


async def test_an_application_may_answer_itself() -> None:
    by_class, by_status = FastAPI(), FastAPI()

    @by_class.exception_handler(Refused)
    async def mine(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"mine": error.verdict.status}, 420, error.headers)

    @by_status.exception_handler(429)
    async def too(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error.detail, 429, error.headers)

    for app in (by_class, by_status):
        app.get("/", dependencies=[by("1/minute")])(hello)
        await ask(app)
    answer = await ask(by_class)
    assert (answer.status, json.loads(answer.body)) == (420, {"mine": 429})
    assert "retry-after" in answer.headers
    answer = await ask(by_status)
    assert (answer.status, json.loads(answer.body)["title"]) == (429, "Quota Exceeded")
    assert "retry-after" in answer.headers


async def test_with_a_middleware_every_response_has_the_fields() -> None:
    """Responses that an endpoint makes itself, and errors, have each field once."""
    app = FastAPI()
    limited = Depends(limit("5/minute", store=MEMORY, key="global", name="dependency"))

    @app.get("/own", dependencies=[limited])
    async def own() -> JSONResponse:
        return JSONResponse({})

    @app.get("/error", dependencies=[limited])
    async def error() -> None:
        raise HTTPException(404)

    app.get("/", dependencies=[limited])(hello)

    for _ in range(2):
        assert "ratelimit" not in (await ask(app, "/own")).headers
    silent = LimiterMiddleware(app, ())
    assert (await ask(silent, "/own")).headers["ratelimit"] == '"dependency";r=2;t=60'
    wrapped = LimiterMiddleware(app, "9/minute", store=MEMORY, name="middleware")
    answers = [await ask(wrapped, path) for path in ("/error", "/", "/own")]
    assert [answer.status for answer in answers] == [404, 200, 429]
    assert [answer.headers["ratelimit"] for answer in answers[:2]] == [
        '"middleware";r=8;t=60, "dependency";r=1;t=60',
        '"middleware";r=7;t=60, "dependency";r=0;t=60',
    ]
    assert answers[2].headers["ratelimit"].startswith('"middleware";r=6;t=60, "dependency";r=0;')
    added = FastAPI(dependencies=[limited])
    added.get("/")(hello)
    added.add_middleware(LimiterMiddleware, limits="9/minute", store=MEMORY, name="added")
    answer = await ask(added)
    assert answer.status == 429
    assert answer.headers["ratelimit"].startswith('"added";r=8;t=60, "dependency";r=0;')


def refuse_every_caller() -> None:
    raise HTTPException(401)


async def test_no_dependency_of_a_disabled_limit_is_called() -> None:
    app = FastAPI()
    off = [
        Depends(limit("1/minute", key=Depends(refuse_every_caller), enabled=False)) for _ in "12"
    ]
    app.get("/", dependencies=off)(lambda: "hello")

    assert [(await ask(app)).status for _ in range(2)] == [200, 200]
    for enabled in ("false", 0, None):
        with pytest.raises(InvalidSetting, match="expected True or False"):
            limit("1/minute", store=MEMORY, enabled=enabled)  # type: ignore[arg-type]


# --- leases ---


def holding() -> tuple[AsyncLimiter, Limit]:
    """Two at once, and the dependency."""
    limiter = AsyncLimiter([Concurrency(2, lease=30)], store=MEMORY)
    return limiter, limit(limiter)


async def test_a_lease_is_held_until_the_response_is_sent() -> None:
    limiter, holds = holding()
    app = FastAPI()
    left: list[int] = []

    @app.get("/", dependencies=[Depends(holds)])
    async def stream() -> StreamingResponse:
        async def pieces() -> Any:
            for piece in ("a", "b"):
                left.append(await free(limiter))
                yield piece

        return StreamingResponse(pieces())

    answer = await ask(app)
    assert (answer.body, left) == (b"ab", [1, 1])
    assert await free(limiter) == 2


@pytest.mark.parametrize("error", [ValueError, HTTPException(403)])
async def test_an_endpoint_that_fails_releases_its_lease(error: Any) -> None:
    limiter, holds = holding()
    app = FastAPI()

    @app.get("/", dependencies=[Depends(holds)])
    async def fail(background: BackgroundTasks) -> None:
        assert await free(limiter) == 1
        raise error

    if error is ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 (the endpoint's own)
            await ask(app)
    else:
        assert (await ask(app)).status == 403
    assert await free(limiter) == 2


@pytest.mark.parametrize("how", ["disconnect", "cancel"])
async def test_a_client_that_disconnects_releases_its_lease(how: str) -> None:
    limiter, holds = holding()
    app = FastAPI()

    @app.get("/", dependencies=[Depends(holds)])
    async def stream() -> StreamingResponse:
        async def pieces() -> Any:
            while True:
                yield "x"
                await asyncio.sleep(0.01)  # a stream that does not end, and lets others go on

        return StreamingResponse(pieces())

    # As with uvicorn, the application itself receives the end of the connection.
    connection = Connection(app, asgi={"version": "3.0", "spec_version": "2.3"})
    connection.tell("http.request", body=b"")
    task = connection.start()
    await connection.until(3)
    assert await free(limiter) == 1
    if how == "cancel":
        task.cancel()
    else:
        connection.tell("http.disconnect")
    await asyncio.gather(task, return_exceptions=True)
    await eventually_free(limiter, 2)
    await holds.close()
    assert not holds._open._requests
    assert not holds._open._tasks


async def test_it_sleeps_a_delay_only_when_asked() -> None:
    async def spent(per: float, **more: Any) -> float:
        app = FastAPI()
        app.get("/", dependencies=[by(LeakyBucket(20, per=per), **more)])(hello)
        before = asyncio.get_running_loop().time()
        assert [(await ask(app)).status for _ in range(4)] == [200] * 4
        return asyncio.get_running_loop().time() - before

    assert await spent(1, sleep=True) > 0.14
    assert await spent(1000) < 50


# --- websockets ---


async def test_a_websocket_is_limited_at_its_handshake() -> None:
    limiter, holds = holding()
    app = FastAPI()

    @app.websocket("/{room}", dependencies=[Depends(holds), by("1/minute")])
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        assert await free(limiter) == 1
        await socket.receive_text()

    first = Connection(app, kind="websocket", path="/a")
    first.tell("websocket.connect")
    first.tell("websocket.receive", text="x")
    await first.start()
    assert first.sent[0]["type"] == "websocket.accept"
    assert await free(limiter) == 2

    denied = Connection(
        app, kind="websocket", path="/b", extensions={"websocket.http.response": {}}
    )
    denied.tell("websocket.connect")
    await denied.start()
    assert denied.sent[0]["type"] == "websocket.http.response.start"
    assert denied.status == 429
    assert json.loads(denied.body)["violated-policies"] == ["route"]
    assert await free(limiter) == 2

    closed = Connection(app, kind="websocket", path="/c")
    closed.tell("websocket.connect")
    await closed.start()
    assert [(message["type"], message["code"]) for message in closed.sent] == [
        ("websocket.close", 1008)
    ]


async def test_the_close_codes_of_a_websocket() -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    for dependency, code in (
        (by("5/minute", cost=lambda *_: 6), 1008),
        (by("5/minute", key="header:X-User"), 1008),
        (Depends(limit("5/minute", store=gone, timeout=0.05)), 1013),
    ):
        app = FastAPI()
        app.websocket("/", dependencies=[dependency])(hello)
        closed = Connection(app, kind="websocket")
        closed.tell("websocket.connect")
        await closed.start()
        (message,) = closed.sent
        assert (message["type"], message["code"]) == ("websocket.close", code)
        assert message["reason"].endswith(".")

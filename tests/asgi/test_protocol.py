"""The middleware with any server and any application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from limiter import AsyncLimiter, Concurrency, InvalidSetting, LeakyBucket, StoreUnavailable
from limiter.asgi import LimiterMiddleware
from limiter.testing import StoreCall, intercept
from limiter.web.guard import Guard
from limiter.web.identity import Unidentified
from limiter.web.new_subjects import NewSubjects
from limiter.web.rules import Rule
from limiter.web.subjects import identity
from service.demo.servers import HOST, free_port
from tests.asgi.support import Connection, ask, eventually_free, free
from tests.transport.support import scripts_run

MEMORY = "memory://"
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain")],
}


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Say hello."""
    await send(START)
    await send({"type": "http.response.body", "body": b"hello"})


def two() -> AsyncLimiter:
    """Two at once."""
    return AsyncLimiter([Concurrency(2, lease=30)], store=MEMORY, timeout=0.05)


# --- settings and other connections ---


@pytest.mark.parametrize(
    ("limits", "more", "message"),
    [
        ("5/minute", {"store": MEMORY, "messages": Guard([])}, "messages: .*AsyncGuard"),
        ((), {"messages": "5/minute"}, "messages: LIMITER_STORE is not set"),
    ],
)
def test_a_wrong_setting(limits: Any, more: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        LimiterMiddleware(hello, limits, **more)


async def test_other_kinds_of_connections_are_the_application_s() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    connection = Connection(LimiterMiddleware(app, "1/minute", store=MEMORY), kind="telnet")
    await connection.start()

    assert seen == [connection.scope]


# --- leases ---


async def test_a_lease_is_held_until_the_body_ends() -> None:
    limiter = two()
    left: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for piece in (b"a", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            left.append(await free(limiter))
        await send({"type": "http.response.body", "body": b"c"})
        left.append(await free(limiter))  # work after the response holds no lease

    answer = await ask(LimiterMiddleware(app, limiter))

    assert answer.body == b"abc"
    assert left == [1, 1, 2]
    assert answer.headers["ratelimit-policy"] == '"default";q=2;qu="concurrent-requests"'


@pytest.mark.parametrize(
    ("start", "rest", "left"),
    [
        ({}, [{"type": "http.response.pathsend", "path": "/x"}], [1, 2]),
        ({}, [{"type": "http.response.zerocopysend", "file": 0}], [1, 2]),
        (
            {"trailers": True},
            [
                {"type": "http.response.body", "body": b""},
                {"type": "http.response.trailers", "headers": [], "more_trailers": True},
                {"type": "http.response.trailers", "headers": []},
            ],
            [1, 1, 1, 2],
        ),
    ],
)
async def test_other_ends_of_a_body(start: Any, rest: list[Any], left: list[int]) -> None:
    limiter = two()
    found: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in [{**START, **start}, *rest]:
            await send(message)
            found.append(await free(limiter))

    await ask(LimiterMiddleware(app, limiter))

    assert found == left


async def test_a_denied_request_holds_nothing() -> None:
    limiter = two()
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await hello(scope, receive, send)

    middleware = LimiterMiddleware(app, limiter)
    tasks = [Connection(middleware).start() for _ in range(2)]
    await eventually_free(limiter, 0)
    assert (await ask(middleware)).status == 429
    go.set()
    await asyncio.gather(*tasks)

    assert await free(limiter) == 2


async def test_a_client_that_disconnects_releases_its_lease() -> None:
    """It does so also if the application goes on."""
    limiter = two()
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        assert (await receive())["type"] == "http.disconnect"
        await go.wait()

    connection = Connection(LimiterMiddleware(app, limiter))
    task = connection.start()
    await connection.until(1)
    assert await free(limiter) == 1
    connection.tell("http.disconnect")
    await eventually_free(limiter, 2)
    go.set()
    await task
    assert await free(limiter) == 2


async def test_an_application_that_fails_releases_its_lease() -> None:
    limiter = two()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await free(limiter) == 1
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        await ask(LimiterMiddleware(app, limiter))
    assert await free(limiter) == 2


async def test_a_client_that_disconnects_during_the_response() -> None:
    limiter = two()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message: Any) -> None:
        raise OSError("gone")

    connection = Connection(LimiterMiddleware(app, limiter))
    connection.send = send  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        await connection.start()
    assert await free(limiter) == 2


async def test_a_cancelled_request_releases_its_lease() -> None:
    """It does so at every step, also if it is cancelled again during the release."""
    limiter = two()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(60)  # it hangs, which is the fault

    middleware = LimiterMiddleware(app, limiter)

    async def slow(call: StoreCall, ahead: Any) -> Any:
        await asyncio.sleep(0.01)  # the delay is the fault
        return await ahead()

    intercept(limiter, slow)
    for steps in range(12):
        task = Connection(middleware).start()
        for _ in range(steps):
            await asyncio.sleep(0.002)  # to cancel in each step
        task.cancel()
        await asyncio.sleep(0)  # so that the first cancellation arrives before the second
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually_free(limiter, 2)
    await middleware.close()
    assert not middleware._open._requests
    assert not middleware._open._tasks


async def test_a_request_cancelled_when_the_store_had_decided() -> None:
    """The store gave a lease whose id the request never got: it is released shortly after."""
    limiter = two()
    decided = asyncio.Event()

    async def given_but_late(call: StoreCall, ahead: Any) -> Any:
        reply = await ahead()
        intercept(limiter, None)
        decided.set()
        await asyncio.sleep(60)  # the reply is late, which is the fault
        return reply

    intercept(limiter, given_but_late)
    task = Connection(LimiterMiddleware(hello, limiter)).start()
    await decided.wait()
    assert await free(limiter) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually_free(limiter, 2)


async def test_a_missing_reply_leaves_no_lease() -> None:
    limiter = AsyncLimiter([Concurrency(1, lease=30)], store=MEMORY, timeout=0.05, on_error="allow")

    async def given_but_lost(call: StoreCall, ahead: Any) -> Any:
        await ahead()
        intercept(limiter, None)
        raise StoreUnavailable("no answer in time")

    intercept(limiter, given_but_lost)

    assert (await ask(LimiterMiddleware(hello, limiter))).status == 200
    await eventually_free(limiter, 1)


async def test_a_client_that_reads_slowly_does_not_hold_its_lease() -> None:
    limiter = AsyncLimiter(Concurrency(1, lease=2, max_hold=2), store=MEMORY)
    reads = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await reads.wait()
        await send({"type": "http.response.body", "body": b"hello"})

    first = Connection(LimiterMiddleware(slow, limiter), path="/")
    first.tell("http.request", body=b"", more_body=False)
    task = first.start()
    await first.until(1)
    app = LimiterMiddleware(hello, limiter)
    assert (await ask(app)).status == 429
    await eventually_free(limiter, 1)
    assert (await ask(app)).status == 200
    reads.set()
    await task
    assert first.body == b"hello"


# --- websockets ---


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Accept, and send each message back."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def websocket(app: Any, **more: Any) -> Connection:
    """A websocket whose client has sent its handshake."""
    connection = Connection(app, kind="websocket", **more)
    connection.tell("websocket.connect")
    return connection


async def test_a_handshake_is_limited_and_has_the_fields() -> None:
    app = LimiterMiddleware(echo, "1/minute", store=MEMORY)
    first = websocket(app)
    task = first.start()
    accepted = await first.until(1)
    first.tell("websocket.receive", text="hi")
    assert (await first.until(2))["text"] == "hi"
    first.tell("websocket.disconnect", code=1000)
    await task
    assert (b"ratelimit", b'"default";r=0;t=60') in accepted["headers"]

    denied = websocket(app, extensions={"websocket.http.response": {}})
    await denied.start()
    assert [message["type"] for message in denied.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert denied.status == 429
    assert denied.headers["content-type"] == "application/problem+json"
    assert json.loads(denied.body)["status"] == 429

    closed = websocket(app)
    await closed.start()
    (message,) = closed.sent
    assert (message["type"], message["code"]) == ("websocket.close", 1008)
    assert message["reason"].startswith("Rate limit exceeded: try again in ")

    gone = Connection(app, kind="websocket")
    gone.tell("websocket.disconnect", code=1006)
    await gone.start()
    assert gone.sent == []


async def test_an_application_s_own_refusal_has_the_fields() -> None:
    limiter = two()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        assert await free(limiter) == 2

    connection = websocket(LimiterMiddleware(app, limiter))
    await connection.start()

    assert connection.headers["ratelimit"] == '"default";r=1'


@pytest.mark.parametrize("end", ["client", "application", "return", "cancel", "error"])
async def test_a_websocket_holds_its_lease_until_it_is_closed(end: str) -> None:
    limiter = two()
    stays = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        if end == "application":
            await send({"type": "websocket.close", "code": 1000})
        if end in ("application", "client", "cancel"):
            await stays.wait()
        if end == "error":
            raise ValueError

    connection = websocket(LimiterMiddleware(app, limiter))
    task = connection.start()
    await connection.until(1)
    assert await free(limiter) == 1
    if end == "client":
        connection.tell("websocket.disconnect", code=1001)
    elif end == "cancel":
        task.cancel()
    else:
        connection.tell("websocket.receive", text="x")
    await eventually_free(limiter, 2)
    stays.set()
    await asyncio.gather(task, return_exceptions=True)


async def test_messages_are_limited() -> None:
    app = LimiterMiddleware(echo, "9/minute", messages="2/minute", store=MEMORY, name="chat")
    connection = websocket(app)
    task = connection.start()
    await connection.until(1)
    for text in "abc":
        connection.tell("websocket.receive", text=text)
    await task

    kinds = [message["type"] for message in connection.sent]
    assert kinds == ["websocket.accept", "websocket.send", "websocket.send", "websocket.close"]
    assert connection.sent[3]["code"] == 1008
    assert connection.sent[3]["reason"].startswith("Rate limit exceeded: try again in ")
    # All connections of a caller share the messages' limit; the handshakes have another.
    again = websocket(app)
    task = again.start()
    await again.until(1)
    assert again.headers["ratelimit"] == '"chat";r=7;t=60'
    again.tell("websocket.receive", text="d")
    await task
    assert [message["type"] for message in again.sent] == ["websocket.accept", "websocket.close"]


async def test_after_a_denied_message_there_is_no_other() -> None:
    seen: list[Any] = []
    limiter = two()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(4):
            seen.append(await receive())
            await send({"type": "websocket.send", "text": "more"})
        assert await free(limiter) == 2

    rate = Rule(AsyncLimiter("1/minute", store=limiter, name="messages"))
    connection = websocket(LimiterMiddleware(app, limiter, messages=[rate]))
    for text in "abcd":
        connection.tell("websocket.receive", text=text)
    await connection.start()

    assert [message["type"] for message in seen] == [
        "websocket.receive",
        *["websocket.disconnect"] * 3,
    ]
    assert [message["type"] for message in connection.sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]


async def test_messages_while_the_store_is_gone() -> None:
    store = f"redis://{HOST}:{free_port()}/0"
    app = LimiterMiddleware(echo, (), messages="2/minute", store=store, timeout=0.05)
    connection = websocket(app)
    connection.tell("websocket.receive", text="a")
    await connection.start()
    await app.close()

    assert (connection.sent[1]["type"], connection.sent[1]["code"]) == ("websocket.close", 1013)


async def test_a_websocket_that_can_never_pass_has_no_retry() -> None:
    for more in ({"cost": lambda *_: 6}, {"key": "header:X-User"}):
        app = LimiterMiddleware(echo, "5/minute", store=MEMORY, **more)  # type: ignore[arg-type]
        connection = websocket(app)
        await connection.start()
        (message,) = connection.sent
        assert (message["type"], message["code"]) == ("websocket.close", 1008)
        assert message["reason"].endswith(".")
        assert "right now" not in message["reason"]


async def test_the_reason_of_a_closed_websocket_fits_into_a_frame() -> None:
    def nobody(*_: object) -> str:
        raise Unidentified("\u20ac" * 200)

    connection = websocket(LimiterMiddleware(echo, "5/minute", store=MEMORY, key=nobody))
    await connection.start()
    assert 100 < len(connection.sent[0]["reason"].encode()) <= 123


async def test_a_websocket_that_begins_too_many_subjects_is_closed_like_others() -> None:
    limiter = AsyncLimiter("9/minute", store=MEMORY)
    rule = Rule(limiter, identity=identity("api-key"), new_subjects=NewSubjects("1/hour"))
    app = LimiterMiddleware(hello, rule)
    for key, kinds in (("a", "http.response.start"), ("b", "websocket.close")):
        connection = websocket(app, headers={"x-api-key": key})
        await connection.start()
        assert connection.sent[0]["type"] == kinds
    assert connection.sent[0]["code"] == 1008
    assert connection.sent[0]["reason"] == "Rate limit exceeded: try again in 3600 s."


async def test_messages_pass_where_limits_are_off() -> None:
    connection = websocket(LimiterMiddleware(echo, "1/minute", messages="1/day", enabled=False))
    for text in "ab":
        connection.tell("websocket.receive", text=text)
    connection.tell("websocket.disconnect", code=1000)
    await connection.start()

    assert [message.get("text") for message in connection.sent] == [None, "a", "b"]


async def test_a_receive_with_a_timeout_loses_no_message() -> None:
    limiter = AsyncLimiter("9/minute", store=MEMORY)
    calls: list[Any] = []

    async def slow(call: StoreCall, ahead: Any) -> Any:
        calls.append(call)
        await asyncio.sleep(0.03)  # longer than the application waits for a message
        return await ahead()

    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        intercept(limiter, slow)
        while len(seen) < 2:
            try:
                message = await asyncio.wait_for(receive(), 0.01)
            except asyncio.TimeoutError:
                continue
            seen.append(message["text"])

    connection = websocket(LimiterMiddleware(app, (), messages=limiter))
    for text in "ab":
        connection.tell("websocket.receive", text=text)
    await connection.start()

    assert seen == ["a", "b"]
    assert len(calls) == 2


async def test_messages_sleep_a_delay_only_when_asked() -> None:
    async def spent(per: float, sleep: bool) -> float:
        limits = LeakyBucket(20, per=per)
        app = LimiterMiddleware(echo, (), messages=limits, store=MEMORY, sleep=sleep)
        connection = websocket(app)
        for text in "abcd":
            connection.tell("websocket.receive", text=text)
        connection.tell("websocket.disconnect", code=1000)
        before = asyncio.get_running_loop().time()
        await connection.start()
        assert len(connection.sent) == 5
        return asyncio.get_running_loop().time() - before

    assert await spent(1, sleep=True) > 0.14
    assert await spent(1000, sleep=False) < 50


# --- lifespan ---


def lifespan(app: Any) -> Connection:
    connection = Connection(app, kind="lifespan")
    connection.tell("lifespan.startup")
    return connection


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The limiters that were opened and closed."""
    done: list[str] = []

    def noting(name: str) -> Callable[[Any], Any]:
        async def note(limiter: Any) -> None:
            done.append(f"{name} {limiter.name}")

        return note

    for name in ("open", "close"):
        monkeypatch.setattr(AsyncLimiter, name, noting(name))
    return done


async def lives(scope: Any, receive: Any, send: Any) -> None:
    """An application with a lifespan of its own."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


async def raises(scope: Any, receive: Any, send: Any) -> None:
    """Raise on a lifespan, as Django does."""
    raise ValueError("no lifespan here")


async def ignores(scope: Any, receive: Any, send: Any) -> None:
    """Ignore a lifespan, as small applications do."""


@pytest.mark.parametrize("app", [lives, raises, ignores])
async def test_a_lifespan_opens_and_closes_the_limiters(app: Any, opened: list[str]) -> None:
    middleware = LimiterMiddleware(app, "5/minute", messages="9/minute", store=MEMORY)
    connection = lifespan(middleware)
    task = connection.start()
    assert (await connection.until(1))["type"] == "lifespan.startup.complete"
    assert opened == ["open default", "open default-messages"]
    connection.tell("lifespan.shutdown")
    assert (await connection.until(2))["type"] == "lifespan.shutdown.complete"
    assert opened[2:] == ["close default", "close default-messages"]
    await task


async def test_a_start_that_fails_is_the_application_s_own(opened: list[str]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})
        raise ValueError("no")

    connection = lifespan(LimiterMiddleware(app, "5/minute", store=MEMORY))
    with pytest.raises(ValueError, match="no"):
        await connection.start()
    assert [message["type"] for message in connection.sent] == ["lifespan.startup.failed"]
    assert opened == ["open default", "close default"]


async def test_it_starts_without_the_store(caplog: pytest.LogCaptureFixture) -> None:
    store = f"redis://{HOST}:{free_port()}/0"
    app = LimiterMiddleware(lives, "5/minute", store=store, connect_timeout=0.2)
    connection = lifespan(app)
    task = connection.start()
    assert (await connection.until(1))["type"] == "lifespan.startup.complete"
    assert "started without the store" in caplog.text
    connection.tell("lifespan.shutdown")
    await task


async def test_the_shutdown_releases_leases() -> None:
    """Uvicorn does not wait for the requests that it cancels."""
    limiter = two()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lives(scope, receive, send)
            return
        await send(START)
        await asyncio.sleep(60)

    middleware = LimiterMiddleware(app, limiter)
    served = lifespan(middleware)
    task = served.start()
    connection = Connection(middleware)
    request = connection.start()
    await connection.until(1)
    assert await free(limiter) == 1
    served.tell("lifespan.shutdown")
    await task
    assert await free(limiter) == 2
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)


async def test_the_shutdown_waits_for_pending_releases() -> None:
    limiter = two()

    async def slow(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "release":
            await asyncio.sleep(0.05)  # the delay is the fault
        return await ahead()

    intercept(limiter, slow)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(60)

    middleware = LimiterMiddleware(app, limiter)
    connection = Connection(middleware)
    task = connection.start()
    await connection.until(1)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await free(limiter) == 1
    await middleware.close()
    assert await free(limiter) == 2


async def test_requests_spend_prepaid_units(store: str, subject: str) -> None:
    """100 requests take few script calls, and each response says what is left."""
    settings: dict[str, Any] = {"prepaid": 100, "prepaid_hold": 50, "timeout": 5, "store": store}
    app = LimiterMiddleware(hello, "1000/day", algorithm="fixed_window", name=subject, **settings)
    client = redis.Redis.from_url(store)
    before = scripts_run(client)
    fields = [(await ask(app)).headers["ratelimit"] for _ in range(100)]

    assert [field.partition(";t=")[0] for field in fields] == [
        f'"{subject}";r={left}' for left in range(999, 899, -1)
    ]
    assert scripts_run(client) - before <= 20
    await app.close()

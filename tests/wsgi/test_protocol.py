"""The middleware with any server and any application."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from limiter import Concurrency, Limiter, StoreUnavailable
from limiter.testing import StoreCall, intercept
from limiter.web import Match, Rule, pattern
from limiter.wsgi import LimiterMiddleware
from tests.waiting import until, until_renewed
from tests.wsgi.support import CALLER, Answer, ask, begin, environ

MEMORY = "memory://"


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Say hello."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def body(answer: Answer) -> bytes:
    return b"".join(answer.body)


# --- functions and responses ---


@pytest.mark.parametrize(
    "key",
    [
        lambda request: request.environ.get("REMOTE_USER"),
        lambda request, trusted: (request.environ.get("REMOTE_USER") or "", len(trusted))[0],
        lambda *both: both[0].environ.get("REMOTE_USER"),
    ],
)
def test_functions_take_as_much_as_they_need(key: Any) -> None:
    """They can read the server's environment."""
    app = LimiterMiddleware(hello, "4/minute", store=MEMORY, key=key, cost=lambda: 2)
    codes = [ask(app, REMOTE_USER=user).code for user in ("ann", "ann", "bob", "ann", "")]
    assert codes == [200, 200, 200, 429, 400]


def test_what_can_never_pass_is_too_large() -> None:
    app = LimiterMiddleware(hello, "5/minute", store=MEMORY, cost=lambda request: request.size)
    answer = ask(app, CONTENT_LENGTH="6")
    assert answer.status == "413 Content Too Large"  # older Pythons have another phrase


def test_an_application_may_call_start_response_again() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ValueError("too late for a 200")
        except ValueError:
            start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    answer = ask(LimiterMiddleware(app, "5/minute", store=MEMORY))

    assert answer.status == "500 Oh"
    assert len(answer.all("RateLimit")) == 1
    assert answer.exc_info[0] is ValueError


def test_a_server_without_exc_info_and_its_write() -> None:
    written: list[bytes] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"written")
        return []

    def start_response(status: str, headers: Any) -> Any:
        return written.append

    LimiterMiddleware(app, "5/minute", store=MEMORY)(environ(), start_response)

    assert written == [b"written"]


# --- leases ---


@pytest.fixture
def limiter() -> Iterator[Limiter]:
    """Two at once."""
    with Limiter([Concurrency(2, lease=30)], store=MEMORY) as found:
        yield found


@pytest.fixture
def free(limiter: Limiter) -> Callable[[], int]:
    """Return how many leases are free."""
    return lambda: limiter.peek(CALLER).remaining


def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Stream three pieces."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield from (b"a", b"b", b"c")


def test_a_lease_is_held_until_the_response_is_closed(
    limiter: Limiter, free: Callable[[], int]
) -> None:
    app = LimiterMiddleware(stream, limiter)
    first, second = begin(app), begin(app)

    assert free() == 0
    assert first["RateLimit-Policy"] == '"default";q=2;qu="concurrent-requests"'
    denied = ask(app)
    assert denied.code == 429
    assert json.loads(body(denied))["detail"] == "Policy default allows 2 requests at once."
    assert body(first) == b"abc"
    assert free() == 0
    first.body.close()  # type: ignore[attr-defined]
    assert free() == 1
    first.body.close()  # type: ignore[attr-defined]
    assert free() == 1
    second.body.close()  # type: ignore[attr-defined]  # the client went away: nothing was read
    assert free() == 2


def test_a_response_is_closed_with_its_lease(limiter: Limiter, free: Callable[[], int]) -> None:
    class Response(list[bytes]):
        closed = 0

        def close(self) -> None:
            self.closed += 1
            raise OSError("of its own")

    response = Response([b"x"])

    def app(environ: Any, start_response: Any) -> Response:
        start_response("200 OK", [])
        return response

    answer = begin(LimiterMiddleware(app, limiter))
    with pytest.raises(OSError, match="of its own"):
        answer.body.close()  # type: ignore[attr-defined]

    assert response.closed == 1
    assert free() == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_application_that_fails_releases_its_lease(
    limiter: Limiter, free: Callable[[], int], error: type[BaseException]
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert free() == 1
        raise error

    with pytest.raises(error):
        ask(LimiterMiddleware(app, limiter))

    assert free() == 2


def test_a_stream_that_fails_releases_its_lease(limiter: Limiter, free: Callable[[], int]) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"
        assert free() == 1
        raise ValueError("in the midst")

    with pytest.raises(ValueError, match="in the midst"):
        ask(LimiterMiddleware(app, limiter))

    assert free() == 2


def test_without_a_lease_the_response_is_the_application_s_own() -> None:
    response = [b"as it was"]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return response

    def start_response(status: str, headers: Any) -> Any:
        return response.append

    assert LimiterMiddleware(app, "5/minute", store=MEMORY)(environ(), start_response) is response


def test_a_denied_request_holds_nothing(free: Callable[[], int], limiter: Limiter) -> None:
    rate = Limiter("1/minute", store=limiter, name="rate")
    app = LimiterMiddleware(hello, [Rule(limiter), Rule(rate)])

    assert [ask(app).code for _ in range(3)] == [200, 429, 429]
    assert free() == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreUnavailable("no answer in time")])
def test_an_interrupted_reply_leaves_no_lease(error: BaseException) -> None:
    """The store gave a lease whose id the request never got: it is released shortly after."""
    limiter = Limiter([Concurrency(1, lease=30)], store=MEMORY, timeout=0.05, on_error="deny")

    def interrupted(call: StoreCall, ahead: Any) -> Any:
        ahead()
        intercept(limiter, None)
        raise error

    intercept(limiter, interrupted)
    app = LimiterMiddleware(hello, limiter)
    if isinstance(error, StoreUnavailable):
        assert ask(app).code == 503
    else:
        with pytest.raises(KeyboardInterrupt):
            ask(app)

    assert limiter.peek(CALLER).remaining == 0
    until(lambda: limiter.peek(CALLER).remaining == 1)


def test_a_lease_is_renewed_for_as_long_as_the_response_lasts(
    store: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    limiter = Limiter([Concurrency(1, lease=3)], store=store, prefix=subject, timeout=5)
    app = LimiterMiddleware(stream, limiter)
    answer = begin(app)
    until_renewed(limiter, CALLER)

    assert limiter.peek(CALLER).remaining == 0
    answer.body.close()  # type: ignore[attr-defined]
    assert limiter.peek(CALLER).remaining == 1
    assert not caplog.text
    limiter.close()


def test_a_client_that_reads_slowly_does_not_hold_its_lease() -> None:
    """Another client gets the lease; the slow one still gets its response."""
    with Limiter(Concurrency(1, lease=2, max_hold=2), store=MEMORY) as limiter:
        app = LimiterMiddleware(stream, limiter)
        slow = begin(app)
        assert ask(app).code == 429
        until(lambda: limiter.peek(CALLER).remaining == 1)
        assert ask(app).code == 200
        assert body(slow) == b"abc"
        slow.body.close()  # type: ignore[attr-defined]
        assert limiter.peek(CALLER).remaining == 1


def test_it_needs_no_framework() -> None:
    """It imports none either."""
    program = """
import sys, limiter.wsgi, limiter.asgi
print({"django", "flask", "fastapi", "starlette", "werkzeug", "anyio"} & set(sys.modules))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert found.stdout == "set()\n"


ORDERS = (pattern("/orders"),)


@pytest.mark.parametrize("path", ["/orders", "/orders\xff", "/orders/\xff"])
def test_bottle_leaves_out_bytes_that_are_not_utf_8(path: str) -> None:
    bottle = pytest.importorskip("bottle")
    inner = bottle.Bottle()
    for rule in ("/orders", "/orders/"):
        inner.route(rule, callback=lambda: "orders")
    app = LimiterMiddleware(
        inner, [Rule(Limiter("1/minute", store=MEMORY), match=Match(paths=ORDERS))]
    )

    assert [begin(app, path=path).code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("path", ["/orders", "orders"])
def test_flask_sets_a_slash_before_a_path_that_has_none(path: str) -> None:
    """Flask's own server passes such a path."""
    inner = Flask(__name__)
    inner.add_url_rule("/orders", view_func=lambda: "orders", endpoint="orders")
    app = LimiterMiddleware(
        inner, [Rule(Limiter("1/minute", store=MEMORY), match=Match(paths=ORDERS))]
    )

    assert [begin(app, path=path).code for _ in range(2)] == [200, 429]

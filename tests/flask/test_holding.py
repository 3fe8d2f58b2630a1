"""Leases are released when the response is closed, and costs are refunded by the response."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    copy_current_request_context,
    request,
    session,
    stream_with_context,
)

from limiter import Concurrency, FixedWindow, InvalidSetting
from limiter.flask import FlaskLimiter
from service.demo.servers import HOST, free_port
from tests.flask.conftest import Make
from tests.flask.support import ask, statuses


def held(app: Flask, limits: FlaskLimiter, endpoint: str) -> int:
    """The number of leases that are held of a route's limit."""
    with app.app_context():
        (rule,) = limits.rules(endpoint)
    limit = rule.limiter.policies[0].limit
    return int(limit - rule.limiter.peek("203.0.113.1").each[0].remaining)


def test_a_lease_is_held_while_the_view_runs(make: Make) -> None:
    app, limits = make()

    @app.get("/a")
    @limits.limit([Concurrency(1), FixedWindow(3, "minute")])
    def a() -> str:
        return str(held(app, limits, "a"))

    answers = ask(app, "/a", "/a", "/a", "/a")

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].text == "1"
    assert held(app, limits, "a") == 0


@pytest.mark.parametrize("with_rate", [True, False])
@pytest.mark.parametrize("shadow", [True, False])
def test_a_function_may_return_leases(make: Make, shadow: bool, with_rate: bool) -> None:
    """Each request takes one, and releases it at the end of its response."""
    app, limits = make()

    def view() -> str:
        return "ok"

    limited = limits.limit(lambda: Concurrency(1), shadow=shadow)(view)
    app.get("/a")(limits.limit("100/minute")(limited) if with_rate else limited)

    assert statuses(app, "/a", "/a", "/a") == [200, 200, 200]


@pytest.mark.parametrize("with_context", [True, False])
def test_a_lease_is_held_until_a_stream_is_closed(make: Make, with_context: bool) -> None:
    app, limits = make()

    @app.get("/stream")
    @limits.limit(Concurrency(1))
    def stream() -> Response:
        def pieces() -> Iterator[str]:
            yield "one"
            yield "two"

        return Response(stream_with_context(pieces()) if with_context else pieces())

    client = app.test_client()
    first = client.get("/stream", environ_base={"REMOTE_ADDR": "203.0.113.1"}, buffered=False)
    pieces = iter(first.response)
    assert next(pieces) == b"one"
    assert statuses(app, "/stream") == [429]
    assert held(app, limits, "stream") == 1
    first.close()  # before its end

    assert held(app, limits, "stream") == 0
    assert statuses(app, "/stream") == [200]


@pytest.mark.parametrize("propagate", [True, False])
def test_a_lease_does_not_outlive_an_error(make: Make, propagate: bool) -> None:
    app, limits = make()
    app.config["PROPAGATE_EXCEPTIONS"] = propagate

    @app.get("/a")
    @limits.limit(Concurrency(1))
    def a() -> str:
        raise ZeroDivisionError

    for _ in range(3):
        if propagate:
            with pytest.raises(ZeroDivisionError):
                ask(app, "/a")
        else:
            assert statuses(app, "/a") == [500]
    assert held(app, limits, "a") == 0


def test_a_lease_is_not_lost_with_a_response_that_is_replaced(make: Make) -> None:
    """Another hook replaces the response: the lease belongs to the new one."""
    app, limits = make()
    app.after_request(lambda _: Response("another"))

    @app.get("/a")
    @limits.limit(Concurrency(1))
    def a() -> str:
        return "a"

    assert statuses(app, "/a", "/a", "/a") == [200, 200, 200]
    assert held(app, limits, "a") == 0


@pytest.fixture
def helped() -> tuple[Flask, FlaskLimiter, Callable[[], str]]:
    """An application, its limits, and a helper of which two calls may run at once; in memory."""
    app = Flask("app", static_folder=None)
    limits = FlaskLimiter(app, None, store="memory://")
    helper = limits.limit(Concurrency(2), key="global")(lambda: "help")
    app.add_url_rule("/left", "left", lambda: str(left(limits)))

    def left(limits: FlaskLimiter) -> int:
        """How many more calls may run, beside this request's own."""
        helper()
        return limits.decisions[-1].remaining

    return app, limits, helper


def test_a_lease_that_a_stream_takes_ends_with_it(
    helped: tuple[Flask, FlaskLimiter, Callable[[], str]],
) -> None:
    """The helper is called while the body is read, after the view has returned."""
    app, _, helper = helped

    @app.get("/stream")
    def stream() -> Response:
        def pieces() -> Iterator[str]:
            yield helper()
            yield "end"

        return Response(stream_with_context(pieces()))

    client = app.test_client()
    answer = client.get("/stream", buffered=False)
    assert next(iter(answer.response)) == b"help"
    assert ask(app, "/left")[0].text == "0"
    answer.close()

    assert [answer.text for answer in ask(app, "/left", "/left")] == ["1", "1"]


def test_a_lease_that_is_taken_after_the_end_is_released_at_once(
    helped: tuple[Flask, FlaskLimiter, Callable[[], str]],
) -> None:
    """By a thread that outlives its request."""
    app, _, helper = helped
    late: list[Callable[[], str]] = []

    @app.get("/a")
    def a() -> str:
        late.append(copy_current_request_context(helper))
        return "a"

    assert statuses(app, "/a") == [200]
    assert late[0]() == "help"
    assert ask(app, "/left")[0].text == "1"


def test_a_request_without_a_check_holds_no_lease() -> None:
    """A hook answers before the limits are checked: its stream may not hold a lease for ever."""
    app = Flask("app", static_folder=None)
    limits = FlaskLimiter(default=None, store="memory://")
    helper = limits.limit(Concurrency(1), key="global")(lambda: "help")
    app.before_request(lambda: Response(stream_with_context(helper() for _ in range(1))))
    limits.init_app(app)

    assert [answer.text for answer in ask(app, "/a", "/a")] == ["help", "help"]


def test_a_response_that_does_not_count_is_refunded(make: Make) -> None:
    """The header has the units after the refund."""
    app, limits = make()

    @app.get("/login")
    @limits.limit("2/minute", deduct_when=lambda response: response.status_code == 401)
    def login() -> tuple[str, int]:
        return "", int(request.args["status"])

    good, bad = "/login?status=200", "/login?status=401"
    answers = ask(app, good, good, good, bad, good, bad, good)

    assert [answer.status_code for answer in answers] == [200, 200, 200, 401, 200, 401, 429]
    left = [answer.headers["RateLimit"].split("r=")[1][0] for answer in answers]
    assert left == ["2", "2", "2", "1", "1", "0", "0"]


def test_an_error_counts_unless_deduct_when_refunds_it(make: Make) -> None:
    app, limits = make()
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/a")
    @limits.limit("1/minute", deduct_when=lambda response: response.status_code != 500)
    def a() -> str:
        raise ZeroDivisionError

    @app.get("/mistake")
    @limits.limit("1/minute", deduct_when=lambda _: [][0])
    def mistake() -> str:
        return "done"

    assert statuses(app, "/a", "/a", "/a") == [500, 500, 500]
    assert statuses(app, "/mistake", "/mistake") == [500, 429]


def test_a_request_is_refunded_once(make: Make) -> None:
    """Flask passes a second response if a later function of the application fails on the first."""
    app, limits = make()
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/login")
    @limits.limit("5/minute", deduct_when=lambda response: response.status_code == 401)
    def login() -> tuple[str, int]:
        if "boom" in request.args:
            session["x"] = object()  # no session can keep it
        return "", int(request.args["status"])

    app.secret_key = secrets.token_hex()
    bad, boom = "/login?status=401", "/login?status=200&boom=1"
    answers = ask(app, bad, bad, bad, bad, boom, boom, boom, bad, bad)

    assert [answer.status_code for answer in answers] == [401] * 4 + [500] * 3 + [401, 429]
    left = [answer.headers["RateLimit"].split("r=")[1][0] for answer in answers]
    assert left == ["4", "3", "2", "1", "1", "1", "1", "0", "0"]


def test_the_response_to_an_error_of_deduct_when_has_the_fields(make: Make) -> None:
    app, limits = make()
    app.config["PROPAGATE_EXCEPTIONS"] = False
    limited = limits.limit("2/minute", deduct_when=lambda _: [][0])
    app.add_url_rule("/a", "a", limited(lambda: "a"))

    (answer,) = ask(app, "/a")
    assert answer.status_code == 500
    assert "r=1" in answer.headers["RateLimit"]


def test_a_lease_is_released_if_a_middleware_copies_the_environment(make: Make) -> None:
    app = Flask("app")
    inner = app.wsgi_app
    app.wsgi_app = lambda environ, start: inner(dict(environ), start)  # type: ignore[method-assign]
    _, limits = make()
    limits.init_app(app)
    app.add_url_rule("/a", "a", limits.limit(Concurrency(1))(lambda: "a"))

    assert statuses(app, "/a", "/a", "/a") == [200] * 3
    assert held(app, limits, "a") == 0


def test_simultaneous_requests_cannot_exceed_the_limit(make: Make) -> None:
    """The cost is taken before the view runs: no more views run at once than the limit admits."""
    app, limits = make()

    @app.get("/login")
    @limits.limit("2/minute", deduct_when=lambda response: response.status_code == 401)
    def login() -> tuple[str, int]:
        return "+".join(
            answer.text for answer in ask(app, "/login") if answer.status_code != 429
        ), 401

    assert statuses(app, "/login", "/login") == [401, 429]


def test_leases_and_deduct_when_cannot_be_combined(make: Make) -> None:
    """The error is raised by the declaration, or by ``init_app`` if that comes later."""
    _, limits = make()
    with pytest.raises(InvalidSetting, match="deduct_when"):
        limits.limit(Concurrency(1), deduct_when=lambda _: True)
    early = FlaskLimiter(default=None, store="memory://")
    view = early.limit(Concurrency(1), deduct_when=lambda _: True)(lambda: "a")
    with pytest.raises(InvalidSetting, match="deduct_when"):
        early.init_app(Flask("app"))
    assert view.__name__ == "<lambda>"


@pytest.mark.parametrize("on_error", ["local", "allow"])
def test_a_refund_without_a_store(make: Make, on_error: str) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    app, limits = make(None, store=gone, on_error=on_error, timeout=0.1)
    limited = limits.limit("1/minute", deduct_when=lambda response: response.status_code != 200)
    app.add_url_rule("/a", "a", limited(lambda: "a"))

    assert statuses(app, "/a", "/a", "/a") == [200, 200, 200]


def test_a_request_that_a_view_creates_is_limited_itself(make: Make) -> None:
    """A view that serves several requests from copies of its own: none of them is exempt."""
    app, _ = make("2/minute", exempt_when=lambda: request.path == "/batch")

    @app.get("/batch")
    def batch() -> str:
        made_up = {**request.environ, "PATH_INFO": "/limited", "werkzeug.request": None}
        answers = [Response.from_app(app.wsgi_app, made_up, buffered=True) for _ in range(3)]
        return " ".join(str(answer.status_code) for answer in answers)

    app.add_url_rule("/limited", "limited", lambda: "limited")

    assert ask(app, "/batch")[0].text == "200 200 429"
    assert statuses(app, "/limited") == [429]


def test_a_second_run_of_a_request_holds_its_own_lease(make: Make) -> None:
    app, limits = make(Concurrency(1))
    seen: list[int] = []

    @app.get("/a")
    def a() -> str:
        seen.append(held(app, limits, "a"))
        return "a"

    inner: Any = app.wsgi_app

    def trying_again(environ: Any, start_response: Any) -> Any:
        body = inner(environ, lambda *_: None)
        list(body)
        body.close()
        return inner(environ, start_response)

    app.wsgi_app = trying_again  # type: ignore[method-assign]
    assert statuses(app, "/a") == [200]
    assert seen == [1, 1]
    assert held(app, limits, "a") == 0


def test_an_application_that_a_view_calls_releases_its_own_leases(make: Make) -> None:
    app, limits = make(Concurrency(1))
    inner = Flask("inner")
    FlaskLimiter(inner, "5/minute", store="memory://")
    inner.add_url_rule("/a", "a", lambda: "inner")

    @app.get("/a")
    def a() -> Response:
        answer = Response.from_app(inner.wsgi_app, request.environ, buffered=True)
        assert held(app, limits, "a") == 1
        return answer

    (answer,) = ask(app, "/a")
    assert (answer.status_code, answer.text) == (200, "inner")
    assert held(app, limits, "a") == 0

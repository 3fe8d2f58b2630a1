"""What is taken for a request and given back: leases when it is closed, costs by what the response is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from flask import Flask, Response, request, stream_with_context

from limiter import Concurrency, FixedWindow, InvalidSetting
from limiter.demo.servers import HOST, free_port
from limiter.flask import FlaskLimiter
from tests.flask.conftest import Make
from tests.flask.support import ask, statuses


def held(app: Flask, limits: FlaskLimiter, endpoint: str) -> int:
    """Leases that are held of a route's limit."""
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
    """What another hook puts in the response's place is the response."""
    app, limits = make()
    app.after_request(lambda _: Response("another"))

    @app.get("/a")
    @limits.limit(Concurrency(1))
    def a() -> str:
        return "a"

    assert statuses(app, "/a", "/a", "/a") == [200, 200, 200]
    assert held(app, limits, "a") == 0


def test_a_denial_holds_nothing(make: Make) -> None:
    app, limits = make(None, application="1/minute")

    @app.get("/a")
    @limits.limit(Concurrency(1))
    def a() -> str:
        return "a"

    assert statuses(app, "/a", "/a") == [200, 429]
    with app.app_context():
        rule = limits.rules("a")[1]
    assert rule.limiter.peek("203.0.113.1").remaining == 1


def test_a_helper_s_lease_is_held_to_the_end(make: Make) -> None:
    app, limits = make()

    @limits.limit(Concurrency(1))
    def helper() -> str:
        return "help"

    @app.get("/a")
    def a() -> str:
        return helper()

    assert statuses(app, "/a", "/a") == [200, 200]


def test_what_the_response_says_does_not_count_is_given_back(make: Make) -> None:
    """And the header says how things stand then."""
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


def test_an_error_counts_unless_the_response_says_otherwise(make: Make) -> None:
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


def test_requests_at_the_same_time_cannot_pass_together(make: Make) -> None:
    """The cost is taken before the view runs: as many views run at once as there is room."""
    app, limits = make()
    inside, most, lock = [0], [0], threading.Lock()

    @app.get("/login")
    @limits.limit("2/minute", deduct_when=lambda response: response.status_code == 401)
    def login() -> tuple[str, int]:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.1)
        with lock:
            inside[0] -= 1
        return "", 401

    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.extend(statuses(app, "/login"))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == [401, 401, *[429] * 8]
    assert most[0] <= 2


def test_leases_and_what_the_response_says_do_not_go_together(make: Make) -> None:
    app, limits = make()
    limited = limits.limit(Concurrency(1), deduct_when=lambda _: True)
    app.add_url_rule("/a", "a", limited(lambda: "a"))
    with pytest.raises(InvalidSetting, match="deduct_when"), app.app_context():
        limits.rules("a")


@pytest.mark.parametrize("on_error", ["local", "allow"])
def test_giving_back_without_a_store(make: Make, on_error: str) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    app, limits = make(None, store=gone, on_error=on_error, timeout=0.1)
    limited = limits.limit("1/minute", deduct_when=lambda response: response.status_code != 200)
    app.add_url_rule("/a", "a", limited(lambda: "a"))

    assert statuses(app, "/a", "/a", "/a") == [200, 200, 200]

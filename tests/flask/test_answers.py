"""Responses: refusals, header fields, error pages; and that no mistake lets a request pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Response, jsonify, request

from limiter import LeakyBucket
from limiter.flask import CallerUnknown, FlaskLimiter, LimitExceeded, NotDecided, TooCostly
from limiter.web.guard import Verdict
from service.demo.servers import HOST, free_port
from tests.flask.conftest import Make
from tests.flask.support import ask, statuses
from tests.ids import plain


def hello() -> str:
    return "hello"


def answering(*answer: Any) -> Callable[[object], Any]:
    """A handler that returns this response, for all arguments."""
    return lambda _: answer


def test_a_refusal_is_problem_json(make: Make) -> None:
    app, limits = make(algorithm="fixed_window")
    app.add_url_rule("/a", "login", limits.limit("1/minute")(hello))
    allowed, denied = ask(app, "/a", "/a")

    assert allowed.headers["RateLimit-Policy"] == '"login";q=1;w=60'
    assert allowed.headers["RateLimit"].startswith('"login";r=0;t=')
    assert "Retry-After" not in allowed.headers
    assert denied.status_code == 429
    assert denied.mimetype == "application/problem+json"
    assert denied.headers["Cache-Control"] == "no-store"
    assert denied.headers["Retry-After"] in ("59", "60")
    assert denied.headers["RateLimit"] == f'"login";r=0;t={denied.headers["Retry-After"]}'
    assert denied.get_json()["violated-policies"] == ["login"]


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("draft-11", ["RateLimit", "RateLimit-Policy"]),
        ("x-ratelimit", ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]),
        ("none", []),
    ],
)
def test_forms_of_the_header(make: Make, form: str, names: list[str]) -> None:
    app, _ = make("1/minute", headers=form)
    app.add_url_rule("/a", "a", hello)
    for answer in ask(app, "/a", "/a"):
        fields = sorted(name for name in answer.headers.keys() if "RateLimit" in name)  # noqa: SIM118
        assert fields == names
    assert "Retry-After" in answer.headers


@pytest.mark.parametrize("handled", [False, True])
def test_every_response_has_the_header_fields(make: Make, handled: bool) -> None:
    """Also error pages of every handler, and requests that no route matches."""
    app, _ = make("100/minute")

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    @app.get("/refused")
    def refused() -> tuple[str, int]:
        return "no", 403

    if handled:
        app.register_error_handler(ZeroDivisionError, answering("ours", 500))
        app.register_error_handler(404, answering("not here", 404))
    for answer in ask(app, "/broken", "/refused", "/nowhere"):
        assert "RateLimit" in answer.headers


def test_a_response_that_is_reused_does_not_collect_fields(make: Make) -> None:
    app, _ = make("100/minute")
    kept = Response("always the same")
    app.add_url_rule("/a", "a", lambda: kept)
    for _ in range(3):
        (answer,) = ask(app, "/a")

    assert len(answer.headers.getlist("RateLimit")) == 1


def test_an_error_handler_of_the_application(make: Make) -> None:
    """For the exception or the status; it gets the verdict, and the fields are added."""
    app, _ = make("1/minute")
    app.add_url_rule("/a", "a", hello)

    @app.errorhandler(LimitExceeded)
    def too_many(error: LimitExceeded) -> tuple[Response, int]:
        assert error.decision is not None
        return jsonify(limit=error.decision.limit, again=error.verdict.results[0].rule.name), 429

    answer = ask(app, "/a", "/a")[1]
    assert (answer.status_code, answer.get_json()) == (429, {"limit": 1, "again": "default"})
    assert "Retry-After" in answer.headers

    app, _ = make("1/minute")
    app.add_url_rule("/a", "a", hello)
    app.register_error_handler(429, answering("slower", 420))
    assert ask(app, "/a", "/a")[1].status_code == 420


def test_on_denied_of_a_limit(make: Make) -> None:
    """The limit's function first, then the extension's; None passes on to the next."""
    seen: list[Verdict] = []

    def note(verdict: Verdict) -> None:
        seen.append(verdict)

    app, limits = make("1/minute", on_denied=lambda _: {"slower": True})
    app.add_url_rule("/a", "a", hello)
    app.add_url_rule(
        "/own", "own", limits.limit("1/minute", on_denied=answering("own", 418))(hello)
    )
    app.add_url_rule("/note", "note", limits.limit("1/minute", on_denied=note)(hello))

    denied = ask(app, "/a", "/a")[1]
    assert (denied.status_code, denied.get_json()) == (429, {"slower": True})
    own = ask(app, "/own", "/own")[1]
    assert (own.status_code, own.text) == (418, "own")
    assert "Retry-After" in own.headers
    assert ask(app, "/note", "/note")[1].get_json() == {"slower": True}
    assert [verdict.status for verdict in seen] == [429]


@pytest.mark.parametrize(
    ("returned", "status"),
    [
        ("slower", 429),
        ({"slower": True}, 429),
        (["slower"], 429),
        (("slower", {"X-Why": "speed"}), 429),
        (("slower", 420), 420),
        (("slower", "420 Calm"), 420),
        (("slower", 420, {"X-Why": "speed"}), 420),
        (Response("slower", 420), 420),
        (Response("slower"), 200),
    ],
    ids=plain,
)
def test_a_denial_is_a_429_unless_the_answer_has_a_status(returned: Any, status: int) -> None:
    app = Flask("app")
    FlaskLimiter(app, "1/minute", store="memory://", on_denied=lambda _: returned)
    app.add_url_rule("/a", "a", hello)
    answer = ask(app, "/a", "/a")[1]

    assert answer.status_code == status
    assert "slower" in answer.text
    assert ("X-Why" in answer.headers) == ("X-Why" in str(returned))


def test_the_view_can_read_the_decisions(make: Make) -> None:
    app, limits = make(None, application="9/minute")

    @app.get("/a")
    @limits.limit([LeakyBucket(5, per="minute", name="queue")])
    def a() -> Response:
        assert limits.current is not None
        return jsonify(
            names=[result.rule.name for result in limits.current.results],
            left=[decision.remaining for decision in limits.decisions],
            delay=limits.current.delay,
        )

    app.add_url_rule("/free", "free", limits.exempt(lambda: str(limits.current)))
    answers = ask(app, "/a", "/a")

    assert answers[0].get_json() == {"names": ["application", "a"], "left": [8, 4], "delay": 0.0}
    assert answers[1].get_json()["delay"] == pytest.approx(12, abs=1)
    assert ask(app, "/free")[0].text == "None"
    assert (limits.current, limits.decisions) == (None, ())


def test_observe_is_called_with_each_verdict(make: Make) -> None:
    seen: list[tuple[str, int]] = []
    app, _ = make(
        "1/minute", observe=lambda request, verdict: seen.append((request.path, verdict.status))
    )
    app.add_url_rule("/a", "a", hello)
    statuses(app, "/a", "/a")

    assert seen == [("/a", 200), ("/a", 429)]


def test_a_cost_above_its_limit_is_413(make: Make) -> None:
    app, limits = make()
    app.add_url_rule("/a", "a", limits.limit("5/minute", cost=lambda: 6)(hello))
    app.register_error_handler(TooCostly, lambda error: error.get_response())
    (answer,) = ask(app, "/a")

    assert answer.status_code == 413
    assert answer.mimetype == "application/problem+json"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize(
    ("cost", "amount"),
    [(1, "1 request"), (2, "2 units"), (lambda: 2, "2 units")],
)
def test_a_denial_names_what_is_counted(make: Make, cost: Any, amount: str) -> None:
    app, limits = make()
    limited = limits.limit(f"{amount[0]}/minute", cost=cost)
    app.add_url_rule("/a", "a", limited(hello))
    _, denied = ask(app, "/a", "/a")

    assert denied.get_json()["detail"] == f"Policy a allows {amount} per 60 s."


@pytest.mark.parametrize(
    ("unidentified", "status"), [("refuse", 400), ("skip", 200), ("address", 200)]
)
def test_a_caller_without_a_subject(make: Make, unidentified: str, status: int) -> None:
    app, limits = make()
    limited = limits.limit("1/minute", key=lambda: None, unidentified=unidentified)
    app.add_url_rule("/a", "a", limited(hello))
    second = {"refuse": 400, "skip": 200, "address": 429}[unidentified]
    app.register_error_handler(CallerUnknown, answering("who?", 400))
    answers = ask(app, "/a", "/a")

    assert [answer.status_code for answer in answers] == [status, second]
    assert (answers[0].text == "who?") == (unidentified == "refuse")


def raising() -> Any:
    raise LookupError("a mistake of the caller's")


@pytest.mark.parametrize(
    "more",
    [
        {"key": raising},
        {"key": lambda: 1.5},
        {"key": lambda: True},
        {"key": lambda: ("a", None)},
        {"cost": raising},
        {"cost": lambda: -1},
        {"cost": lambda: "1"},
        {"cost": lambda: None},
        {"exempt_when": raising},
        {"limits": raising},
        {"limits": lambda: "many"},
        {"limits": lambda: ""},
        {"limits": lambda: 7},
        {"limits": lambda: ["5/minute"]},
    ],
    ids=plain,
)
def test_an_error_in_a_function_lets_no_request_pass(
    make: Make, caplog: pytest.LogCaptureFixture, more: dict[str, Any]
) -> None:
    """The response is a 500, and the error is logged with its trace; the store's state does not change."""
    app, limits = make()
    app.add_url_rule("/a", "a", limits.limit(**{"limits": "5/minute", **more})(hello))
    with caplog.at_level(logging.ERROR):
        assert statuses(app, "/a", "/a") == [500, 500]
    logged = [record for record in caplog.records if record.name == app.logger.name]
    assert [record.exc_info is None for record in logged] == [False, False]


@pytest.mark.parametrize("where", ["exempt_when", "on_denied"])
def test_an_error_in_a_function_of_the_extension_lets_no_request_pass(
    make: Make, where: str
) -> None:
    app, _ = make("1/minute", **{where: lambda *_: raising()})
    app.add_url_rule("/a", "a", hello)

    assert statuses(app, "/a", "/a")[1] == 500


@pytest.mark.parametrize(("on_error", "status"), [("raise", 503), ("deny", 503), ("allow", 200)])
def test_a_store_that_is_gone(make: Make, on_error: str, status: int) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    app, limits = make("1/minute", store=gone, on_error=on_error, timeout=0.1)
    app.add_url_rule("/a", "a", hello)
    app.add_url_rule("/two", "two", limits.limit("1/hour", override_defaults=False)(hello))
    app.register_error_handler(NotDecided, answering("later", 503))
    for answer in ask(app, "/a", "/a", "/two"):
        assert answer.status_code == status
        assert (answer.text == "later") == (status == 503)
        assert "RateLimit" not in answer.headers
        assert "Retry-After" not in answer.headers


def test_a_store_that_is_gone_and_a_local_share(make: Make) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    app, _ = make("4/minute", store=gone, on_error="local", local_share=2, timeout=0.1)
    app.add_url_rule("/a", "a", hello)
    answers = ask(app, "/a", "/a", "/a")

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=2;w=60'


def test_the_decision_of_a_refusal() -> None:
    """None, if no limit denied."""
    assert NotDecided(Verdict(503)).decision is None


def test_async_views(make: Make) -> None:
    pytest.importorskip("asgiref", reason="Flask needs asgiref for async views")
    app, limits = make()

    @app.get("/a")
    @limits.limit("1/minute")
    async def a() -> str:
        return request.path

    assert [answer.text for answer in ask(app, "/a")] == ["/a"]
    assert statuses(app, "/a") == [429]


def test_a_factory_does_not_call_the_store() -> None:
    """So that it can run before workers are forked."""
    FlaskLimiter(Flask("app"), store=f"redis://{HOST}:{free_port()}/0")

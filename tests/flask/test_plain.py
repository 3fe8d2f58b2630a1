"""The short way of a plain limit, and of a refusal without a handler: the outcome is the long way's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from flask import Blueprint, Flask, Response, request
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.exceptions import HTTPException, TooManyRequests

from limiter import Concurrency
from limiter.errors import StoreRefused, StoreUnavailable
from limiter.flask import FlaskLimiter, LimitExceeded, app_limits
from limiter.flask.plain import Admission, PlainLimit
from limiter.flask.request_state import RequestState
from limiter.flask.resolver import RouteKey
from limiter.testing import Clock, reset
from limiter.web.identity import TrustedNetworks
from tests.flask.conftest import Make
from tests.flask.support import ask, statuses

_PEERS = ["203.0.113.1", "2001:db8::1", "10.0.0.1", "::ffff:10.0.0.2", "", "unix:", "x" * 80]
_REPORTS = [
    None,
    "",
    " , ",
    "198.51.100.7",
    "198.51.100.7, 10.1.2.3",
    "198.51.100.7:80,  [2001:db8:1::9]:443 ",
    "no address",
    "198.51.100.7, garbage",
    "64:ff9b::c633:6407",
    ", ".join(["198.51.100.8"] * 60),
]


class Asked(NamedTuple):
    """One request, and whether the store answers it."""

    method: str
    path: str
    peer: str
    report: str | None
    preflight: bool
    store: str


class Shape(NamedTuple):
    """The settings of an application."""

    limits: str
    form: str
    unidentified: str
    on_error: str
    handler: str
    trusted: str


_ASKED = st.builds(
    Asked,
    st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]),
    st.sampled_from(["/a", "/blue/b", "/none", '/a"é', "/" + "é" * 600]),
    st.sampled_from(_PEERS),
    st.sampled_from(_REPORTS),
    st.booleans(),
    st.sampled_from(["answers"] * 6 + ["away", "refuses"]),
)
_SHAPE = st.builds(
    Shape,
    st.sampled_from(["2/minute", "1/hour; 2/day", "5/second"]),
    st.sampled_from(["draft-11", "draft-06", "x-ratelimit", "none"]),
    st.sampled_from(["refuse", "skip", "address"]),
    st.sampled_from(["raise", "allow", "deny", "local"]),
    st.sampled_from(["", "", "429", "LimitExceeded", "HTTPException", "Exception", "blueprint"]),
    st.sampled_from(["", "10.0.0.0/8", "0.0.0.0/0, ::/0"]),
)


def _app(shape: Shape, seen: list[Any]) -> tuple[Flask, FlaskLimiter]:
    """An application that reports the verdict of each of its responses."""
    app = Flask("app", static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    limits = FlaskLimiter(
        app,
        shape.limits,
        store="memory://",
        algorithm="fixed_window",
        headers=shape.form,
        on_error=shape.on_error,
        trusted=[network.strip() for network in shape.trusted.split(",") if network],
    )
    limit = limits.limit("2/minute", unidentified=shape.unidentified)
    app.add_url_rule("/a", "a", limit(lambda: "a"), methods=["GET", "POST", "OPTIONS"])
    blue = Blueprint("blue", __name__, url_prefix="/blue")
    blue.add_url_rule("/b", "b", lambda: "b", methods=["GET", "POST"])

    def answer(error: Any) -> tuple[str, int]:
        return f"own page for {type(error).__name__}", getattr(error, "code", None) or 500

    handled: dict[str, Any] = {
        "429": 429,
        "LimitExceeded": LimitExceeded,
        "HTTPException": HTTPException,
        "Exception": Exception,
    }
    if shape.handler == "blueprint":
        blue.register_error_handler(TooManyRequests, answer)
    elif shape.handler:
        app.register_error_handler(handled[shape.handler], answer)
    app.register_blueprint(blue)

    @app.after_request
    def note(response: Response) -> Response:
        verdict = limits.current
        seen.append(
            verdict is not None
            and (
                verdict.status,
                verdict.fields,
                verdict.body,
                type(verdict.error),
                verdict.delay,
                [
                    (each.rule.name, each.decision, each.part.key, each.part.cost)
                    for each in verdict.results
                ],
            )
        )
        return response

    return app, limits


@contextmanager
def _the_long_way() -> Iterator[None]:
    with (
        patch.object(PlainLimit, "of", lambda *_: None),
        patch.object(app_limits, "is_final", lambda *_: False),
    ):
        yield


def _outcome(app: Flask, limits: FlaskLimiter, asked: Asked) -> Any:
    headers = {"Origin": "http://a", "Access-Control-Request-Method": "GET"}
    headers = headers if asked.preflight else {}
    if asked.report is not None:
        headers["X-Forwarded-For"] = asked.report
    (enforced,) = limits._enforced()
    calls: list[object] = []
    run = enforced.base._core.transport.run

    def counted(*call: Any) -> Any:
        calls.append(call)
        if asked.store == "answers":
            return run(*call)
        raise StoreUnavailable("away") if asked.store == "away" else StoreRefused("not now")

    with patch.object(enforced.base._core.transport, "run", counted):
        (answer,) = ask(app, f"{asked.method} {asked.path}", address=asked.peer, headers=headers)
    return answer.status, sorted(answer.headers), answer.data, len(calls)


@given(_SHAPE, st.lists(_ASKED, min_size=1, max_size=12), st.lists(st.integers(0, 40), min_size=12))
@example(
    Shape("2/minute", "draft-11", "refuse", "raise", "", ""),
    [Asked(method, "/a", "203.0.113.1", None, False, "answers") for method in ["GET", "HEAD"] * 3],
    [0] * 12,
)
@pytest.mark.slow(9)
def test_both_ways_have_the_same_outcome(
    shape: Shape, requests: list[Asked], pauses: list[int]
) -> None:
    with Clock() as clock:
        reset()
        short_seen: list[Any] = []
        long_seen: list[Any] = []
        short, long = _app(shape, short_seen), _app(shape, long_seen)
        for asked, pause in zip(requests, pauses, strict=False):
            outcome = _outcome(*short, asked)
            with _the_long_way():
                assert _outcome(*long, asked) == outcome
            assert long_seen == short_seen
            clock.advance(pause)


def _plain(make: Make, default: Any = "5/minute", method: str = "GET", **settings: Any) -> bool:
    app, limits = make(default, **settings)
    app.add_url_rule("/a", "a", lambda: "a")
    with app.app_context():
        (enforced,) = limits._enforced()
        return enforced._resolver.of_route(RouteKey("a", method)).before.plain is not None


def test_which_limits_are_plain(make: Make) -> None:
    assert _plain(make)
    assert _plain(make, "5/minute; 9/hour", headers="x-ratelimit")
    assert not _plain(make, method="OPTIONS")
    assert not _plain(make, application="9/minute")
    assert not _plain(make, observe=lambda *_: None)
    assert not _plain(make, key="header:X-User")
    assert not _plain(make, lambda: "5/minute")


@pytest.mark.parametrize(
    "options",
    [
        {"shadow": True},
        {"percent": 99.0},
        {"cost": lambda: 2},
        {"exempt_when": lambda: False},
        {"deduct_when": lambda _: True},
        {"key": "global"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_limit_with_more_is_not_plain(make: Make, options: dict[str, Any]) -> None:
    app, limits = make()
    app.add_url_rule("/a", "a", limits.limit("5/minute", **options)(lambda: "a"))
    with app.app_context():
        (enforced,) = limits._enforced()
        assert enforced._resolver.of_route(RouteKey("a", "GET")).before.plain is None


def test_a_verdict_is_made_when_it_is_used(make: Make) -> None:
    app, limits = make("5/minute")
    kinds: list[type] = []

    @app.get("/a")
    def view() -> str:
        state = RequestState.known(request)
        assert state is not None
        kinds.append(type(state.entries[0]))
        verdict = limits.current
        assert verdict is not None
        assert verdict is limits.current
        verdict.fields.append(("X-Own", "1"))
        return str(verdict.results[0].decision.remaining)

    (answer,) = ask(app, "/a")
    assert kinds == [Admission]
    assert (answer.text, answer.headers["X-Own"]) == ("4", "1")


def test_callers_are_kept_for_each_set_of_trusted_networks(make: Make) -> None:
    near, _ = make("1/minute", trusted=["203.0.113.0/24"])
    far, _ = make("1/minute", trusted=["192.0.2.0/24"])
    for app in (near, far):
        app.add_url_rule("/a", "a", lambda: "a")
    for last in range(3):
        client = f"198.51.100.{last}"
        assert statuses(near, "/a", "/a", x_forwarded_for=client) == [200, 429]
        assert statuses(far, "/a", x_forwarded_for=client) == [429 if last else 200]


def test_what_is_kept_of_callers_is_bounded() -> None:
    trusted = TrustedNetworks()
    assert trusted.caller.cache_info().maxsize == 2048


def test_an_application_that_handles_errors_in_its_own_way_gets_the_exception(make: Make) -> None:
    app, _ = make("1/minute")
    app.add_url_rule("/a", "a", lambda: "a")
    seen: list[Any] = []
    usual = app.handle_user_exception

    def handle(error: Exception) -> Any:  # as Flask-RESTful replaces it
        seen.append(error)
        return usual(error)

    app.handle_user_exception = handle  # type: ignore[method-assign]
    assert statuses(app, "/a", "/a") == [200, 429]
    assert [type(error) for error in seen] == [LimitExceeded]


def test_trapped_refusals_are_raised(make: Make) -> None:
    app, _ = make("1/minute")
    app.add_url_rule("/a", "a", lambda: "a")
    app.config.update(TRAP_HTTP_EXCEPTIONS=True, PROPAGATE_EXCEPTIONS=True)
    with pytest.raises(LimitExceeded):
        ask(app, "/a", "/a")


def test_responses_are_wrapped_only_for_leases(make: Make) -> None:
    app, limits = make("5/minute")
    app.add_url_rule("/a", "a", lambda: "a")
    (enforced,) = limits._enforced()
    assert not enforced._resolver.may_lease
    limits.limit([Concurrency(2)])(lambda: "b")
    assert enforced._resolver.may_lease

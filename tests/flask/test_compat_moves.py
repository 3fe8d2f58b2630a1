"""An application that moves from Flask-Limiter: init_app, configuration, logs, reset and on_breach."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from flask import Flask, Response, current_app, request

from limiter import InvalidPolicy, InvalidSetting, Limiter
from limiter.compat import flask_limiter
from limiter.flask import FlaskLimiter
from tests.flask.support import ask, statuses
from tests.flask.test_compat import OURS, THEIRS, Library, both, limiter, route, same, saying

LIBRARIES = pytest.mark.parametrize("library", [OURS, THEIRS], ids=["ours", "theirs"])


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """The lines of a logger, with their levels."""
    records = [record for record in caplog.records if record.name == name]
    return [f"{record.levelname} {record.getMessage()}" for record in records]


# --- init_app ---


@LIBRARIES
def test_init_app_of_current_app(library: Library) -> None:
    """Flask-AppBuilder calls it so; for slotgate the proxy and the application are one."""
    app = Flask("app")
    limits = library.Limiter(
        library.get_remote_address, default_limits=["1/minute"], storage_uri="memory://"
    )
    with app.app_context():
        limits.init_app(current_app)
    route(app, "/a")

    assert statuses(app, "/a", "/a") == [200, 429]
    assert app.extensions["limiter"] == {limits}
    if library is OURS:
        with pytest.raises(InvalidSetting, match="already enforces"):
            limits.init_app(app)


def test_a_limiter_without_init_app(caplog: pytest.LogCaptureFixture) -> None:
    """No limit is enforced; slotgate logs a warning."""

    def write(library: Library, app: Flask) -> None:
        limits = app.config["keep"] = library.Limiter(library.get_remote_address)
        route(app, "/a", limits.limit("1/minute")(saying("a")))
        assert not limits.initialized
        assert "limiter" not in app.extensions

    assert same(write, "/a", "/a") == [200, 200]
    assert logged(caplog, "flask-limiter") == [
        "WARNING a is limited, but init_app was never called: no limit is enforced"
    ]


def test_a_limiter_of_another_application() -> None:
    """A limiter of another application is likely a mistake: the request does not pass."""
    limits = limiter(OURS, Flask("other"))
    assert limits.initialized
    app = Flask("app")
    route(app, "/a", limits.limit("1/minute")(saying("a")))

    assert statuses(app, "/a") == [500]


@LIBRARIES
def test_the_entry_in_app_extensions(library: Library) -> None:
    app = Flask("app")
    first, second = limiter(library, app), limiter(library, app)
    off = library.Limiter(library.get_remote_address, enabled=False)
    app.config.pop("RATELIMIT_ENABLED")
    off.init_app(app)

    assert app.extensions["limiter"] == {first, second}


# --- configuration ---


@LIBRARIES
def test_keys_that_are_the_application_s_own(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("app")
    app.config.update(
        RATELIMIT_GIF="slow.gif",
        RATELIMIT_STORAGE_URL="redis://127.0.0.1:1",
        RATELIMIT_KEY_FUNC=lambda: "all",
    )
    limiter(library, app, default_limits=["1/minute"])
    route(app, "/a")

    assert statuses(app, "/a", "/a") == [200, 429]
    warnings = [
        "WARNING RATELIMIT_GIF is not read by Limiter: Flask-Limiter 4.1 has no such setting either",
        "WARNING RATELIMIT_STORAGE_URL is not read by Limiter: use RATELIMIT_STORAGE_URI",
        "WARNING RATELIMIT_KEY_FUNC is not read by Limiter: give Limiter its key_func",
    ]
    assert logged(caplog, "flask-limiter") == (warnings if library is OURS else [])


# --- what is logged ---


@pytest.mark.parametrize(
    ("declare", "key", "scope"),
    [
        (lambda limits: limits.limit("1/minute"), "203.0.113.1", "a"),
        (lambda limits: limits.limit("1/minute", per_method=True), "203.0.113.1", "a:GET"),
        (lambda limits: limits.limit("1/minute", key_func=lambda: "ann"), "ann", "a"),
        (lambda limits: limits.shared_limit("1/minute", scope="s"), "203.0.113.1", "s"),
        (
            lambda limits: limits.shared_limit("1/minute", lambda name: f"of {name}"),
            "203.0.113.1",
            "of a",
        ),
        (None, "203.0.113.1", "global"),
    ],
    ids=["route", "method", "key", "shared", "scope", "application"],
)
def test_breaches_are_logged(
    declare: Any, key: str, scope: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In Flask-Limiter's words, so that programs that read them go on working."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, application_limits=[] if declare else ["1/minute"])
        route(app, "/a", declare(limits)(saying("a")) if declare else saying("a"))

    with caplog.at_level(logging.INFO):
        assert same(write, "/a", "/a") == [200, 429]

    line = f"INFO ratelimit 1 per 1 minute ({key}) exceeded at endpoint: {scope}"
    assert logged(caplog, "flask-limiter") == [line, line]


def test_no_key_forges_a_line(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("app")
    limits = limiter(OURS, app)
    by_user = limits.limit("1/minute", key_func=lambda: request.args["user"])
    route(app, "/a", by_user(saying("a")))

    with caplog.at_level(logging.INFO):
        statuses(app, *["/a?user=ann%0aINFO%20ok"] * 2)

    (line,) = logged(caplog, "flask-limiter")
    assert r"(ann\nINFO ok)" in line


def test_denials_are_logged_by_the_own_logger(caplog: pytest.LogCaptureFixture) -> None:
    """An address as it is, a chosen key only as its hash; at most one line of a route in 10 s."""
    app = Flask("app")
    limits = FlaskLimiter(app, None, store="memory://")
    route(app, "/a", limits.limit("1/minute")(saying("a")))
    route(app, "/b", limits.limit("1/minute", key="header:X-User")(saying("b")))

    with caplog.at_level(logging.INFO):
        statuses(app, *["/a"] * 4)
        client = app.test_client()
        for _ in range(2):
            client.get("/b", headers={"X-User": "ann"})

    first, second = logged(caplog, "limiter.flask")
    denied = "INFO the limit SlidingLog(1, per=60) of {} denied a request of {} to endpoint {}: "
    assert first.startswith(denied.format("a", "203.0.113.1", "a") + "retry after ")
    assert "of b denied a request of header:" in second
    assert "ann" not in second


# --- reset_at ---


def test_a_reset_counts_from_the_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the view runs for long."""
    real = time.time
    seen: list[int] = []
    app = Flask("app")
    limits = limiter(OURS, app, default_limits=["5/hour"])

    def slow() -> str:
        seen.append(limits.current_limit.reset_at)
        monkeypatch.setattr(time, "time", lambda: real() + 300)
        seen.append(limits.current_limit.reset_at)
        return "slow"

    route(app, "/slow", slow)
    (answer,) = ask(app, "/slow")

    assert seen == [int(answer.headers["X-RateLimit-Reset"])] * 2
    assert abs(seen[0] - real() - 3600) < 10


def test_a_reset_is_read_by_the_clock_of_the_application(
    monkeypatch: pytest.MonkeyPatch, store: str, subject: str
) -> None:
    """If the clock of the store differs."""
    app = Flask("app")
    more = {"storage_uri": store, "key_prefix": subject, "storage_options": {"socket_timeout": 5}}
    limits = limiter(OURS, app, default_limits=["5/hour"], **more)
    route(app, "/a")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100_000)

    (answer,) = ask(app, "/a")
    assert abs(int(answer.headers["X-RateLimit-Reset"]) - real() - 103_600) < 30
    limits.close()


# --- on_breach ---


@pytest.mark.parametrize("answers_itself", [False, True])
def test_one_function_is_called_once(answers_itself: bool) -> None:
    seen: dict[Library, list[str]] = {OURS: [], THEIRS: []}

    def write(library: Library, app: Flask) -> None:
        def note(limit: Any) -> Any:
            seen[library].append(str(limit.limit))
            return Response("slow", 418) if answers_itself else None

        limits = limiter(library, app, on_breach=note)
        route(app, "/a", limits.limit("1/minute", on_breach=note)(saying("a")))

    assert same(write, "/a", "/a") == [200, 418 if answers_itself else 429]
    assert seen[OURS] == seen[THEIRS] == ["1 per 1 minute"]


# --- limits ---


def test_a_limit_for_no_limit(caplog: pytest.LogCaptureFixture) -> None:
    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, default_limits=[f"{10**18}/minute;7/hour"])
        route(app, "/a", lambda: str(limits.current_limits[0].limit))
        route(app, "/b", limits.limit(lambda: f"{10**15} per day")(saying("b")))
        route(app, "/c", limits.limit(f"{10**12}/day")(saying("c")))

    assert same(write, "/a", "/b", "/c", fields=()) == [200, 200, 200]
    lines = logged(caplog, "flask-limiter")
    assert lines[0] == (
        f"WARNING limit is '{10**18}/minute': it counts as 1,000,000,000,000, the maximum"
    )
    with pytest.raises(InvalidPolicy, match="up to 100,000"):
        limiter(OURS, Flask("app"), default_limits=["10000000000000/day"], strategy="moving-window")


# --- reset ---


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window"])
def test_reset(strategy: str) -> None:
    for library in (OURS, THEIRS):
        app = Flask("app")
        limits = limiter(library, app, default_limits=["1/hour"], strategy=strategy)
        route(app, "/a")
        assert statuses(app, "/a", "/a") == [200, 429]
        limits.reset()
        assert statuses(app, "/a", "/a") == [200, 429]


def test_reset_of_a_shared_store(store: str) -> None:
    app = Flask("app")  # in use until the end: the limits of a collected application are gone
    limits = limiter(OURS, app, storage_uri=store)
    with pytest.raises(InvalidSetting, match="cannot be cleared: expected store='memory://'"):
        limits.reset()
    with pytest.raises(InvalidSetting, match="cannot be cleared"):
        Limiter("1/second", store=store).clear()


def test_a_clock_of_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """As hiro replaces the real one."""
    for name in ("time_ns", "monotonic_ns"):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real: float(real()))
    app = Flask("app")
    limiter(OURS, app, default_limits=["1/minute", "2/hour"])
    route(app, "/a")

    assert statuses(app, "/a", "/a") == [200, 429]


@both("200 /a, 429 /a")
def test_a_cost_of_none_is_1(library: Library, app: Flask) -> None:
    """As the views of Flask-AppBuilder pass it."""
    limits = limiter(library, app)
    route(app, "/a", limits.limit("1/minute", cost=None)(saying("a")))


def test_a_key_function_with_arguments_is_an_error_at_once() -> None:
    with pytest.raises(InvalidSetting, match=r"key_func is .* without arguments"):
        flask_limiter.Limiter(lambda request: str(request), storage_uri="memory://")

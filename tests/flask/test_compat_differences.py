"""Where the two libraries differ on purpose: each row of the guide's table is tested for both."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from limiter import InvalidPolicy, InvalidSetting
from limiter.flask import FlaskLimiter
from service.demo.servers import Server
from tests.flask.support import statuses
from tests.flask.test_compat import (
    OURS,
    THEIRS,
    Library,
    answers,
    both,
    limiter,
    quiet,
    route,
    saying,
)
from tests.transport.support import scripts_run

__all__ = ["quiet"]


def both_statuses(write: Any, *calls: str) -> list[list[int]]:
    """The statuses of both libraries, slotgate's first."""
    return [[answer.status_code for answer in each] for each in answers(write, *calls)]


@both("200 /a, 2 x 429|200 /a", fields=())
def test_the_default_beside_a_helper_s_limit(library: Library, app: Flask) -> None:
    """Difference: from the second request on, theirs takes the helper's limit for the view's."""
    limits = limiter(library, app, default_limits=["1/minute"])
    helper = limits.limit("3/minute")(saying("help"))
    route(app, "/a", lambda: helper())


def test_fields_that_a_view_writes_itself() -> None:
    """Difference: theirs adds its fields beside those of the view; slotgate replaces them."""

    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["2/minute"])
        route(app, "/a", lambda: Response("a", headers={"X-RateLimit-Limit": "7"}))

    mine, others = (responses[0].headers for responses in answers(write, "/a"))

    assert mine.getlist("X-RateLimit-Limit") == ["2"]
    assert others.getlist("X-RateLimit-Limit") == ["7", "2"]


def test_the_application_s_limits_are_charged_before_a_view_s() -> None:
    """The limits of a view, its blueprint and the default are checked when the view is called."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, application_limits=["3/minute"])
        route(app, "/own", limits.limit("1/minute")(saying("own")))
        route(app, "/a")

    calls = ["/own", "/own", "/a", "/a"]
    assert both_statuses(write, *calls) == [[200, 429, 200, 429]] * 2

    app = Flask("app")
    limits = FlaskLimiter(app, None, application="3/minute", store="memory://")
    route(app, "/own", limits.limit("1/minute")(saying("own")))
    route(app, "/a")
    assert statuses(app, *calls) == [200, 429, 200, 200]


def test_a_cost_above_the_limit() -> None:
    """Denied by both; slotgate adds the reason, and calls no ``on_breach``."""
    seen: dict[Library, list[str]] = {OURS: [], THEIRS: []}

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, on_breach=lambda one: seen[library].append(str(one.limit)))
        costly = limits.limit("2/minute", cost=3, error_message="slower")
        route(app, "/a", costly(saying("a")))

    (mine,), (other,) = answers(write, "/a")

    assert (mine.status_code, other.status_code) == (429, 429)
    assert ("slower" in mine.text, "slower" in other.text) == (False, True)
    assert "cost" in mine.text
    assert "X-RateLimit-Limit" not in mine.headers
    assert seen == {OURS: [], THEIRS: ["2 per 1 minute"]}


def test_a_store_that_refuses(store: str) -> None:
    """A wrong password is not a failure that lets requests pass."""
    wrong = store.replace("redis://", "redis://nobody:wrong@")

    def write(library: Library, app: Flask) -> None:
        for path, more in {
            "/swallow": {"swallow_errors": True},
            "/fallback": {"in_memory_fallback": ["9/minute"]},
        }.items():
            name = path.strip("/")
            limits = library.Limiter(library.get_remote_address, app=app, storage_uri=wrong, **more)
            app.extensions[name] = limits
            route(app, path, limits.limit("1/minute")(saying(name)))

    assert both_statuses(write, "/swallow", "/fallback") == [[503, 503], [200, 200]]


@both("200 /a, 500|429 /a", fields=())
def test_an_error_in_on_breach(library: Library, app: Flask) -> None:
    more = {"swallow_errors": True, "on_breach": lambda _: [][0]}
    limiter(library, app, default_limits=["1/minute"], **more)
    route(app, "/a")


@pytest.mark.parametrize("limit", ["0/minute", "4/minute;6/minute"])
def test_limits_that_are_refused(limit: str) -> None:
    """With the first, theirs denies every request; slotgate could not tell the second from another."""
    app = Flask("app")
    limiter(THEIRS, app, default_limits=[limit])
    route(app, "/a")
    assert statuses(app, "/a") == [429 if limit.startswith("0") else 200]

    with pytest.raises(InvalidPolicy):
        limiter(OURS, Flask("app"), default_limits=[limit])


def test_a_log_of_more_than_it_holds() -> None:
    """Theirs keeps a million entries for each client; slotgate names strategies that need none."""
    strategy = {"strategy": "moving-window"}
    app = Flask("app")
    limiter(THEIRS, app, default_limits=["1000000/day"], **strategy)
    route(app, "/a")
    assert statuses(app, "/a") == [200]

    said = (
        "limit is '1000000/day': with strategy='moving-window' expected up to 100,000; for more, give "
        "strategy='fixed-window' or strategy='sliding-window-counter'"
    )
    with pytest.raises(InvalidPolicy) as raised:
        limiter(OURS, Flask("app"), default_limits=["5/minute;1000000/day"], **strategy)
    assert str(raised.value) == said
    limits = limiter(OURS, Flask("app"), **strategy)
    with pytest.raises(InvalidPolicy) as raised:
        limits.limit("1000000/day")(saying("a"))
    assert str(raised.value) == said
    for other in ("fixed-window", "sliding-window-counter"):
        limiter(OURS, Flask("app"), default_limits=["1000000/day"], strategy=other)


@both("2 x 200 /a?cost=2, 429 /a?cost=2, 200|429 /a?cost=1, 429 /a?cost=1", fields=())
def test_what_a_denial_costs(library: Library, app: Flask) -> None:
    """Theirs counts denied requests (fixed window); slotgate does not, so that a smaller cost passes."""
    limits = limiter(library, app)
    costly = limits.limit("5/minute", cost=lambda: int(request.args["cost"]))
    route(app, "/a", costly(saying("a")))


@both("3 x 200 /a, 429|200 /a", fields=())
def test_a_limit_above_the_route(library: Library, app: Flask) -> None:
    """The route gets the function without it: theirs has no limit then; slotgate applies the default."""
    limits = limiter(library, app, default_limits=["3/minute"])

    @limits.limit("1/minute")
    @app.get("/a")
    def view() -> str:
        return "a"


@both("500|200 /a", fields=())
def test_one_scope_twice_on_a_view(library: Library, app: Flask) -> None:
    limits = limiter(library, app)
    inner = limits.shared_limit("9/hour", scope="s")(saying("a"))
    route(app, "/a", limits.shared_limit("5/minute", scope="s")(inner))


def test_the_text_of_a_limit() -> None:
    """The largest unit; a year of 365 days; in the order of declaration."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, default_limits=["5/hour", "9 per 60 seconds", "7/year"])

        def told() -> str:
            each = limits.current_limits
            return ", ".join(f"{one.limit} in {one.limit.get_expiry()}" for one in each)

        route(app, "/a", told)

    (mine,), (other,) = answers(write, "/a")

    assert mine.text == "5 per 1 hour in 3600, 9 per 1 minute in 60, 7 per 1 year in 31536000"
    assert other.text == "9 per 60 second in 60, 5 per 1 hour in 3600, 7 per 1 year in 31104000"


def test_the_second_in_which_a_sliding_limit_is_reset() -> None:
    """Theirs: when its oldest call leaves it. slotgate: when the whole limit is free again."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(
            library, app, default_limits=["5/minute"], strategy="sliding-window-counter"
        )
        route(app, "/a", lambda: str(limits.current_limit.reset_at))

    (mine,), (other,) = answers(write, "/a")

    assert int(mine.text) >= int(other.text) + 50


def test_init_app_twice() -> None:
    app = Flask("app")
    limiter(THEIRS, app).init_app(app)
    with pytest.raises(InvalidSetting, match="already enforces"):
        limiter(OURS, app).init_app(app)


def shifted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which both libraries' clocks, which stand still otherwise, are ahead."""
    shift = [0.0]
    second, nanosecond = time.time(), time.monotonic_ns()
    monkeypatch.setattr(time, "time", lambda: second + shift[0])
    monkeypatch.setattr(time, "monotonic_ns", lambda: nanosecond + int(shift[0] * 1e9))
    return shift


def test_when_remaining_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a view outlasts the window, theirs reads the next one."""
    shift = shifted(monkeypatch)

    def slow() -> str:
        shift[0] += 61
        return "slow"

    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["5/minute"])
        route(app, "/a", slow)

    (mine,), (other,) = (
        [answer.headers["X-RateLimit-Remaining"] for answer in each]
        for each in answers(write, "/a")
    )
    assert (mine, other) == ("4", "5")


@pytest.mark.parametrize(("limit", "mine"), [("1/minute", 120), ("10/minute", 66)])
def test_how_long_a_sliding_window_denies(
    limit: str, mine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs until the clock's next minute; slotgate as long as earlier calls count."""
    shift = shifted(monkeypatch)
    waits = []
    for library in (OURS, THEIRS):
        app = Flask("app")
        limiter(library, app, default_limits=[limit], strategy="sliding-window-counter")
        route(app, "/a")
        while statuses(app, "/a") == [200]:
            pass
        start = shift[0]
        while statuses(app, "/a") == [429]:
            shift[0] += 1
        waits.append(shift[0] - start)

    assert mine - 2 <= waits[0] <= mine
    assert waits[1] <= 60


@both("308 /a, 200 /a/, 429|308 /a, 429|200 /a/", fields=())
def test_the_redirect_of_a_missing_slash(library: Library, app: Flask) -> None:
    limiter(library, app, application_limits=["2/minute"])
    app.add_url_rule("/a/", "a", saying("a"))


def test_a_server_on_a_unix_socket() -> None:
    """It has no client address, except from a proxy that ProxyFix trusts."""

    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["1/minute"])
        route(app, "/a")

    mine, others = (
        [answer.status_code for answer in each] for each in answers(write, "/a", "/a", address="")
    )
    assert (mine, others) == ([400, 400], [200, 429])

    app = Flask("app")
    write(OURS, app)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    client, peer = app.test_client(), {"REMOTE_ADDR": ""}
    for address, status in {"203.0.113.1": 200, "203.0.113.2": 200}.items():
        given = {"X-Forwarded-For": address}
        assert client.get("/a", environ_base=peer, headers=given).status_code == status


def test_what_get_remote_address_returns() -> None:
    def write(library: Library, app: Flask) -> None:
        route(app, "/a", library.get_remote_address)

    for address, mine in {
        "2001:db8::1": "2001:db8::/64",
        "::ffff:203.0.113.1": "203.0.113.1",
    }.items():
        assert [a.text for (a,) in answers(write, "/a", address=address)] == [mine, address]


def test_which_of_several_denials_is_reported() -> None:
    seen: dict[Library, list[str]] = {OURS: [], THEIRS: []}

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, on_breach=lambda one: seen[library].append(str(one.limit)))
        route(app, "/a", limits.limit("1/minute;1/hour")(saying("a")))

    (_, mine), (_, other) = answers(write, "/a", "/a")

    assert seen == {OURS: ["1 per 1 hour"], THEIRS: ["1 per 1 minute"]}
    assert int(mine.headers["Retry-After"]) > 3_000 > int(other.headers["Retry-After"])
    assert ("1 per 1 hour" in mine.text, "1 per 1 minute" in other.text) == (True, True)


@pytest.mark.parametrize("limit", ["1 per 60 sec", "1 per 60 s", "1/min", "1/h", "1/week"])
def test_limit_strings_that_flask_limiter_does_not_read(limit: str) -> None:
    """Theirs logs an error for each request, and applies no limit."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, strategy="moving-window")
        route(app, "/a", limits.limit(limit)(saying("a")))

    assert both_statuses(write, "/a", "/a") == [[200, 429], [200, 200]]


def test_no_denial_is_repeated_without_a_call(server: Server, subject: str) -> None:
    """As in Flask-Limiter, a reset in another process counts at once."""
    app = Flask("app")
    limiter(OURS, app, default_limits=["2/minute"], storage_uri=server.url, key_prefix=subject)
    route(app, "/a")
    assert statuses(app, "/a") == [200]  # the script is loaded
    with server.client() as client:
        before = scripts_run(client)
        assert statuses(app, "/a", "/a", "/a") == [200, 429, 429]
        assert scripts_run(client) - before == 3

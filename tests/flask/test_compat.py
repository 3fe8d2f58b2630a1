"""One application, both libraries: code for Flask-Limiter behaves the same, except where a test says so.

Every application is created twice from the same text, with Flask-Limiter and with slotgate. Both get the
same requests, and their statuses and fields are compared. Differences are in the docstring of a test.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from flask import Flask, Response, jsonify, request
from flask.views import MethodView, View
from werkzeug.test import TestResponse

from limiter import InvalidPolicy, InvalidSetting
from limiter.compat import flask_limiter as ours
from service.demo.servers import HOST, free_port
from tests.flask.support import ask
from tests.ids import plain

theirs: Any = pytest.importorskip("flask_limiter", reason="flask-limiter is not installed")

GET_3 = ["/a"] * 3
FIELDS = ("X-RateLimit-Limit", "X-RateLimit-Remaining")


class Library(NamedTuple):
    """The names that an application imports from one of the libraries."""

    Limiter: Any
    get_remote_address: Any
    ExemptionScope: Any

    @classmethod
    def of(cls, name: str) -> Library:
        """The library with this name."""
        package, util = importlib.import_module(name), importlib.import_module(f"{name}.util")
        return cls(package.Limiter, util.get_remote_address, package.ExemptionScope)


OURS, THEIRS = Library.of("limiter.compat.flask_limiter"), Library.of("flask_limiter")

Write = Callable[[Library, Flask], None]


def answers(
    write: Write, *calls: str, address: str = "203.0.113.1"
) -> tuple[list[TestResponse], list[TestResponse]]:
    """The responses of both libraries, slotgate's first."""
    responses = []
    for library in (OURS, THEIRS):
        app = Flask("app", static_folder=None)
        write(library, app)
        responses.append(ask(app, *calls, address=address))
    return responses[0], responses[1]


def same(write: Write, *calls: str, fields: tuple[str, ...] = FIELDS) -> list[int]:
    """The statuses, which are equal in both, with these fields."""
    mine, others = answers(write, *calls)
    results = [
        [(a.status_code, *map(a.headers.get, fields)) for a in each] for each in (mine, others)
    ]
    assert results[0] == results[1]
    return [answer.status_code for answer in mine]


def both(calls: str, fields: tuple[str, ...] = FIELDS) -> Callable[[Any], Callable[[], None]]:
    """Make a test of a function that writes an application: both libraries give these statuses.

    Calls are written as ``200 /a, 3 x 429 POST /a``; ``200|404 /a`` is slotgate's, then theirs. Several
    decorators make one test, each with applications of its own.
    """
    paths: list[str] = []
    expected: list[list[str]] = []
    for call in calls.split(", "):
        times, _, single = call.rpartition(" x ")
        status, _, path = single.partition(" ")
        paths += [path] * int(times or 1)
        expected += [[status.split("|")[0], status.split("|")[-1]]] * int(times or 1)

    def decorate(test: Any) -> Callable[[], None]:
        write = getattr(test, "write", test)

        def tested() -> None:
            if test is not write:
                test()
            pairs = list(zip(*answers(write, *paths), strict=True))
            assert [[str(answer.status_code) for answer in pair] for pair in pairs] == expected
            for mine, other in pairs:
                assert [*map(mine.headers.get, fields)] == [*map(other.headers.get, fields)]

        # Not by ``wraps``: pytest would take the parameters for fixtures.
        tested.__name__, tested.__doc__, tested.write = write.__name__, write.__doc__, write  # type: ignore[attr-defined]
        return tested

    return decorate


def limiter(library: Library, app: Flask, **settings: Any) -> Any:
    """The limiter, as the applications create it."""
    settings = {"storage_uri": "memory://", "headers_enabled": True, **settings}
    made = library.Limiter(library.get_remote_address, app=app, **settings)
    app.extensions["limits"] = made  # Flask-Limiter's decorators hold it weakly
    return made


def route(app: Flask, path: str, view: Callable[..., Any] | None = None, **options: Any) -> None:
    name = path.strip("/")
    app.add_url_rule(path, name, view or saying(name), **options)


def saying(name: str) -> Callable[[], str]:
    """A view with its own name, since Flask-Limiter takes views of one name for one view."""

    def view() -> str:
        return name

    view.__name__ = view.__qualname__ = name
    return view


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Ignore the log lines of both libraries about denials."""
    with caplog.at_level(logging.CRITICAL):
        yield


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window"])
def test_default_limits(strategy: str) -> None:
    """A count for each route, of all methods; OPTIONS counts too."""

    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["3/minute"], strategy=strategy)
        route(app, "/a")
        route(app, "/b")

    calls = [*["/a"] * 4, "HEAD /b", "OPTIONS /b", "/b", "/b", "/none", "POST /a"]
    assert same(write, *calls) == [200, 200, 200, 429, 200, 200, 200, 429, 404, 405]


@both("3 x 200 /a, 429 /a", fields=())
def test_sliding_window_counter(library: Library, app: Flask) -> None:
    """The statuses are equal; remaining is an estimate in both, and slotgate's is lower."""
    limiter(library, app, default_limits=["3/hour"], strategy="sliding-window-counter")
    route(app, "/a")


def test_retry_after_and_reset() -> None:
    """Reset is the same second; slotgate writes Retry-After only to a denied client."""

    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["1/minute"])
        route(app, "/a")

    mine, others = answers(write, "/a", "/a")

    for one, other in zip(mine, others, strict=True):
        assert (
            abs(int(one.headers["X-RateLimit-Reset"]) - int(other.headers["X-RateLimit-Reset"]))
            <= 2
        )
    assert ["Retry-After" in answer.headers for answer in mine] == [False, True]
    assert ["Retry-After" in answer.headers for answer in others] == [True, True]
    assert abs(int(mine[1].headers["Retry-After"]) - int(others[1].headers["Retry-After"])) <= 2


def test_the_refusal_s_page_is_the_same() -> None:
    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, default_limits=["1/minute"])
        route(app, "/a")
        route(
            app, "/b", limits.limit("1 per 30 seconds", error_message="slower, please")(saying("b"))
        )
        route(app, "/c", limits.limit("1/hour", error_message=lambda: "said")(saying("c")))

    mine, others = answers(write, "/a", "/a", "/b", "/b", "/c", "/c")

    assert [answer.data for answer in mine] == [answer.data for answer in others]
    assert [answer.mimetype for answer in mine] == [answer.mimetype for answer in others]


@both("2 x 200 /one, 429 /one")
@both("2 x 200 /two, 429 /two", fields=())
@both("200 /key?user=1, 200 /key?user=2, 429 /key?user=1, 200 /key?user=3", fields=())
def test_several_limits(library: Library, app: Flask) -> None:
    """In one string, in several decorators, by several keys."""
    limits = limiter(library, app)
    route(app, "/one", limits.limit("2/minute;100/hour")(saying("one")))
    route(app, "/two", limits.limit("2/minute")(limits.limit("5/hour")(saying("two"))))
    by_user = limits.limit("1/minute", key_func=lambda: request.args["user"])
    route(app, "/key", limits.limit("3/minute")(by_user(saying("key"))))


def test_a_denied_request_takes_nothing() -> None:
    """Difference: theirs charges the limits before the one that denied; slotgate charges none."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app)
        by_user = limits.limit("1/minute", key_func=lambda: request.args["user"])
        route(app, "/a", limits.limit("3/hour")(by_user(saying("a"))))

    calls = [f"/a?user={user}" for user in (1, 1, 1, 2, 3)]
    mine, _ = answers(write, *calls)

    assert [answer.status_code for answer in mine] == [200, 429, 429, 200, 200]


@both("200 /a, 200 /b, 200 /a, 429 /b, 429 /a", fields=())
def test_application_limits(library: Library, app: Flask) -> None:
    """One count for all routes; a callable; as a string of several."""
    limiter(
        library,
        app,
        application_limits=["3/minute", lambda: "100/hour"],
        default_limits=["2/minute"],
    )
    route(app, "/a")
    route(app, "/b")


@both("404 /x, 429|404 /x", fields=())
def test_requests_without_a_route(library: Library, app: Flask) -> None:
    """Difference: theirs never limits them; slotgate checks the limits of the application."""
    limiter(library, app, application_limits=["1/minute"], default_limits=["1/minute"])


@both("2 x 200 /a, 429 /a, 200 POST /a, 200 /a?free, 3 x 403 /no", fields=())
def test_defaults_with_options(library: Library, app: Flask) -> None:
    limiter(
        library,
        app,
        default_limits=["4/minute"],
        default_limits_per_method=True,
        default_limits_exempt_when=lambda: "free" in request.args,
        default_limits_cost=lambda: 2,
        default_limits_deduct_when=lambda response: response.status_code == 200,
    )
    route(app, "/a", methods=["GET", "POST"])
    route(app, "/no", lambda: ("no", 403))


@both("200 /a, 403 /no, 200 /a?free, 200 /a, 429 /a, 200 POST /a")
def test_application_limits_with_options(library: Library, app: Flask) -> None:
    limiter(
        library,
        app,
        application_limits=["4/minute"],
        application_limits_per_method=True,
        application_limits_exempt_when=lambda: "free" in request.args,
        application_limits_cost=2,
        application_limits_deduct_when=lambda response: response.status_code == 200,
    )
    route(app, "/a", methods=["GET", "POST"])
    route(app, "/no", lambda: ("no", 403))


@both("3 x 200 /a, 429 /a")
@both("200 /a?limit=1/hour, 429 /a?limit=1/hour")
def test_limits_that_a_function_returns(library: Library, app: Flask) -> None:
    """An empty text is no limit, and the default applies."""
    limits = limiter(library, app, default_limits=["3/minute"])
    says = limits.limit(lambda: request.args.get("limit", ""))
    route(app, "/a", says(saying("a")))


@both("2 x 200 /a, 429 /a, 200 POST /a, 429 POST /a, 200 /b, 429 /b, 200 POST /b, 429 POST /b")
def test_methods_and_counts_by_method(library: Library, app: Flask) -> None:
    limits = limiter(library, app, default_limits=["2/minute"])
    posts = limits.limit("1/minute", methods=["POST"])
    route(app, "/a", posts(saying("a")), methods=["GET", "POST"])
    each = limits.limit("1/minute", per_method=True)
    route(app, "/b", each(saying("b")), methods=["GET", "POST"])


@both("2 x 200 /a?free, 200 /a, 429 /a, 2 x 200 /b, 429 /b")
def test_exempt_when_and_override_defaults(library: Library, app: Flask) -> None:
    limits = limiter(library, app, default_limits=["2/minute"])
    exempt = limits.limit("1/minute", exempt_when=lambda: "free" in request.args)
    route(app, "/a", exempt(saying("a")))
    route(app, "/b", limits.limit("5/minute", override_defaults=False)(saying("b")))


@both("2 x 200 /two")
@both("2 x 200 /two, 429 /two", fields=())
@both("200 /says?cost=5, 200 /says?cost=0, 429 /says?cost=1")
@both("429 /says?cost=6", fields=())
def test_costs(library: Library, app: Flask) -> None:
    limits = limiter(library, app)
    route(app, "/two", limits.limit("5/minute", cost=2)(saying("two")))
    says = limits.limit("5/minute", cost=lambda: int(request.args["cost"]))
    route(app, "/says", says(saying("says")))


@both("200 /a, 200|429 /a", fields=())
def test_a_cost_of_0(library: Library, app: Flask) -> None:
    """Difference: theirs turns ``cost=0`` into 1; slotgate takes nothing."""
    limits = limiter(library, app)
    route(app, "/a", limits.limit("1/minute", cost=0)(saying("a")))


@both(
    "3 x 200 /a?status=200, 401 /a?status=401, 200 /a?status=200, 401 /a?status=401, 429 /a?status=401"
)
def test_deduct_when(library: Library, app: Flask) -> None:
    """Remaining too, though slotgate takes the cost before the view runs and refunds it."""
    limits = limiter(library, app)
    failed = limits.limit("2/minute", deduct_when=lambda response: response.status_code == 401)
    route(app, "/a", failed(lambda: ("", int(request.args["status"]))))


def test_breaches() -> None:
    """Both functions are called, the common one first; the limit's own response has priority."""
    seen: dict[Library, list[Any]] = {OURS: [], THEIRS: []}

    def write(library: Library, app: Flask) -> None:
        def note(limit: Any) -> Response:
            seen[library].append((str(limit.limit), limit.breached, limit.shared, limit.remaining))
            return Response("common", 420)

        def own(limit: Any) -> Response:
            seen[library].append("own")
            return Response(str(limit.limit), 418)

        limits = limiter(library, app, on_breach=note)
        route(app, "/own", limits.limit("1/minute", on_breach=own)(saying("own")))
        route(app, "/shared", limits.shared_limit("1/hour", scope="s")(saying("shared")))

    assert same(write, "/own", "/own", "/shared", "/shared") == [200, 418, 200, 420]
    assert seen[OURS] == seen[THEIRS]
    first, last = ("1 per 1 minute", True, False, 0), ("1 per 1 hour", True, True, 0)
    assert seen[OURS] == [first, "own", last]


@both("2 x 200 /a?free, 200 /a, 429 /a")
def test_request_filters(library: Library, app: Flask) -> None:
    limits = limiter(library, app, default_limits=["1/minute"])

    @limits.request_filter
    def health() -> bool:
        return request.headers.get("X-Health") == "1" or "free" in request.args

    route(app, "/a")


@both("200 /a, 200 /b, 200 /a, 429 /b")
@both("200 /x1, 200 /x2, 429 /x1")
def test_shared_limits(library: Library, app: Flask) -> None:
    limits = limiter(library, app)
    database = limits.shared_limit("3/minute", scope="database")
    route(app, "/a", database(saying("a")))
    route(app, "/b", database(saying("b")))
    by_letter = limits.shared_limit("2/minute", scope=lambda endpoint: endpoint[0])
    route(app, "/x1", by_letter(saying("x1")))
    route(app, "/x2", by_letter(saying("x2")))


@both("200 /plain, 429 /plain, 200 /methods, 429 /methods, 200 POST /methods")
@both("200 /helped, 429 /helped", fields=())
def test_classes_of_views_and_helpers(library: Library, app: Flask) -> None:
    limits = limiter(library, app, default_limits=["3/minute"])

    class Plain(View):
        decorators = [limits.limit("1/minute")]  # noqa: RUF012

        def dispatch_request(self) -> str:
            return "plain"

    class Methods(MethodView):
        decorators = [limits.limit("1/minute", per_method=True)]  # noqa: RUF012

        def get(self) -> str:
            return "get"

        def post(self) -> str:
            return "post"

    @limits.limit("1/minute")
    def helper() -> str:
        return "helper"

    app.add_url_rule("/plain", view_func=Plain.as_view("plain"))
    app.add_url_rule("/methods", view_func=Methods.as_view("methods"))
    route(app, "/helped", lambda: helper())


def test_current_limits_in_a_view() -> None:
    """Equal, except for the spelling of the key and the second in which the window ends."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, default_limits=["5/minute", "50/hour"])

        def told() -> Response:
            one = limits.current_limit
            return jsonify(
                limit=str(one.limit),
                amount=one.limit.amount,
                expiry=one.limit.get_expiry(),
                remaining=one.remaining,
                window=one.window[1],
                left=one.window.remaining,
                breached=one.breached,
                shared=one.shared,
                all=[str(limit.limit) for limit in limits.current_limits],
            )

        route(app, "/a", told)
        route(app, "/free", limits.exempt(lambda: str(limits.current_limit)))

    mine, others = answers(write, "/a", "/a", "/free")

    assert [answer.data for answer in mine] == [answer.data for answer in others]


def test_error_handlers() -> None:
    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["1/minute"])
        route(app, "/a")

        @app.errorhandler(429)
        def handle(error: Any) -> tuple[Response, int]:
            return jsonify(description=error.description, limit=str(error.limit.limit)), 429

    mine, others = answers(write, "/a", "/a")

    assert mine[1].get_json() == others[1].get_json()
    assert mine[1].status_code == others[1].status_code == 429


CONFIGURATION = {
    "RATELIMIT_DEFAULT": "2/minute;100/hour",
    "RATELIMIT_APPLICATION": "5/minute",
    "RATELIMIT_STORAGE_URI": "memory://",
    "RATELIMIT_STORAGE_OPTIONS": {},
    "RATELIMIT_STRATEGY": "moving-window",
    "RATELIMIT_HEADERS_ENABLED": True,
    "RATELIMIT_KEY_PREFIX": "shop",
    "RATELIMIT_SWALLOW_ERRORS": False,
    "RATELIMIT_HEADER_LIMIT": "X-My-Limit",
    "RATELIMIT_HEADER_REMAINING": "X-My-Remaining",
    "RATELIMIT_HEADER_RESET": "X-My-Reset",
    "RATELIMIT_HEADER_RETRY_AFTER": "X-My-Retry",
    "RATELIMIT_HEADER_RETRY_AFTER_VALUE": "delta-seconds",
    "RATELIMIT_FAIL_ON_FIRST_BREACH": True,
    "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": False,
    "RATELIMIT_DEFAULTS_PER_METHOD": False,
    "RATELIMIT_DEFAULTS_COST": 1,
    "RATELIMIT_APPLICATION_PER_METHOD": False,
    "RATELIMIT_APPLICATION_COST": 1,
}


def test_configuration() -> None:
    def write(library: Library, app: Flask) -> None:
        app.config.update(CONFIGURATION)
        library.Limiter(library.get_remote_address).init_app(app)
        route(app, "/a")
        route(app, "/b")

    fields = ("X-My-Limit", "X-My-Remaining")
    assert same(write, "/a", "/a", "/a", fields=fields) == [200, 200, 429]
    assert same(write, "/a", "/b", "/a", "/b", fields=()) == [200, 200, 200, 200]


@pytest.mark.parametrize("how", ["argument", "configuration"])
def test_disabled(how: str) -> None:
    def write(library: Library, app: Flask) -> None:
        if how == "configuration":
            app.config["RATELIMIT_ENABLED"] = False
        more = {"enabled": False} if how == "argument" else {}
        limits = limiter(library, app, default_limits=["1/minute"], **more)
        route(app, "/a", limits.limit("1/minute")(saying("a")))

    assert same(write, *GET_3) == [200, 200, 200]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"swallow_errors": True}, [200, 200, 200]),
        ({"in_memory_fallback_enabled": True}, [200, 200, 429]),
        ({"in_memory_fallback": ["1/minute"]}, [200, 429, 429]),
    ],
    ids=plain,
)
def test_a_storage_that_is_gone(more: dict[str, Any], found: list[int]) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"

    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["2/minute"], storage_uri=gone, **more)
        route(app, "/a")

    assert same(write, *GET_3) == found


def test_a_storage_that_is_gone_without_a_fallback() -> None:
    """Difference: theirs fails (500); slotgate answers that it cannot check (503)."""
    gone = f"redis://{HOST}:{free_port()}/0"

    def write(library: Library, app: Flask) -> None:
        limiter(library, app, default_limits=["2/minute"], storage_uri=gone)
        route(app, "/a")

    mine, others = answers(write, "/a")

    assert (mine[0].status_code, others[0].status_code) == (503, 500)


def test_redis(store: str, subject: str) -> None:
    """On a real server, with the same settings."""
    made = []

    def write(library: Library, app: Flask) -> None:
        more = {"storage_options": {"socket_connect_timeout": 5}, "key_prefix": subject}
        made.append(limiter(library, app, default_limits=["2/minute"], storage_uri=store, **more))
        route(app, "/a")

    assert same(write, *GET_3) == [200, 200, 429]
    made[0].close()
    made[1].storage.storage.close()


MISTAKES: list[tuple[dict[str, Any], int, int]] = [
    ({"key_func": lambda: [][0]}, 500, 200),
    ({"key_func": lambda: ""}, 400, 200),
    ({"key_func": lambda: None}, 400, 200),
    ({"limit_value": lambda: "many"}, 500, 200),
]


@pytest.mark.parametrize(("more", "mine", "other"), MISTAKES)
def test_swallow_errors_does_not_swallow_mistakes(
    more: dict[str, Any], mine: int, other: int
) -> None:
    """Difference: theirs then admits every request; slotgate swallows only failures of the store."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, swallow_errors=True)
        settings = {"limit_value": "1/minute", **more}
        route(app, "/a", limits.limit(settings.pop("limit_value"), **settings)(saying("a")))

    found = answers(write, "/a", "/a")

    assert [[answer.status_code for answer in each] for each in found] == [[mine] * 2, [other] * 2]


def test_a_wrong_limit_raises_at_once() -> None:
    """Difference: theirs logs it for each request, and applies the default."""
    app = Flask("app")  # held, since the extension does not: it may be collected at any time
    limits = limiter(OURS, app)

    with pytest.raises(InvalidPolicy):
        limits.limit("many")
    with pytest.raises(InvalidPolicy):
        limits.limit("4/minute;6/minute")
    with pytest.raises(InvalidPolicy):
        limiter(OURS, Flask("app"), default_limits=["many"])
    with pytest.raises(InvalidSetting, match="limit string"):
        limiter(OURS, Flask("app"), default_limits=[7])


def test_check() -> None:
    """4.1 does not have it: it decides once, for any number of calls."""
    app = Flask("app")
    limits = limiter(OURS, app, default_limits=["1/minute"])
    route(app, "/a", lambda: str(limits.check()))
    with app.test_request_context("/a", environ_base={"REMOTE_ADDR": "203.0.113.9"}):
        limits.check()
        limits.check()
        assert limits.current_limit.remaining == 0
    with app.test_request_context("/a", environ_base={"REMOTE_ADDR": "203.0.113.9"}):
        for _ in range(2):
            with pytest.raises(ours.RateLimitExceeded):
                limits.check()
    limits = limiter(OURS, app := Flask("app"), enabled=False)
    with app.test_request_context("/a"):
        limits.check()

    assert [answer.status_code for answer in ask(app, "/none")] == [404]


@both("200 /static, 429|200 /static, 2 x 200 /b, 200|429 /b", fields=())
def test_views_with_equal_names(library: Library, app: Flask) -> None:
    """Differences: slotgate limits a view called static, and counts two views of one name apart."""
    limits = limiter(library, app, default_limits=["1/minute"])
    app.add_url_rule("/static", "static", saying("static"))
    route(app, "/a", limits.limit("2/minute")(saying("alike")))
    route(app, "/b", limits.limit("3/minute")(saying("alike")))


@both("2 x 200 /a, 429 /a, 200 POST /a, 429|200 POST /a", fields=())
def test_other_methods_of_a_class_of_views(library: Library, app: Flask) -> None:
    """Difference: with a limit on one method, theirs leaves the others without any; slotgate does not."""
    limits = limiter(library, app, default_limits=["1/minute"])

    class Methods(MethodView):
        @limits.limit("2/minute")
        def get(self) -> str:
            return "get"

        def post(self) -> str:
            return "post"

    app.add_url_rule("/a", view_func=Methods.as_view("a"))


REFUSED: list[dict[str, Any]] = [
    {"meta_limits": ["1/hour"]},
    {"on_meta_breach": print},
    {"fail_on_first_breach": False},
    {"request_identifier": lambda: "x"},
    {"retry_after": "http-date"},
    {"strategy": "magic"},
    {"storage_uri": "memcached://localhost"},
    {"storage_uri": "mongodb://localhost"},
    {"storage_options": {"connection_pool": None}},
]


@pytest.mark.parametrize("more", REFUSED, ids=plain)
def test_settings_that_are_not_offered_are_named(more: dict[str, Any]) -> None:
    (name,) = more
    with pytest.raises(InvalidSetting, match=name):
        limiter(OURS, Flask("app"), **more)


def test_names_that_are_not_offered() -> None:
    for name in ("Limit", "ApplicationLimit", "RouteLimit", "MetaLimit"):
        with pytest.raises(ImportError, match=name):
            getattr(ours, name)
    with pytest.raises(AttributeError):
        ours.Nothing  # noqa: B018
    with pytest.raises(ImportError, match="Cloudflare"):
        importlib.import_module("limiter.compat.flask_limiter.contrib.util")
    limits = limiter(OURS, Flask("app"))
    names = ["storage", "limiter", "context", "identify_request", "limit_manager", "app"]
    for name in names:
        with pytest.raises(AttributeError, match="not offered here"):
            getattr(limits, name)
    with pytest.raises(AttributeError, match="no attribute"):
        limits.nothing  # noqa: B018


def test_arguments_that_are_not_offered() -> None:
    limits = limiter(OURS, Flask("app"))
    with pytest.raises(TypeError, match="auto_check"):
        limiter(OURS, Flask("app"), auto_check=False)
    with pytest.raises(InvalidSetting, match="scope"):
        limits.limit("1/minute", scope="x")
    with pytest.raises(InvalidSetting, match="meta_limits"):
        limits.limit("1/minute", meta_limits=["1/hour"])
    with pytest.raises(InvalidSetting, match="key_func"):
        OURS.Limiter("address")
    for declare in (limits.limit, partial(limits.shared_limit, scope="s")):
        with pytest.raises(InvalidSetting, match="methods"):
            declare("1/minute", methods="POST")
    with pytest.raises(TypeError, match="limit a function"), limits.limit("1/minute"):
        pass


def test_memory_as_storage_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="each process counts for itself"):
        OURS.Limiter(OURS.get_remote_address, app=Flask("app"))


def test_every_argument_of_flask_limiter_is_known() -> None:
    """So that each argument works, or is refused by name."""
    import inspect

    options = {
        "__init__": ours.config.Settings,
        "limit": ours.extension.LimitOptions,
        "shared_limit": ours.extension.LimitOptions,
    }
    for name in ("__init__", "limit", "shared_limit", "exempt", "request_filter", "init_app"):
        wanted = inspect.signature(getattr(theirs.Limiter, name)).parameters
        offered = {*inspect.signature(getattr(ours.Limiter, name)).parameters}
        if name in options:
            offered |= {*options[name].__annotations__}
        assert set(wanted) <= offered, name
    known = {
        *ours.extension.config.KEYS.values(),
        *ours.extension.config.HEADERS,
        "RATELIMIT_ENABLED",
    }
    keys = vars(theirs.constants.ConfigVars)
    missing = {value for key, value in keys.items() if key.isupper()} - known
    assert missing == {"RATELIMIT_KEY_FUNC"}

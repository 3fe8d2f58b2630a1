"""Which limits apply, and when they are checked: one application, both libraries, as in ``test_compat``."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest
from flask import Blueprint, Flask, g, request
from flask.views import MethodView

from service.demo.servers import HOST, free_port
from tests.flask.support import ask
from tests.flask.test_compat import (
    OURS,
    THEIRS,
    Library,
    answers,
    both,
    limiter,
    quiet,
    route,
    same,
    saying,
)

__all__ = ["quiet"]

#: Names of flags with a bar between; empty: the flags of ``exempt`` by itself; None: not exempt.
ID = uuid.UUID(int=7)
FLAGS = [
    None,
    "",
    "NONE",
    "DEFAULT",
    "APPLICATION",
    "META",
    "DESCENDENTS",
    "DEFAULT|DESCENDENTS",
    "ANCESTORS",
    "DEFAULT|ANCESTORS",
]


def exempt(library: Library, limits: Any, target: Any, names: str | None) -> Any:
    """Exempt a target with the flags of these names."""
    if names is None:
        return target
    flags = library.ExemptionScope.NONE
    for name in filter(None, names.split("|")):
        flags |= library.ExemptionScope[name]
    more = {"flags": flags} if names else {}
    return limits.exempt(target, **more)


#: The application's limit, a factor of all others, and how often each path is requested. The
#: application's limit or the others decide by themselves, so that it does not matter which others are
#: charged for a request that one denies.
FACTORS = [(99, 1, 5), (1, 99, 2)]


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("names", FLAGS, ids=str)
@pytest.mark.parametrize("override", [True, False])
@pytest.mark.parametrize(("whole", "each", "times"), FACTORS)
def test_a_view_that_is_exempt(
    names: str | None, override: bool, whole: int, each: int, times: int
) -> None:
    """In a blueprint with and without a limit; with and without a limit of its own."""

    def write(library: Library, app: Flask) -> None:
        more = {"application_limits": [f"{whole}/minute"]}
        limits = limiter(library, app, default_limits=[f"{each}/minute"], **more)
        shop = Blueprint("shop", "shop", url_prefix="/shop")
        limits.limit(f"{2 * each}/minute")(shop)
        for place in (shop, app):
            own = limits.limit(f"{3 * each}/minute", override_defaults=override)
            name = "in" if place is shop else "out"
            free = exempt(library, limits, saying(f"{name}_free"), names)
            place.add_url_rule("/free", "free", free)
            both = exempt(library, limits, own(saying(f"{name}_both")), names)
            place.add_url_rule("/both", "both", both)
        app.register_blueprint(shop)

    paths = ("/shop/free", "/shop/both", "/free", "/both")
    same(write, *[path for path in paths for _ in range(times)], fields=())


#: Flags of the outer blueprint, of the inner one, and whether this one's limit overrides the other's.
PAIRS = [
    *itertools.product(FLAGS[:4], FLAGS, [True]),
    *itertools.product(FLAGS[4:], FLAGS[:2], [True]),
    *itertools.product(FLAGS[:4], FLAGS[:4], [False]),
]


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize(("outside", "inside", "override"), PAIRS, ids=str)
@pytest.mark.parametrize(("whole", "each", "times"), FACTORS)
def test_blueprints_that_are_exempt(
    outside: str | None, inside: str | None, override: bool, whole: int, each: int, times: int
) -> None:
    """One registered on another, both with limits."""

    def write(library: Library, app: Flask) -> None:
        more = {"application_limits": [f"{whole}/minute"]}
        limits = limiter(library, app, default_limits=[f"{each}/minute"], **more)
        outer = Blueprint("outer", "outer")
        inner = Blueprint("inner", "inner", url_prefix="/in")
        limits.limit(f"{3 * each}/minute")(outer)
        limits.limit(f"{2 * each}/minute", override_defaults=override)(inner)
        outer.add_url_rule("/a", "a", saying("outer_a"))
        inner.add_url_rule("/a", "a", saying("inner_a"))
        own = limits.limit(f"{4 * each}/minute")
        inner.add_url_rule("/own", "own", own(saying("inner_own")))
        outer.register_blueprint(inner)
        exempt(library, limits, outer, outside)
        exempt(library, limits, inner, inside)
        app.register_blueprint(outer)

    paths = ("/a", "/in/a", "/in/own")
    same(write, *[path for path in paths for _ in range(times)], fields=())


@pytest.mark.parametrize("override", [True, False])
def test_three_blueprints_on_each_other(override: bool) -> None:
    """The nearest decides whether the limits of the outer ones apply, or all of them do."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, default_limits=["1/minute"])
        outer, middle, inner = (
            Blueprint(name, name, url_prefix=f"/{name}") for name in ("outer", "middle", "inner")
        )
        inner.add_url_rule("/a", "a", saying("a"))
        limits.limit("2/minute")(outer)
        limits.limit("4/minute", override_defaults=override)(middle)
        middle.register_blueprint(inner)
        outer.register_blueprint(middle)
        app.register_blueprint(outer)

    assert same(write, *["/outer/middle/inner/a"] * 3, fields=()) == [200, 200, 429]


@both("2 x 200 /posts, 429 /posts, 200 POST /posts", fields=())
@both("200 /gets, 2 x 200 HEAD /gets, 429 /gets")
def test_a_limit_of_other_methods(library: Library, app: Flask) -> None:
    """The default applies beside it, and the blueprint's limit does not; HEAD is not GET."""
    limits = limiter(library, app, default_limits=["2/minute"])
    shop = Blueprint("shop", "shop")
    limits.limit("1/minute")(shop)
    posts = limits.limit("4/minute", methods=["POST"])
    shop.add_url_rule("/posts", "posts", posts(saying("posts")), methods=["GET", "POST"])
    gets = limits.limit("1/minute", methods=["get"])
    shop.add_url_rule("/gets", "gets", gets(saying("gets")))
    app.register_blueprint(shop)


def test_options_requests_that_flask_answers() -> None:
    """They count for the application and the default, and never for the limits on a view."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, default_limits=["2/minute"], application_limits=["9/minute"])
        route(app, "/own", limits.limit("1/minute")(saying("own")))
        route(app, "/default")

    own = ["OPTIONS /own", "OPTIONS /own", "/own", "/own"]
    assert same(write, *own, fields=()) == [200, 200, 200, 429]
    assert same(write, *["OPTIONS /default"] * 3) == [200, 200, 429]
    assert same(write, *["OPTIONS /own"] * 10, fields=()) == [200] * 9 + [429]


@both("3 x 401 /a, 2 x 200 /a?user=1, 429 /a?user=1", fields=())
@both("200 /says?user=1/hour, 429 /says?user=1/hour", fields=())
@both(
    "4 x 403 /name?user=1, 200 /name?user=1&name=1, 429 /name?user=1&name=1, 200 /name?user=1&name=2",
    fields=(),
)
def test_a_view_s_limits_are_checked_when_it_is_called(library: Library, app: Flask) -> None:
    """Values of later hooks and other decorators are set; a request that these stop is not charged."""
    limits = limiter(library, app, default_limits=["9/minute"])

    def by_user(view: Any) -> Any:
        return limits.limit("2/minute", key_func=lambda: g.user)(view)

    @app.before_request
    def login() -> tuple[str, int] | None:
        g.user = request.args.get("user")
        return None if g.user else ("who?", 401)

    def named(view: Any) -> Any:
        def inside() -> Any:
            g.name = request.args.get("name")
            return view() if g.name else ("name?", 403)

        inside.__name__ = inside.__qualname__ = view.__name__
        inside.__dict__.update(vars(view))
        return inside

    route(app, "/a", by_user(saying("a")))
    says = limits.limit(lambda: g.user)
    route(app, "/says", says(saying("says")))
    by_name = limits.limit("1/minute", key_func=lambda: g.name)
    route(app, "/name", limits.limit("3/minute")(named(by_name(saying("name")))))


def test_each_call_of_a_helper_counts() -> None:
    """For the route that calls it; a denial that the view catches stays a denial."""

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app)
        sms = limits.limit("3/hour")(saying("sent"))

        def view() -> str:
            found = []
            for _ in range(2):
                try:
                    found.append(sms())
                except Exception as error:
                    found.append(type(error).__name__)
            return " ".join(found)

        route(app, "/a", view)
        route(app, "/b", lambda: view())

    mine, others = answers(write, "/a", "/a", "/a", "/b")

    assert [answer.text for answer in mine] == [
        "sent sent",
        "sent RateLimitExceeded",
        "RateLimitExceeded RateLimitExceeded",
        "sent sent",
    ]
    assert [answer.text for answer in mine] == [answer.text for answer in others]


def test_methods_of_a_class_count_once() -> None:
    """With limits on the class and on its method, which are checked together."""
    app = Flask("app")
    limits = limiter(OURS, app)

    class Methods(MethodView):
        decorators = [limits.limit("9/minute")]  # noqa: RUF012

        @limits.limit("2/minute")
        def get(self) -> str:
            return " ".join(str(limit.remaining) for limit in limits.current_limits)

    app.add_url_rule("/a", view_func=Methods.as_view("a"))

    assert [answer.text for answer in ask(app, "/a", "/a")] == ["8 1", "7 0"]


@pytest.mark.parametrize("returned", ["host", "", None, 7])
def test_a_scope_that_a_function_returns(returned: Any) -> None:
    """For its endpoint; a class of views has one too. An empty result is the endpoint."""
    seen: dict[Library, list[str]] = {OURS: [], THEIRS: []}

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app)

        def scope(endpoint: str) -> Any:
            seen[library].append(endpoint)
            return request.args.get("host") if returned == "host" else returned

        class Methods(MethodView):
            decorators = [limits.shared_limit("2/minute", scope=scope)]  # noqa: RUF012

            def get(self) -> str:
                return "get"

        app.add_url_rule("/class", view_func=Methods.as_view("class"))
        route(app, "/a", limits.shared_limit("2/minute", scope=scope)(saying("a")))

    calls = [*["/a?host=1"] * 2, "/class?host=1", "/a?host=2", "/class", "/a"]
    same(write, *calls, fields=())
    assert seen[OURS] == seen[THEIRS]


def test_a_fallback_that_a_function_returns() -> None:
    """Once in a request, though a view's limits are checked after the application's."""
    gone = f"redis://{HOST}:{free_port()}/0"

    def write(library: Library, app: Flask) -> None:
        limits = limiter(
            library,
            app,
            application_limits=["9/minute"],
            storage_uri=gone,
            in_memory_fallback=["2/minute"],
        )
        route(app, "/own", limits.limit("1/minute")(saying("own")))
        route(app, "/a")

    assert same(write, *["/a"] * 3, fields=()) == [200, 200, 429]
    assert same(write, *["/own"] * 3, fields=()) == [200, 200, 429]

    app = Flask("app")
    says = {"limit": "1/minute"}
    limiter(
        OURS,
        app,
        storage_uri=gone,
        default_limits=["9/minute"],
        in_memory_fallback=[lambda: says["limit"]],
    )
    route(app, "/a")
    assert [answer.status_code for answer in ask(app, "/a", "/a")] == [200, 429]
    says["limit"] = ""
    assert [answer.status_code for answer in ask(app, "/a")] == [200]


def test_switched_off_and_on_again() -> None:
    """While the application runs, as tests do it."""
    made: list[Any] = []

    def write(library: Library, app: Flask) -> None:
        limits = limiter(library, app, default_limits=["1/minute"])
        made.append(limits)
        route(app, "/own", limits.limit("1/minute")(saying("own")))
        route(app, "/a")

        def switch() -> str:
            limits.enabled = not limits.enabled
            return "switched"

        route(app, "/switch", limits.exempt(switch))

    calls = ["/a", "/a", "/own", "/own"]
    found = same(write, *calls, "/switch", *calls, "/switch", *calls, fields=())
    assert found == [200, 429, 200, 429, 200, 200, 200, 200, 200, 200, 429, 429, 429, 429]


def test_check_includes_a_view_s_limits() -> None:
    """In a hook, before the view; they do not count again when the view is called."""
    app = Flask("app")
    limits = limiter(OURS, app)
    app.before_request(limits.check)
    route(app, "/a", limits.limit("2/minute")(saying("a")))

    assert [answer.status_code for answer in ask(app, *["/a"] * 3)] == [200, 200, 429]


@both("200 /a, 429 /a", fields=())
@both("200 /a, 200 /b, 200 /c, 200 /d, 429 /e, 429 /f", fields=())
def test_empty_settings(library: Library, app: Flask) -> None:
    """An empty list leaves the limits to the configuration; an empty address is not an address."""
    app.config.update(
        RATELIMIT_DEFAULT="1/minute", RATELIMIT_APPLICATION="4/hour", RATELIMIT_STORAGE_URI=""
    )
    with pytest.warns(UserWarning, match="memory"):
        limiter(library, app, default_limits=[], application_limits=[], storage_uri="")
    route(app, "/a")
    for name in "bcdef":
        route(app, f"/{name}")


@both("200 /a, 200 /b, 200 /c, 200 /d, 200 /e, 429 /a, 429 /b, 429 /c, 429 /d, 429 /e")
def test_keys_that_a_function_returns(library: Library, app: Flask) -> None:
    """Theirs accepts every type, as text."""
    limits = limiter(library, app)
    for name, returned in zip("abcde", (1.5, True, ("a", None), b"a", ID), strict=True):
        by_key = limits.limit("1/minute", key_func=lambda returned=returned: returned)
        route(app, f"/{name}", by_key(saying(name)))

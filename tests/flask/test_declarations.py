"""Mistakes raise errors where they are written, before a request and before ``init_app``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from flask import Blueprint, Flask, g, request

from limiter import InvalidPolicy, InvalidSetting
from limiter.flask import FlaskLimiter
from limiter.flask.limits import Mistake
from limiter.web.request import Request
from tests.flask.conftest import Make
from tests.flask.support import ask, statuses

MEMORY = "memory://"
PARENTHESES = r'write the limits in parentheses: @limits\.limit\("5/minute"\)'


def hello() -> str:
    """A view."""
    return "hello"


def by_item(item: int) -> str:
    """A view with a parameter."""
    return str(item)


def passed_on(view: Any) -> Any:
    """Wrap a view, as other decorators do."""

    @functools.wraps(view)
    def wrapper(*args: Any, **more: Any) -> Any:
        return view(*args, **more)

    return wrapper


@pytest.fixture(params=["before", "after"])
def limits(request: pytest.FixtureRequest) -> tuple[Flask, FlaskLimiter]:
    """Limits that are declared before ``init_app``, and after."""
    app, extension = Flask("app"), FlaskLimiter(default=None, store=MEMORY)
    if request.param == "after":
        extension.init_app(app)
    return app, extension


# --- without parentheses ---


@pytest.mark.parametrize("wrap", [passed_on, lambda view: view], ids=["wrapped", "plain"])
@pytest.mark.parametrize("endpoint", [None, "own"])
def test_a_limit_without_parentheses_is_not_a_view(
    limits: tuple[Flask, FlaskLimiter], endpoint: str | None, wrap: Callable[[Any], Any]
) -> None:
    """Before, the application started and answered 500, or had no limit."""
    app, extension = limits
    blueprint = Blueprint("blueprint", __name__)
    for place in (app, blueprint):
        with pytest.raises(InvalidSetting, match=PARENTHESES):
            place.add_url_rule("/", endpoint, wrap(extension.limit(hello)))
    with pytest.raises(InvalidSetting, match=PARENTHESES):
        extension.limit(by_item)  # type: ignore[arg-type]


def test_a_limit_without_parentheses_above_the_route_is_an_error() -> None:
    """Before, the view had no limit. The error is raised at once, by init_app, or by the first request."""
    app, extension = Flask("app"), FlaskLimiter(default=None, store=MEMORY)
    app.add_url_rule("/", "view", hello)
    extension.limit(hello)
    with pytest.raises(
        InvalidSetting, match=f"hello, which is the view of a route: .*{PARENTHESES}"
    ):
        extension.init_app(app)
    app = Flask("app")
    extension = FlaskLimiter(app, None, store=MEMORY)
    app.add_url_rule("/", "view", hello)
    with pytest.raises(InvalidSetting, match=PARENTHESES):
        extension.limit(hello)
    app = Flask("app")
    app.testing = True
    extension = FlaskLimiter(app, None, store=MEMORY)
    extension.limit(hello)
    app.add_url_rule("/", "view", hello)
    with pytest.raises(InvalidSetting, match=PARENTHESES):
        ask(app, "/")


def test_a_declaration_can_be_inspected() -> None:
    """By tools that read the attributes of a module's objects."""
    declaration = FlaskLimiter(default=None, store=MEMORY).limit("5/minute")
    assert not hasattr(declaration, "other")
    assert "Declaration" in repr(declaration)


# --- misspelled limits ---


@pytest.mark.parametrize("text", ["5 per fortnight", "5/minte", "", "five/minute", "5/minute; 6"])
def test_a_misspelled_limit_is_an_error_at_once(
    limits: tuple[Flask, FlaskLimiter], text: str
) -> None:
    _, extension = limits
    for declare in (
        extension.limit,
        partial(extension.shared_limit, scope="one"),
        partial(FlaskLimiter, None),
        lambda limits: FlaskLimiter(application=limits),
    ):
        with pytest.raises(InvalidPolicy, match="expected"):
            declare(text)


# --- functions ---


def three(request: Any, trusted: Any, more: Any) -> str:
    """A function with three arguments, which no limit calls."""
    return ""


async def late() -> str:
    """A coroutine function: its result is true, but not a limit."""
    return ""


def generated() -> Any:
    """A generator function: its result is true, but not a subject."""
    yield ""


class ByKeyword:
    """A callable object."""

    def __call__(self, *, name: str) -> str:
        """What no limit gives it."""
        return name


@pytest.mark.parametrize(
    ("argument", "function", "message"),
    [
        (
            "key",
            three,
            r"key is three\(request: 'Any', .*: expected a function without arguments, of the req",
        ),
        ("key", partial(three, request=1), r"expected a function without arguments"),
        ("key", late, r"key is late\(\).*, which is async or a generator: expected a function"),
        ("key", partial(late), "which is async or a generator"),
        ("key", generated, "which is async or a generator"),
        ("key", ByKeyword(), r"key is ByKeyword\(\*, name: 'str'\)"),
        (
            "cost",
            three,
            r"cost is three\(.*expected a function without arguments.*as in cost=lambda",
        ),
        ("cost", late, "which is async or a generator"),
        ("exempt_when", late, "which is async or a generator"),
        (
            "exempt_when",
            lambda view: bool(view),
            "exempt_when is <lambda>.*expected a function without arg",
        ),
        ("deduct_when", hello, "expected a function of the response"),
        ("on_denied", hello, "expected a function of the verdict"),
        ("scope", hello, "expected a function of the endpoint, or a text"),
    ],
)
def test_a_function_with_other_arguments_is_an_error_at_once(
    limits: tuple[Flask, FlaskLimiter], argument: str, function: Any, message: str
) -> None:
    _, extension = limits
    declare = partial(extension.shared_limit, "5/minute", **{"scope": "one", argument: function})
    with pytest.raises(InvalidSetting, match=message):
        declare()


@pytest.mark.parametrize("function", [dict, max, print, divmod, "".join])
def test_functions_in_c_are_accepted(function: Any) -> None:
    """Python does not know the parameters of some of them."""
    FlaskLimiter(default=None, store=MEMORY).limit("5/minute", key=function)


@pytest.mark.parametrize(
    ("argument", "function"),
    [("key", three), ("observe", hello), ("on_denied", hello), ("exempt_when", three)],
)
def test_a_function_of_the_extension_is_checked_too(argument: str, function: Any) -> None:
    with pytest.raises(InvalidSetting, match=f"{argument} is {function.__name__}"):
        FlaskLimiter(default=None, store=MEMORY, **{argument: function})


@pytest.mark.parametrize("key", ["user", ["address", "user"], 3, {"user"}], ids=repr)
def test_a_key_may_be_a_function_and_the_error_says_so(key: Any) -> None:
    extension = FlaskLimiter(default=None, store=MEMORY)
    for declare in (partial(extension.limit, "5/minute"), partial(FlaskLimiter, None)):
        with pytest.raises(
            InvalidSetting, match=r"expected address .*; or a function without arguments"
        ):
            declare(key=key)


class Caller:
    """Key functions that are methods."""

    def of(self, request: Request) -> str:
        """The subject, by the request."""
        return request.headers["x-user"]

    @staticmethod
    def both(request: Request, trusted: object) -> str:
        """The subject, by the request and the networks."""
        assert trusted is not None
        return request.headers["x-user"]

    def __call__(self) -> str:
        """By Flask's request."""
        return str(request.headers["x-user"])


@pytest.mark.parametrize(
    "key",
    [
        lambda: request.headers["x-user"],
        lambda web_request: web_request.headers["x-user"],
        lambda web_request, trusted: (web_request.headers["x-user"], len(trusted)),
        lambda *nothing: (request.headers["x-user"], len(nothing)),
        lambda prefix="user": prefix + request.headers["x-user"],
        partial(lambda name, web_request: web_request.headers[name], "x-user"),
        Caller().of,
        Caller.both,
        Caller(),
    ],
)
def test_a_function_takes_as_much_as_it_needs(make: Make, key: Any) -> None:
    """No argument, the request, or the request and the networks: as key and as cost."""
    app, extension = make()
    cost = partial(lambda number, web_request: number * len(web_request.headers["x-user"]), 1)
    app.add_url_rule("/", "view", extension.limit("2/minute", key=key, cost=cost)(hello))

    for user, status in zip(
        ("a", "b", "a", "a", "cc", "cc"), (200, 200, 200, 429, 200, 429), strict=True
    ):
        assert statuses(app, "/", x_user=user) == [status]


# --- hooks that run after the limits ---


def with_hook(key: Any, place: str, **more: Any) -> Flask:
    """An application whose hook sets the key: before the limits, after them, or on a blueprint."""
    app, blueprint = Flask("app"), Blueprint("pages", __name__)
    app.testing = True

    def load_user() -> None:
        g.user = request.headers.get("X-User")

    extension = FlaskLimiter(default=None, store=MEMORY)
    if place == "before":
        app.before_request(load_user)
    extension.init_app(app)
    if place == "after":
        app.before_request(load_user)
    if place == "blueprint":
        blueprint.before_request(load_user)
    limited = extension.limit("1/minute", key=key, **more)(lambda: "hello")
    blueprint.add_url_rule("/", "view", limited)
    app.register_blueprint(blueprint)
    return app


NAMED = {
    "after": r"load_user run after the limits",
    "blueprint": r"load_user of blueprint pages run after the limits",
}


@pytest.mark.parametrize("place", ["after", "blueprint"])
@pytest.mark.parametrize(
    "key", [lambda: g.user, lambda: vars(g)["user"]], ids=["attribute", "item"]
)
def test_a_key_that_a_later_hook_sets_is_an_error_that_names_it(key: Any, place: str) -> None:
    app = with_hook(key, place)
    with pytest.raises(
        Mistake, match=f"failed with .*{NAMED[place]}: .*init_app.*after them"
    ) as caught:
        app.test_client().get("/", headers={"X-User": "ann"})
    assert isinstance(caught.value.__cause__, (AttributeError, KeyError))


@pytest.mark.parametrize("place", ["after", "blueprint"])
@pytest.mark.parametrize(("unidentified", "status"), [("refuse", 400), ("address", 200)])
def test_a_key_without_a_subject_before_a_later_hook_is_logged(
    caplog: pytest.LogCaptureFixture, place: str, unidentified: str, status: int
) -> None:
    """Once: the key may need none of the later hooks. The response does not name them."""
    app = with_hook(lambda: g.get("user"), place, unidentified=unidentified)
    with caplog.at_level(logging.WARNING, "limiter.flask"):
        answers = [app.test_client().get("/", headers={"X-User": "ann"}) for _ in range(2)]

    assert answers[0].status_code == status
    assert "load_user" not in answers[0].text
    (line,) = caplog.messages
    assert "key function test_a_key" in line
    assert NAMED[place].replace("\\", "") in line


def test_a_key_that_an_earlier_hook_sets_counts(caplog: pytest.LogCaptureFixture) -> None:
    app = with_hook(lambda: g.user, "before")

    assert statuses(app, "/", "/", x_user="ann") == [200, 429]
    assert statuses(app, "/", x_user="bob") == [200]
    assert statuses(app, "/") == [400]
    assert not caplog.messages


def test_other_errors_of_a_key_do_not_change() -> None:
    """Errors that Flask answers itself, and errors that no hook caused."""
    app = with_hook(lambda: request.args["user"], "after")
    assert statuses(app, "/") == [400]
    app = with_hook(lambda: g.user, "none")
    with pytest.raises(AttributeError):
        ask(app, "/")

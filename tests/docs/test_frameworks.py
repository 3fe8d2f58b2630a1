"""The examples of ``docs/frameworks.md`` do what the page shows."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from limiter import settings as ours
from limiter.asgi import LimiterMiddleware
from limiter.testing import Clock
from limiter.web.headers import FORMS
from limiter.web.identity import ADDRESS_FROM
from limiter.web.wiring import GuardSettings
from tests.asgi.support import ask as ask_asgi
from tests.service.support import ROOT
from tests.transport.support import in_loop
from tests.wsgi.support import ask as ask_wsgi

PAGE = (ROOT / "docs" / "frameworks.md").read_text()
BLOCKS = re.findall(r"^##+ (.*?)$|^```python\n(.*?)^```$", PAGE, re.M | re.S)
STORE = "redis://127.0.0.1:6379/0"


def examples() -> list[Any]:
    """Return every example, named by its heading."""
    parameters, heading = [], ""
    for title, code in BLOCKS:
        heading = title or heading
        if code and not heading.startswith(("By the user", "Cost by response")):
            parameters.append(pytest.param(code, id=f"{heading} {len(parameters)}"))
    return parameters


@pytest.fixture(scope="module")
def _django() -> None:
    """Configure a Django project with one page."""

    def page(request: HttpRequest) -> HttpResponse:
        return HttpResponse("hello")

    urls = types.ModuleType("urls")
    urls.urlpatterns = [path("", page)]  # type: ignore[attr-defined]
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=urls, SECRET_KEY="no", LOGGING_CONFIG=None)  # noqa: S106


@pytest.mark.parametrize("code", examples())
@pytest.mark.usefixtures("_django")
def test_an_example_limits(code: str) -> None:
    """With another store, 100 requests of a minute pass, and the next one does not."""
    assert STORE in code
    names: dict[str, Any] = {}
    exec(compile(code.replace(STORE, "memory://"), "frameworks.md", "exec"), names)  # noqa: S102
    app = names.get("application") or names["app"]
    statuses = []
    for answer in _answers(app, 101):
        statuses.append(answer[0])
        assert answer[1].startswith(('"default";q=100;w=60', '"every";q=100;w=60'))

    assert set(statuses[:100]) <= {200, 404}
    assert statuses[100] == 429


def _answers(app: Any, count: int) -> list[tuple[int, str]]:
    """Send ``count`` requests; return the status and RateLimit-Policy of each."""
    answers: list[tuple[int, str]] = []
    if not inspect.iscoroutinefunction(type(app).__call__):
        for _ in range(count):
            answer = ask_wsgi(app)
            answers.append((answer.code, answer["RateLimit-Policy"]))
        return answers

    async def ask_all() -> None:
        for _ in range(count):
            answer = await ask_asgi(app)
            answers.append((answer.status, answer.headers["ratelimit-policy"]))

    in_loop(ask_all())
    return answers


async def test_the_route_has_its_own_limit() -> None:
    """The route of the FastAPI example admits five requests."""
    names = _names('@app.get("/search"')
    statuses = [(await ask_asgi(names["app"], "/search")).status for _ in range(6)]

    assert statuses == [200] * 5 + [429]


async def test_users_of_fastapi_have_their_own_counts() -> None:
    """The example's dependency finds the user; a wrong token gets a 401."""
    names = _names("def current_user_id")

    async def ask(token: str) -> Any:
        fields = {"authorization": f"Bearer {token}"}
        return await ask_asgi(names["app"], "/orders", headers=fields)

    for token in ("ann's token", "bob's token"):
        answers = [await ask(token) for _ in range(101)]
        assert [answer.status for answer in answers] == [200] * 100 + [429]
        assert answers[0].headers["ratelimit-policy"] == '"route";q=100;w=60'
    assert (await ask("guessed")).status == 401


class SetsUser:
    """Sets the user like Django's AuthenticationMiddleware, but from a header field."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Set the user, and call the next middleware."""
        key = request.headers.get("X-User")
        request.user = SimpleNamespace(is_authenticated=key is not None, pk=key)  # type: ignore[assignment]
        return self.get_response(request)


@pytest.mark.usefixtures("_django")
def test_users_of_django_have_their_own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's middleware runs after the one that sets the user."""
    project: Any = types.ModuleType("project")
    vars(project).update(_names("class LimitUsers"), SetsUser=SetsUser)
    monkeypatch.setitem(sys.modules, "project", project)
    with override_settings(MIDDLEWARE=["project.SetsUser", "project.LimitUsers"]):
        app = get_wsgi_application()

        def answers(**fields: str) -> list[Any]:
            return [ask_wsgi(app, **fields) for _ in range(101)]

        for user in ("ann", "bob"):
            received = answers(HTTP_X_USER=user)
            assert [answer.code for answer in received] == [200] * 100 + [429]
            assert 1 <= int(received[-1]["Retry-After"]) <= 60
        assert {answer.code for answer in answers()} == {200}


def _names(text: str) -> dict[str, Any]:
    """Run the example with this text on its own store; return its names."""
    (code,) = [code for _, code in BLOCKS if text in code]
    names: dict[str, Any] = {}
    exec(compile(code.replace(STORE, "memory://"), "frameworks.md", "exec"), names)  # noqa: S102
    return names


def test_the_example_with_rules_limits_reports() -> None:
    """It admits two reports at once."""
    names = _names("Concurrency")

    assert ask_wsgi(names["app"], path="/reports/a")["RateLimit"] == (
        '"every";r=99;t=60, "reports";r=1'
    )


def test_the_example_with_functions_decides_subject_and_cost() -> None:
    """Its functions return the tenant, and the cost of a path."""
    names = _names("def tenant")

    def left(path: str = "/", **fields: str) -> str:
        states: str = ask_wsgi(names["app"], path=path, **fields)["RateLimit"]
        return states.partition(";t=")[0]

    assert left(HTTP_X_TENANT="a") == '"default";r=99'
    assert left("/reports/1", HTTP_X_TENANT="a") == '"default";r=89'
    assert left("/reports/1", HTTP_X_TENANT="b") == '"default";r=90'
    assert left() == '"default";r=99'
    assert ask_wsgi(names["app"], HTTP_X_TENANT="a" * 101).code == 400


def test_the_example_with_a_cost_by_response_settles_its_estimate() -> None:
    """A response of 120 tokens costs those, and not the estimate of 500."""
    with Clock():
        app = _names("refund_unless")["app"]
        left = [ask_wsgi(app)["RateLimit"].partition(";t=")[0] for _ in range(2)]
    assert left == ['"default";r=99500', '"default";r=99380']


def test_the_table_names_every_argument() -> None:
    """It also names every choice."""
    own = {*inspect.signature(LimiterMiddleware).parameters} - {"app", "limits", "settings"}
    arguments = own | GuardSettings.__optional_keys__
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.M)

    left_out = {"prefix", "local_share", "connect_timeout", "key_secret", "denial_cache_size"}
    assert arguments - left_out <= set(re.findall(r"`(\w+)`", "".join(rows)))
    assert PAGE.count("(#functions)") == 3
    for choice in (*FORMS, *ADDRESS_FROM):
        assert f'"{choice}"' in PAGE
    assert ours.VARIABLES["store"] == "LIMITER_STORE"

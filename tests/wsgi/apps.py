"""Django under WSGI, as a user would write it; the store and the limits come from the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from flask import Flask

from limiter import Concurrency, Limiter
from limiter.web import Match, Rule, pattern
from limiter.wsgi import LimiterMiddleware


def hello(request: HttpRequest) -> HttpResponse:
    """Say hello, with the process id."""
    return HttpResponse(f"hello from {os.getpid()}")


def broken(request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise ValueError("broken")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Stream a piece every 50 ms, for ten seconds."""

    def pieces() -> Iterator[str]:
        for _ in range(200):
            yield f"{os.getpid()}\n"
            time.sleep(0.05)

    return StreamingHttpResponse(pieces())


if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="only for tests",  # noqa: S106
        LOGGING_CONFIG=None,
    )
    django.setup()
urlpatterns = [path("hello", hello), path("broken", broken), path("stream", stream)]

#: One line, by LIMITER_*.
django_app = LimiterMiddleware(get_wsgi_application())

#: Rules: a rate for all requests, and a limit of simultaneous streams.
_all = Limiter.from_env(name="all")
_streams = Limiter(
    [Concurrency(2, lease=float(os.environ.get("TEST_LEASE", "30")))],
    store=_all,
    prefix=os.environ.get("LIMITER_PREFIX", "rl"),
    name="streams",
)
django_rules = LimiterMiddleware(
    get_wsgi_application(), [Rule(_all), Rule(_streams, match=Match(paths=(pattern("/stream"),)))]
)


# --- one limit by the path, in front of Flask ---

_flask = Flask(__name__)


@_flask.get("/orders")
@_flask.get("/orders/<order>")
def orders(order: str = "") -> str:
    """Return the order's id."""
    return order


_orders = Limiter(
    "1/minute", store=_all, prefix=os.environ.get("LIMITER_PREFIX", "rl"), name="orders"
)
flask_orders = LimiterMiddleware(
    _flask, [Rule(_orders, match=Match(paths=(pattern("/orders"), pattern("/orders/{order}"))))]
)

"""Cost of a limiter for a Flask request in the process itself: no server, and a stub as the store.

Flask, the limiter and the stub run in one thread on one core. Each request is timed alone, and a chunk of
requests counts with its median, so that other work of the machine hardly matters.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from time import perf_counter
from typing import Any

from flask import Flask

from bench import flask_apps
from bench.effort import Effort, progress
from bench.pinning import pinned
from bench.sections import Failed, Spread

#: The column of these figures, which no server has a part in.
COLUMN = "in process"

ADDED = "FlaskLimiter, allowed: added time"
DENIED = "FlaskLimiter, denied"
IN_FRONT = "WSGI middleware in front, denied"

#: Replies of a script for one policy: granted, remaining, microseconds until a retry and until the reset,
#: delay; at the end the time.
_ALLOWED = [1, 99_999, 0, 36_000, 0, 1_700_000_000_000_000]
_REFUSED = [0, 0, 30_000_000, 30_000_000, 0, 1_700_000_000_000_000]

App = Callable[[dict[str, Any], Any], Any]


def measure(effort: Effort) -> dict[str, Spread]:
    """Return each case's time / that of the same request without a limiter; of ADDED, what it adds to 1."""
    bare = flask_apps.bare()
    cases: dict[str, tuple[App, str]] = {
        ADDED: (_limited(_ALLOWED), "200"),
        DENIED: (_limited(_REFUSED), "429"),
        IN_FRONT: (flask_apps.behind_middleware(_stub(_REFUSED)), "429"),
    }
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    with pinned(), progress("Flask in process", effort.repetitions) as step:
        _time(bare, "200", effort.calls)
        for app, status in cases.values():
            _time(app, status, effort.calls)
        for _ in range(effort.repetitions):
            for name in random.sample(list(cases), len(cases)):
                app, status = cases[name]
                beside, own = [_time(bare, "200", effort.calls)], []
                for _ in range(effort.pairs):
                    own.append(_time(app, status, effort.calls))
                    beside.append(_time(bare, "200", effort.calls))
                around = [(before + after) / 2 for before, after in pairwise(beside)]
                ratio = statistics.median(map(float.__truediv__, own, around))
                ratios[name].append(ratio - 1 if name == ADDED else ratio)
            step()
    return {name: Spread.of(values) for name, values in ratios.items()}


def _limited(reply: list[int]) -> Flask:
    return flask_apps.ours(store="memory://", prepare=_stub(reply))


def _stub(reply: list[int]) -> Callable[[Any], None]:
    """Return a function that has the store of a limiter answer each call with this reply."""

    def prepare(limiter: Any) -> None:
        limiter._core.transport.run = lambda *_: list(reply)

    return prepare


def _time(app: App, status: str, requests: int) -> float:
    """Return the median time of a request; fail unless all have this status."""
    times = []
    for _ in range(requests):
        environ, statuses = _environ(), []
        began = perf_counter()
        body = app(environ, lambda line, *_: statuses.append(line))  # noqa: B023 (called at once)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()
        times.append(perf_counter() - began)
        if not statuses[0].startswith(status):
            raise Failed(f"a request was answered with {statuses[0]}, not with {status}")
    return statistics.median(times)


def _environ() -> dict[str, Any]:
    """Return an environment as gunicorn makes it."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/hello",
        "RAW_URI": "/hello",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "gunicorn",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "127.0.0.1:8000",
        "HTTP_USER_AGENT": "ApacheBench/2.3",
        "HTTP_ACCEPT": "*/*",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }

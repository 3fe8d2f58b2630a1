"""Flask, WSGI middleware and policy files spend prepaid units, and their header fields are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask
import pytest
import redis

from limiter import InvalidSetting
from limiter.flask import FlaskLimiter
from limiter.policyfile import Policies
from limiter.wsgi import LimiterMiddleware
from tests.transport.support import scripts_run

LIMITS = "1000/day"
#: Requests, and the most script calls that they may take: 1, 2, 4 ... and 100 units at a time.
REQUESTS, CALLS = 300, 30


def bare_app() -> flask.Flask:
    """An application without limits."""
    app = flask.Flask(__name__)
    app.get("/")(lambda: "hello")
    return app


def remaining_of(app: flask.Flask) -> list[int]:
    """What the header fields of many responses say is left."""
    client = app.test_client()
    fields = [client.get("/").headers["RateLimit"] for _ in range(REQUESTS)]
    return [int(field.partition("r=")[2].partition(";")[0]) for field in fields]


@pytest.mark.parametrize("kind", ["FlaskLimiter", "middleware", "policy file"])
def test_requests_spend_prepaid_units(store: str, subject: str, kind: str, tmp_path: Path) -> None:
    """300 requests take few script calls, and each response says what is left."""
    settings: dict[str, Any] = {"prepaid": 100, "prepaid_hold": 50, "timeout": 5, "store": store}
    if kind == "FlaskLimiter":
        app = bare_app()
        FlaskLimiter(app, LIMITS, algorithm="fixed_window", name=subject, **settings)
    elif kind == "middleware":
        app = bare_app()
        app.wsgi_app = LimiterMiddleware(  # type: ignore[method-assign]
            app.wsgi_app, LIMITS, algorithm="fixed_window", name=subject, **settings
        )
    else:
        app = bare_app()
        file = tmp_path / "policies.toml"
        file.write_text(
            f"[policies.{subject}]\nlimits = '{LIMITS}'\nalgorithm = 'fixed_window'\n"
            f"prepaid = 100\nprepaid_hold = 50\n"
        )
        policies = Policies(file, store=store, timeout=5)
        app.wsgi_app = LimiterMiddleware(app.wsgi_app, policies)  # type: ignore[method-assign]
    client = redis.Redis.from_url(store)
    before = scripts_run(client)
    assert remaining_of(app) == list(range(999, 999 - REQUESTS, -1))
    assert scripts_run(client) - before <= CALLS
    if kind == "policy file":
        policies.close()
        (rule,) = policies.guard.rules
        assert rule.limiter.peek("127.0.0.1").remaining == 1_000 - REQUESTS


def test_a_policy_that_has_none(tmp_path: Path) -> None:
    """The setting of all policies is refused for one of leases, which may turn it off."""
    file = tmp_path / "policies.toml"
    text = "[policies.p]\nlimits = {algorithm = 'concurrency', limit = 5, lease = 30}\n"
    file.write_text(text)
    with pytest.raises(InvalidSetting, match="prepaid is 100: expected 0 for Concurrency"):
        Policies(file, store="redis://127.0.0.1:1", prepaid=100)
    file.write_text(text + "prepaid = 0\n")
    Policies(file, store="redis://127.0.0.1:1", prepaid=100)

"""The examples of ``docs/flask.md`` do what the page shows."""

from __future__ import annotations

import re
from typing import Any

from tests.service.support import ROOT

PAGE = (ROOT / "docs" / "flask.md").read_text()


def client(text: str) -> Any:
    """Make a client of the example with this text, on its own store."""
    (code,) = [
        code for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S) if text in code
    ]
    names: dict[str, Any] = {"__name__": "page"}
    code = code.replace("redis://127.0.0.1:6379/0", "memory://")
    exec(compile(code, "flask.md", "exec"), names)  # noqa: S102
    return names["app"].test_client()


def test_views_have_their_own_limits() -> None:
    app = client("def health")

    assert [app.get("/search").status_code for _ in range(6)] == [200] * 5 + [429]
    assert [app.get("/").status_code for _ in range(101)] == [200] * 100 + [429]
    assert "RateLimit" not in app.get("/health").headers


def test_users_have_their_own_counts() -> None:
    app = client("def find_user")
    for user in ("ann", "bob"):
        statuses = [app.get("/orders", headers={"X-User": user}).status_code for _ in range(101)]
        assert statuses == [200] * 100 + [429]


def test_a_429_of_the_application() -> None:
    app = client("def too_many")
    answers = [app.get("/") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json == {"error": "slow down", "seconds": 60}
    assert answers[2].headers["Retry-After"] == "60"
    assert answers[2].headers["RateLimit"].startswith('"default";r=0')


def test_a_blueprint_has_a_limit() -> None:
    app = client("Blueprint(")

    assert [app.get("/api/items").status_code for _ in range(11)] == [200] * 10 + [429]


def test_a_limiter_is_one_count_with_other_programs() -> None:
    app = client("def start")
    fields = [app.get("/work").headers["RateLimit"] for _ in range(2)]

    assert fields[1].startswith('"work";r=98;')

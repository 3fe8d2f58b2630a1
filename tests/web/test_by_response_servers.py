"""Costs by response under real servers: Flask with a policy file, FastAPI with a dependency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limiter import Limiter
from service.demo.servers import HOST
from tests.asgi.support import uvicorn
from tests.service.support import get
from tests.waiting import until
from tests.wsgi.support import begin_http, gunicorn

pytestmark = pytest.mark.slow

APPS = "tests.web.response_apps:"
TOKENS = """
[policies.tokens]
limits = "90/hour"
key = "global"
match.paths = ["/tokens/*", "/waiting", "/stream", "/missing", "/broken"]
cost = 30
true_cost = { header = "X-Tokens-Used" }
refund_unless = ["2xx"]
"""
#: The middleware around FastAPI has a limit of its own, which settles nothing.
ALL = '[policies.all]\nlimits = "1000/hour"\n'


@pytest.mark.parametrize("app", ["flask_app", "fastapi_app"])
def test_under_a_server(tmp_path: Path, store: str, subject: str, app: str) -> None:
    is_flask = app == "flask_app"
    (tmp_path / "policies.toml").write_text(TOKENS if is_flask else ALL)
    variables = {
        "LIMITER_STORE": store,
        "LIMITER_PREFIX": subject,
        "LIMITER_POLICIES": str(tmp_path / "policies.toml"),
    }
    log, options = tmp_path / "log", ["--threads=16"] if is_flask else []
    server = (gunicorn if is_flask else uvicorn)(log, f"{APPS}{app}", *options, **variables)
    with (
        server as (_, port),
        Limiter("90/hour", store=store, prefix=subject, name="tokens", timeout=5) as limiter,
        ThreadPoolExecutor(8) as pool,
    ):

        def ask(path: str) -> int:
            return get(f"http://{HOST}:{port}{path}").status

        def has_left(count: int) -> None:
            until(lambda: limiter.peek("global").remaining == count)

        assert ask("/tokens/25") == 200
        has_left(65)
        assert [ask("/missing"), ask("/broken")] == [404, 500]
        has_left(65)
        # A client that disconnects pays what the head of its stream says.
        stream, head = begin_http(port, "/stream")
        assert "200 OK" in head
        stream.close()
        has_left(45)
        # One of these fits, as long as it has not answered: a check without a charge would let all pass.
        simultaneous = [pool.submit(ask, "/waiting") for _ in range(8)]
        until(lambda: sum(each.done() for each in simultaneous) == 7)
        assert limiter.peek("global").remaining == 15
        assert ask("/go") == 200
        assert sorted(each.result() for each in simultaneous) == [200] + [429] * 7
        has_left(35)
        # The excess is charged, too; the limit is then full.
        assert ask("/tokens/50") == 200
        has_left(0)
        assert ask("/tokens/0") == 429

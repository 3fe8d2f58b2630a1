"""The service under the gunicorn configuration that we ship."""

from __future__ import annotations

import http.client
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gunicorn.config import make_settings

from limiter.demo.servers import HOST, Server, free_port
from tests.service.support import ROOT, get, gunicorn, run_gunicorn


@pytest.mark.slow
def test_workers_share_the_limit_and_leave_nothing_in_the_home_folder(
    tmp_path: Path, store: str, subject: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with gunicorn(
        tmp_path / "log",
        "--workers=2",
        HOME=str(home),
        XDG_RUNTIME_DIR=str(home),
        LIMITER_STORE=store,
        LIMITER_NAME=subject,
        LIMITER_LIMITS="50/minute",
        LIMITER_TIMEOUT="5",
    ) as (child, url):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(get, [f"{url}/demo-service/hello"] * 200))
        assert list(home.iterdir()) == []
    statuses = [answer.status for answer in answers]

    assert (statuses.count(200), statuses.count(429)) == (50, 150)
    assert child.process.returncode == 0
    assert "GET" not in (tmp_path / "log").read_text()  # no access log


@pytest.mark.slow
def test_connections_are_kept_and_duplicate_headers_are_read(
    tmp_path: Path, store: str, subject: str
) -> None:
    with gunicorn(
        tmp_path / "log",
        LIMITER_STORE=store,
        LIMITER_NAME=subject,
        LIMITER_LIMITS="1/minute",
        LIMITER_TIMEOUT="5",
    ) as (_, url):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)

        def status(*lines: tuple[str, str]) -> int:
            connection.putrequest("GET", "/demo-service/hello")
            for line in lines:
                connection.putheader(*line)
            connection.endheaders()
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert status(("X-Forwarded-For", "203.0.113.5")) == 200
        first = connection.sock.getsockname()
        # Several lines are one list; the last word is that of the proxy next to us.
        assert status(("X-Forwarded-For", "9.9.9.9"), ("X-Forwarded-For", "203.0.113.5")) == 429
        # Spelled with underscores it is another header, and dropped.
        forged = ("X_Forwarded_For", "203.0.113.6")
        assert status(("X-Forwarded-For", "203.0.113.5"), forged) == 429
        assert connection.sock.getsockname() == first
        connection.close()


@pytest.mark.slow
def test_it_starts_without_a_store_and_recovers_with_it(tmp_path: Path) -> None:
    with Server() as server:
        server.kill()
        with gunicorn(tmp_path / "log", LIMITER_STORE=server.url, LIMITER_TIMEOUT="0.5") as (
            _,
            url,
        ):
            assert get(f"{url}/demo-service/hello").status == 200
            assert get(f"{url}/readyz").status == 503
            assert "started without the store" in (tmp_path / "log").read_text()

            server.restart()

            answer = get(f"{url}/demo-service/hello")
            assert answer.headers["RateLimit"] == '"default";r=99;t=60'
            assert get(f"{url}/readyz").status == 200


@pytest.mark.slow
def test_a_wrong_variable_is_one_line_and_an_exit_code() -> None:
    done = run_gunicorn(LIMITER_STORE=f"redis://{HOST}:{free_port()}", LIMITER_LIMITS="lots")

    assert done.returncode != 0
    assert "LIMITER_LIMITS" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Booting worker" not in done.stderr


def test_the_configuration_uses_names_that_gunicorn_knows() -> None:
    """Gunicorn passes over a name that it does not know."""
    found = runpy.run_path(str(ROOT / "service/gunicorn.conf.py"))
    ours = {name for name in found if name[0] != "_"} - {
        "annotations",
        "os",
        "sys",
        "logging",
        "shutil",
        "signal",
        "tempfile",
    }

    assert ours - set(make_settings()) == {"Any", "LimiterError", "logs", "settings"}
    assert found["worker_class"] == "gthread"
    assert found["keepalive"] >= 75

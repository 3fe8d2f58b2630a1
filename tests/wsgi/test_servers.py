"""A real Django application under real gunicorn."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limiter import Limiter
from service.demo.servers import HOST
from tests.service.support import get
from tests.waiting import STALL, until, until_renewed
from tests.wsgi.support import begin_http, gunicorn, listens, served

pytestmark = pytest.mark.slow

APPS = "tests.wsgi.apps:"


def test_workers_share_django_s_limit(tmp_path: Path, variables: dict[str, str]) -> None:
    with gunicorn(
        tmp_path / "log",
        f"{APPS}django_app",
        "--workers=2",
        "--threads=4",
        **variables,
        LIMITER_NAME="site",
    ) as (_, port):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(get, [f"http://{HOST}:{port}/hello"] * 60))
        other = get(f"http://{HOST}:{port}/hello", {"X-Forwarded-For": "203.0.113.1"})
        missing = get(f"http://{HOST}:{port}/nothing", {"X-Forwarded-For": "203.0.113.1"})
        broken = get(f"http://{HOST}:{port}/broken", {"X-Forwarded-For": "203.0.113.1"})
        nobody = get(f"http://{HOST}:{port}/hello", {"X-Forwarded-For": "nobody"})
    codes = [answer.status for answer in answers]
    denied = next(answer for answer in answers if answer.status == 429)

    assert (codes.count(200), codes.count(429)) == (20, 40)
    assert denied.headers["Content-Type"] == "application/problem+json"
    assert denied.headers["Cache-Control"] == "no-store"
    assert 1 <= int(denied.headers["Retry-After"]) <= 60
    assert json.loads(denied.text)["violated-policies"] == ["site"]
    assert other.headers["RateLimit-Policy"] == '"site";q=20;w=60'
    assert [other.headers["RateLimit"], missing.headers["RateLimit"]] == [
        '"site";r=19;t=60',
        '"site";r=18;t=60',
    ]
    assert (missing.status, broken.status) == (404, 500)
    assert (
        broken.headers["RateLimit"] == '"site";r=17;t=60'
    )  # Django's error page has the fields too
    assert (nobody.status, nobody.headers["Content-Type"]) == (400, "application/problem+json")


def test_a_stream_holds_a_lease_until_it_is_closed(
    tmp_path: Path, variables: dict[str, str], streams: Limiter
) -> None:
    with gunicorn(tmp_path / "log", f"{APPS}django_rules", "--threads=4", **variables) as (_, port):
        url = f"http://{HOST}:{port}"
        first, head = begin_http(port, "/stream")
        second, _ = begin_http(port, "/stream")

        assert "200 OK" in head
        assert 'RateLimit: "all";r=19;t=60, "streams";r=1' in head
        assert streams.peek(HOST).remaining == 0
        denied = get(f"{url}/stream")
        assert denied.status == 429
        assert json.loads(denied.text)["violated-policies"] == ["streams"]
        # The denial took nothing from the other rule, since one call checks all.
        assert get(f"{url}/hello").headers["RateLimit"].startswith('"all";r=17;')
        # Clients that disconnect long before the stream's end.
        first.close()
        second.close()
        until(lambda: streams.peek(HOST).remaining == 2, seconds=5)


def test_a_killed_worker_s_lease_expires(
    tmp_path: Path, variables: dict[str, str], streams: Limiter
) -> None:
    lease = 3.0
    with gunicorn(
        tmp_path / "log", f"{APPS}django_rules", "--threads=4", **variables, TEST_LEASE=str(lease)
    ) as (_, port):
        held = [begin_http(port, "/stream")[0] for _ in range(2)]
        until_renewed(streams, HOST)
        assert streams.peek(HOST).remaining == 0
        worker = int(held[0].recv(64).decode().split()[1])  # a chunk: its length, and the process
        os.kill(worker, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: streams.peek(HOST).remaining == 2)
        assert time.monotonic() - killed < lease + 1.0 + STALL
        for connection in held:
            connection.close()
        # The worker that replaced it has the whole capacity.
        again = [begin_http(port, "/stream") for _ in range(2)]
        assert all("200 OK" in head for _, head in again)
        for connection, _ in again:
            connection.close()


def test_behind_a_unix_socket(tmp_path: Path, variables: dict[str, str]) -> None:
    """The connection from nginx has no address; the header field has the client's."""
    path = tmp_path / "socket"
    own = {"LIMITER_LIMITS": "1/minute", "LIMITER_TRUSTED_PROXIES": "unix"}
    with gunicorn(
        tmp_path / "log", f"{APPS}django_app", f"--bind=unix:{path}", **{**variables, **own}
    ):
        until(lambda: listens(path))  # gunicorn binds it after the port

        def status(address: str | None) -> int:
            connection = http.client.HTTPConnection("localhost", timeout=10)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(path))
            headers = {"X-Forwarded-For": address} if address else {}
            connection.request("GET", "/hello", headers=headers)
            with connection.getresponse() as response:
                found = response.status
            connection.close()
            return found

        assert [status("198.51.100.1"), status("198.51.100.2")] == [200, 200]
        assert [status("192.0.2.1, 198.51.100.1"), status(None)] == [429, 400]


def test_no_reading_of_a_path_gets_past_its_limit(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    targets = ["/orders", "/orders#x", "/orders/7#x?y", "http://h/orders", "/orders/5%0A"]
    with gunicorn(tmp_path / "log", f"{APPS}flask_orders", **variables) as (_, port):
        found = served(port, targets)

    assert found == dict.fromkeys(targets, (200, 429))

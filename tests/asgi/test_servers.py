"""Real Django, Starlette and FastAPI applications under real uvicorn."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from limiter import Limiter
from service.demo.servers import HOST, free_port
from tests.asgi.support import uvicorn
from tests.service.support import ROOT, clean_environment, get
from tests.waiting import until
from tests.wsgi.support import begin_http, served

pytestmark = pytest.mark.slow

APPS = "tests.asgi.apps:"
ALL = ["django_app", "starlette_app", "fastapi_app"]


def chat(port: int, address: str) -> connect:
    """A websocket of the client with this address, by a client library."""
    headers = {"X-Forwarded-For": address}
    return connect(f"ws://{HOST}:{port}/chat", additional_headers=headers, proxy=None)


@pytest.mark.parametrize("app", ALL)
def test_rates_streams_and_websockets(
    tmp_path: Path, variables: dict[str, str], streams: Limiter, app: str
) -> None:
    """Workers share limits; a client that disconnects, or a server that stops, releases its leases."""
    workers = "--workers=2" if app == "starlette_app" else "--workers=1"
    with uvicorn(tmp_path / "log", f"{APPS}{app}", workers, **variables) as (child, port):
        url = f"http://{HOST}:{port}"
        held = [begin_http(port, "/stream") for _ in range(2)]
        assert all("200 OK" in head for _, head in held)
        # Without a middleware, only responses that FastAPI itself makes have the fields.
        if app != "fastapi_app":
            assert 'ratelimit: "all";r=19;t=60, "streams";r=1' in held[0][1]
        assert streams.peek(HOST).remaining == 0
        denied = get(f"{url}/stream")
        assert (denied.status, denied.headers["Content-Type"]) == (429, "application/problem+json")
        assert json.loads(denied.text)["violated-policies"] == ["streams"]
        for connection, _ in held:
            connection.close()
        until(lambda: streams.peek(HOST).remaining == 2)

        forwarded = {"X-Forwarded-For": "203.0.113.1"}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: get(f"{url}/hello", forwarded), range(60)))
        codes = [answer.status for answer in answers]
        assert (codes.count(200), codes.count(429)) == (20, 40)
        last = min(answers, key=lambda answer: (answer.status, answer.headers["RateLimit"]))
        assert last.headers["RateLimit"].startswith('"all";r=0;')
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.headers["Cache-Control"] == "no-store"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert get(f"{url}/hello", {"X-Forwarded-For": "nobody"}).status == 400
        if app != "django_app":
            check_websockets(app, port, streams)

        open_still, _ = begin_http(port, "/stream")
        assert streams.peek(HOST).remaining == 1
        child.signal(signal.SIGTERM)
        until(lambda: streams.peek(HOST).remaining == 2)
        open_still.close()
        child.process.wait(10)


def check_websockets(app: str, port: int, streams: Limiter) -> None:
    """A websocket holds a lease until its connection ends."""
    client = "203.0.113.2"
    with chat(port, client) as second:
        with chat(port, client) as first:
            first.send("hi")
            assert first.recv(timeout=10) == "hi"
            if app == "starlette_app":
                assert first.response is not None
                assert first.response.headers["RateLimit"] == '"all";r=18;t=60, "streams";r=0'
            with pytest.raises(InvalidStatus) as denied, chat(port, client):
                pass
        response = denied.value.response
        assert response.status_code == 429
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["Cache-Control"] == "no-store"
        assert json.loads(response.body or b"")["violated-policies"] == ["streams"]
        until(lambda: streams.peek(client).remaining == 1)
        second.socket.shutdown(socket.SHUT_RDWR)  # without a close frame
        until(lambda: streams.peek(client).remaining == 2)


#: Paths that once got past a limit of one; httptools ends a path at a #.
ORDERS = ["/orders", "/orders%0A", "/orders/5", "/orders/5%0A", "/%6frders%0a", "/orders/%0A"]


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_no_reading_of_a_path_gets_past_its_limit(
    tmp_path: Path, variables: dict[str, str], parser: str
) -> None:
    pytest.importorskip(parser)
    app = f"{APPS}orders_app"
    targets = [*ORDERS, "/orders/7#x", "/orders/7%23x"]
    targets += ["/orders#x", "http://h/orders"] if parser == "httptools" else []
    with uvicorn(tmp_path / "log", app, f"--http={parser}", **variables) as (_, port):
        found = served(port, targets)

    assert found == dict.fromkeys(targets, (200, 429))


@pytest.mark.parametrize(
    ("options", "cost", "warnings"),
    [((), 1, 1), (("--no-proxy-headers",), 5, 0), (("--forwarded-allow-ips=10.0.0.1",), 5, 0)],
)
def test_a_cost_by_a_header_under_uvicorn(
    tmp_path: Path, variables: dict[str, str], options: tuple[str, ...], cost: int, warnings: int
) -> None:
    """By default uvicorn hides the proxy that sends the cost; one warning says so at the start."""
    log = tmp_path / "log"
    fields = {"X-Forwarded-For": "203.0.113.1", "X-Cost": "5"}
    with uvicorn(log, f"{APPS}priced_app", *options, **variables) as (_, port):
        at_the_start = log.read_text()
        answers = [get(f"http://{HOST}:{port}/hello", fields) for _ in range(2)]
    left = [int(answer.headers["RateLimit"].split(";")[1][2:]) for answer in answers]

    assert left == [20 - cost, 20 - 2 * cost]
    assert log.read_text().count("--no-proxy-headers") == warnings
    assert at_the_start.count("x-cost") == warnings


def _answers(url: str) -> bool:
    """Whether a server answers; another program may have had its port until now."""
    try:
        return get(url).status == 200
    except OSError:
        return False


@pytest.mark.parametrize("started_by", ["run(app)", "run(app, proxy_headers=False)"])
def test_a_cost_by_a_header_where_a_program_starts_uvicorn(
    variables: dict[str, str], started_by: str
) -> None:
    """The command line does not show it, so the first request with a too small cost causes the warning."""
    port = free_port()
    code = (
        "import uvicorn; from functools import partial; from tests.asgi.apps import priced_app as app;"
        f"run = partial(uvicorn.run, port={port}, log_level='warning'); {started_by}"
    )
    fields = {"X-Forwarded-For": "203.0.113.1", "X-Cost": "5"}
    environment = clean_environment(**variables)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            until(lambda: _answers(f"http://{HOST}:{port}/hello"))
            for _ in range(2):
                get(f"http://{HOST}:{port}/hello", fields)
        finally:
            child.terminate()
            said = child.communicate(timeout=10)[1]

    assert said.count("--no-proxy-headers") == (started_by == "run(app)")

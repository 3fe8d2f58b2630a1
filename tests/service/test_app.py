"""The limited route, also while its limit cannot be checked, and the health checks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from limiter import Limiter
from limiter.server import logs
from service.demo.servers import HOST, Server, free_port
from tests.service.conftest import MakeApp

HELLO = "/demo-service/hello"

Make = Callable[..., FlaskClient]


@pytest.fixture
def make(make_app: MakeApp) -> Make:
    """Make an application by LIMITER_*, and a client that calls from 127.0.0.1, as Traefik does."""

    def make(instance: str | None = None, **variables: str) -> FlaskClient:
        return make_app(instance, **{"LIMITS": "3/minute", **variables}).test_client()

    return make


def test_hello_has_the_instance_and_what_is_left(make: Make) -> None:
    answer = make("app-1").get(HELLO)

    assert answer.status_code == 200
    assert answer.get_json() == {"message": "Hello!", "instance": "app-1"}
    assert answer.headers["RateLimit-Policy"].endswith(";q=3;w=60")
    assert answer.headers["RateLimit"].endswith(";r=2;t=60")
    assert "Retry-After" not in answer.headers


def test_the_instance_is_named_after_its_host_by_default(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")

    assert make().get(HELLO).get_json()["instance"] == "box"


def test_two_instances_share_a_limit_and_have_responses_of_one_length(make: Make) -> None:
    instances = [make("app-1"), make("app-2")]
    answers = [instances[number % 2].get(HELLO) for number in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert len({len(answer.data) for answer in answers[:3]}) == 1
    assert len({answer.data for answer in answers[3:]}) == 1


def test_other_programs_spend_the_same_units(make: Make) -> None:
    """The decision service's limiter has the same name."""
    client = make(ALGORITHM="gcra")
    assert client.get(HELLO).status_code == 200

    with Limiter.from_env() as limiter:
        assert limiter.hit("127.0.0.1").remaining == 1
    assert client.get(HELLO).headers["RateLimit"].startswith('"default";r=0;')


def test_a_policy_file_decides_about_the_route_and_about_no_other(
    make_by_file: Callable[..., Flask],
) -> None:
    client = make_by_file(
        "[policies.few]\nlimits = '2/minute'\n"
        "[policies.work]\nlimits = '9/minute'\nmatch.paths = ['/demo-service/**']\n"
        "[policies.held]\nlimits = { algorithm = 'concurrency', limit = 1, lease = 30 }\n"
    ).test_client()
    answers = []
    for _ in range(3):
        with client.get(HELLO) as answer:  # its end releases the lease
            answers.append(answer)

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert '"work";q=9;w=60' in answers[0].headers["RateLimit-Policy"]
    assert answers[2].mimetype == "application/problem+json"
    for path in ("/healthz", "/readyz", "/page/state"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers.get("RateLimit")) == (200, None)


def test_the_default_is_100_a_minute(make: Make) -> None:
    answer = make(LIMITS="").get(HELLO)

    assert answer.headers["RateLimit-Policy"].endswith(";q=100;w=60")


@pytest.mark.parametrize(("trusted", "expected"), [("", 200), ("10.0.0.0/8", 429)])
def test_only_a_trusted_proxy_reports_the_client(make: Make, trusted: str, expected: int) -> None:
    client = make(LIMITS="1/minute", TRUSTED_PROXIES=trusted)

    def status(forwarded_for: str) -> int:
        return client.get(HELLO, headers={"X-Forwarded-For": forwarded_for}).status_code

    assert status("203.0.113.1") == 200
    assert status("203.0.113.2") == expected
    assert status("198.51.100.1, 203.0.113.1") == 429


def test_nothing_else_is_limited(make: Make) -> None:
    client = make(LIMITS="1/minute")
    for path in ("/healthz", "/readyz", "/demo-service/nothing"):
        answers = [client.get(path) for _ in range(3)]
        assert len({answer.status_code for answer in answers}) == 1
        assert "RateLimit" not in answers[0].headers
    assert client.options(HELLO).status_code == 200  # Flask answers it by itself
    assert client.post(HELLO).status_code == 405

    assert client.get(HELLO).status_code == 200


def test_ready_and_alive(make: Make) -> None:
    client = make()

    assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)


def test_a_process_that_drains_is_alive_and_not_ready(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make()
    monkeypatch.setattr("service.health.is_draining", lambda: True)

    assert client.get("/healthz").status_code == client.get(HELLO).status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.text.partition(":")[0]) == (503, "draining")


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503), ("raise", 503)])
def test_a_store_that_is_gone(make: Make, on_error: str, status: int) -> None:
    """The response has no header fields of the limit, since its state is unknown."""
    client = make(STORE=f"redis://{HOST}:{free_port()}/0", ON_ERROR=on_error, TIMEOUT="0.2")
    answer = client.get(HELLO)

    assert answer.status_code == status
    for field in ("RateLimit", "RateLimit-Policy", "Retry-After"):
        assert field not in answer.headers
    if status == 503:
        assert json.loads(answer.data)["type"].endswith("#temporary-reduced-capacity")
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 200  # the fallback decides, as configured
    assert ready.text.startswith("ready; the store does not decide")
    assert ready.text.endswith(f": {on_error}\n")


def test_without_a_store_each_process_decides_for_its_share(make: Make) -> None:
    """The fields and the 429 are the same; ``/readyz`` reports the fallback."""
    client = make(
        STORE=f"redis://{HOST}:{free_port()}/0", LIMITS="6/minute", LOCAL_SHARE="2", TIMEOUT="0.2"
    )
    answers = [client.get(HELLO) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert answers[3].headers["Retry-After"] == "60"
    ready = client.get("/readyz")
    assert (ready.status_code, ready.text.rpartition(": ")[2]) == (200, "local\n")


def test_a_store_that_refuses_is_an_error_whatever_the_fallback(
    make: Make, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """Operators must see it: an error is logged, but not for every request."""
    request.addfinalizer(logs.calm())
    with Server(password="secret") as server:  # noqa: S106
        client = make(STORE=f"redis://{HOST}:{server.port}/0", ON_ERROR="allow", TIMEOUT="5")
        with caplog.at_level(logging.ERROR):
            answers = [client.get(HELLO) for _ in range(20)]
        ready = client.get("/readyz")

    assert {answer.status_code for answer in answers} == {503}
    assert len([record for record in caplog.records if "StoreRefused" in record.message]) == 1
    assert ready.status_code == 503

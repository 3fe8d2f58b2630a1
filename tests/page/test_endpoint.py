"""The page, and its routes: they count for the visitor alone, and are limited."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from limiter.policies import ALGORITHMS
from service.demo.servers import HOST, Server, free_port
from service.page import OWN, SHOWN, content_security_policy
from tests.service.conftest import MakeApp

Visitor = dict[str, str]
ALICE: Visitor = {"X-Forwarded-For": "203.0.113.1"}
BOB: Visitor = {"X-Forwarded-For": "203.0.113.2"}


@pytest.fixture
def client(make_app: MakeApp) -> FlaskClient:
    """A client that calls from 127.0.0.1, as Traefik does."""
    return make_app().test_client()


def hit(client: FlaskClient, policy: str, visitor: Visitor = ALICE, more: str = "") -> int:
    """Send a request, and return its status."""
    return client.post(f"/page/hit?policy={policy}{more}", headers=visitor).status_code


def left(client: FlaskClient, visitor: Visitor = ALICE) -> dict[str, int]:
    """Return a visitor's state, as the page reads it."""
    found = client.get("/page/state", headers=visitor).get_json()["policies"]
    return {one["algorithm"]: one["state"]["remaining"] for one in found}


def test_the_page_is_one_file_that_loads_no_other(client: FlaskClient) -> None:
    answer = client.get("/")

    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert re.findall(r"""(?:src|href)=["']?(?!data:)[^"'>]+""", answer.text) == []
    assert re.findall(r"url\((?!#)|@import|\bimport\(", answer.text) == []
    assert " style=" not in answer.text
    assert not re.search(r"\son[a-z]+=", answer.text)


def test_a_browser_may_run_the_page_and_nothing_else(client: FlaskClient) -> None:
    answer = client.get("/")
    said = answer.headers["Content-Security-Policy"]

    assert said == content_security_policy(answer.text)
    assert said.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in said
    assert said.count("'sha256-") == 2
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    # hash of "<script>1</script>", by `openssl dgst -sha256 -binary | base64`
    assert "'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='" in content_security_policy(
        "<script>1</script>"
    )


def test_it_shows_every_algorithm(client: FlaskClient) -> None:
    told = re.findall(r'^  (\w+): \["', client.get("/").text, re.MULTILINE)

    assert told == list(SHOWN)
    assert set(SHOWN) == {*ALGORITHMS, "concurrency"}
    assert all(name == one.policy.algorithm for name, one in SHOWN.items())


@pytest.mark.parametrize("name", SHOWN)
def test_a_request_is_limited_by_the_policy_that_it_names(client: FlaskClient, name: str) -> None:
    limit = SHOWN[name].policy.limit
    answers = [client.post(f"/page/hit?policy={name}", headers=ALICE) for _ in range(limit + 1)]
    first, last = answers[0], answers[-1]

    assert [answer.status_code for answer in answers] == [200] * limit + [429]
    assert first.headers["RateLimit"].startswith(f'"{name}";r={limit - 1}')
    assert first.headers["RateLimit-Policy"].startswith(f'"{name}";q={limit};')
    assert "Retry-After" not in first.headers
    assert first.get_json()["decision"]["remaining"] == limit - 1
    assert last.mimetype == "application/problem+json"
    # (11 for the sliding window: at its end all ten still count in full)
    assert 1 <= int(last.headers["Retry-After"]) <= 11
    said = json.loads(last.data)
    assert said["violated-policies"] == [name]
    assert not said["decision"]["allowed"]
    assert {answer.get_json(force=True)["answered_by"] for answer in answers} == {"app"}
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers)
    assert left(client)[name] in (0, 1)  # a bucket may have been refilled by one
    others = {other: SHOWN[other].policy.limit for other in SHOWN if other != name}
    assert {other: count for other, count in left(client).items() if other != name} == others


def test_the_state_is_only_read(client: FlaskClient) -> None:
    hit(client, "fixed_window")

    assert [left(client)["fixed_window"] for _ in range(3)] == [9, 9, 9]
    said = client.get("/page/state", headers=ALICE).get_json()
    assert said["subject"] == "203.0.113.1"
    assert said["answered_by"] == "app"
    assert said["policies"][1]["algorithm"] == "fixed_window"
    assert 9 < said["policies"][1]["state"]["reset_after"] <= 10
    bounds = {one["algorithm"]: one["bound"] for one in said["policies"]}
    assert bounds == bounds | {
        "sliding_log": 10,
        "fixed_window": 20,
        "sliding_window": 18,
        "token_bucket": 20,
        "gcra": 20,
        "leaky_bucket": 20,
        "concurrency": 5,
    }


def test_no_visitor_spends_or_sees_what_is_anothers(client: FlaskClient) -> None:
    """The connection and the trusted proxies identify the visitor, whatever else the request has."""
    claimed = "&key=203.0.113.2&subject=203.0.113.2"
    statuses = [hit(client, "sliding_log", ALICE, claimed) for _ in range(12)]
    spoofed = {"X-Forwarded-For": "203.0.113.2, 203.0.113.1"}

    assert statuses == [200] * 10 + [429] * 2
    assert hit(client, "sliding_log", spoofed) == 429
    assert left(client, BOB)["sliding_log"] == 10
    body = {"key": "203.0.113.2"}
    client.post("/page/hit?policy=gcra", json=body, headers=ALICE)
    assert left(client, BOB)["gcra"] == 10
    answer = client.get("/page/state?key=203.0.113.1&subject=203.0.113.1", headers=BOB)
    assert answer.get_json()["subject"] == "203.0.113.2"


def test_the_visitor_is_identified_as_for_other_policies(
    make_by_file: Callable[..., Flask],
) -> None:
    """The header field that the policy file names has the visitor's address."""
    text = 'address_from = "x-real-ip"\n[policies.api]\nlimits = "1/minute"\n'
    client = make_by_file(text).test_client()
    headers = {"X-Forwarded-For": "203.0.113.1", "X-Real-IP": "203.0.113.9"}

    assert client.get("/page/state", headers=headers).get_json()["subject"] == "203.0.113.9"
    assert hit(client, "gcra", headers) == 200
    assert left(client, {"X-Real-IP": "203.0.113.9"})["gcra"] == 9


def test_the_application_s_policies_do_not_share_state_with_the_page(make_app: MakeApp) -> None:
    client = make_app(LIMITS="5/minute", NAME="page.gcra", ALGORITHM="gcra").test_client()
    for _ in range(11):
        hit(client, "gcra")
    answer = client.get("/demo-service/hello", headers=ALICE)

    assert answer.headers["RateLimit"].startswith('"page.gcra";r=4;')
    assert answer.headers["RateLimit-Policy"] == '"page.gcra";q=5;w=60'


def test_no_policy_of_a_file_shares_what_is_the_pages(make_by_file: Callable[..., Flask]) -> None:
    """A policy of any name, also with the same numbers, has other keys."""
    app = make_by_file(
        "default = 'page'\n"
        f"[policies.page]\nlimits = '{OWN.limit}/second burst {OWN.burst}'\nalgorithm = 'token_bucket'\n"
        "[policies.'page.gcra']\nlimits = '10/10s'\nalgorithm = 'gcra'\n"
    )
    client = app.test_client()
    for _ in range(10):
        hit(client, "gcra")

    for name, most in (("page", OWN.burst), ("page.gcra", 10)):
        (rule,) = app.extensions["policies"].guard_for(name).rules
        assert rule.limiter.peek("203.0.113.1").remaining == most


@pytest.mark.parametrize("path", ["/", "/page/state"])
def test_an_unidentified_visitor_is_refused(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers={"X-Forwarded-For": "unknown"})

    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")


def test_the_page_is_limited_itself(client: FlaskClient) -> None:
    """Its own limit counts requests that its policies deny, and its denials take nothing from them."""
    answers = [client.post("/page/hit?policy=gcra", headers=ALICE) for _ in range(OWN.burst)]
    last = client.get("/", headers=ALICE)
    while last.status_code == 200:  # units that were refilled meanwhile
        last = client.get("/", headers=ALICE)

    assert {answer.status_code for answer in answers} == {200, 429}
    assert all("decision" in json.loads(answer.data) for answer in answers)
    assert last.status_code == 429
    said = json.loads(last.data)
    assert said["violated-policies"] == [".page"]
    assert "decision" not in said
    assert last.headers["Retry-After"] == "1"
    assert last.headers["RateLimit-Policy"] == '".page";q=300;w=6'
    assert client.get("/", headers=BOB).status_code == 200
    assert client.get("/healthz", headers=ALICE).status_code == 200


def test_other_requests_are_refused(client: FlaskClient) -> None:
    assert client.get("/page/hit?policy=gcra").status_code == 405
    assert client.post("/").status_code == client.post("/page/state").status_code == 405
    assert client.get("/page").status_code == client.get("/page/").status_code == 404
    for query in ("", "?policy=", "?policy=page", "?policy=default", "?policy=gcra%00"):
        answer = client.post(f"/page/hit{query}")
        assert answer.status_code == 422, query
        assert "expected sliding_log" in json.loads(answer.data)["detail"]


def _unavailable(answer: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(answer.data)
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert said["type"].endswith("#temporary-reduced-capacity")
    assert "RateLimit" not in answer.headers
    return said


def test_without_a_store_the_page_has_an_error_and_no_state(make_app: MakeApp) -> None:
    client = make_app(STORE=f"redis://{HOST}:{free_port()}/0", TIMEOUT="0.2").test_client()

    assert client.get("/").status_code == 200
    for name in SHOWN:
        said = _unavailable(client.post(f"/page/hit?policy={name}"))
        assert "decision" not in said
    said = _unavailable(client.get("/page/state"))
    assert [one["state"] for one in said["policies"]] == [None] * len(SHOWN)


def test_a_store_that_refuses_is_no_decision(make_app: MakeApp) -> None:
    with Server(password="secret") as server:  # noqa: S106
        client = make_app(STORE=f"redis://{HOST}:{server.port}/0").test_client()

        _unavailable(client.post("/page/hit?policy=gcra"))
        assert client.get("/page/state").status_code == 503

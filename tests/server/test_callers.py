"""Callers of ``/v1``: trusted networks, tokens, and wrong tokens."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from limiter import InvalidSetting
from limiter.server import callers, logs
from tests.server.client import Answer, Client
from tests.server.conftest import Make
from tests.server.test_api import problem
from tests.server.test_operators import BEARER, TOKEN

API_TOKEN = "another-token-of-length"  # noqa: S105
TRUSTED = "10.0.0.0/8,192.0.2.1/32"
STRANGER = "203.0.113.66"

#: All calls at /v1: a method, a path, and a body.
CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/check/default", {"key": "victim"}),
    ("POST", "/v1/hold/default", {"key": "victim"}),
    ("DELETE", "/v1/hold/default", {"key": "victim", "lease": "x"}),
    ("POST", "/v1/refund/default", {"key": "victim"}),
    ("POST", "/v1/reserve", {"id": "x", "items": [{"policy": "default", "key": "victim"}]}),
    ("DELETE", "/v1/reserve", {"id": "x", "items": [{"policy": "default", "key": "victim"}]}),
    (
        "POST",
        "/v1/settle",
        {"id": "x", "items": [{"policy": "default", "key": "victim", "cost": 0}]},
    ),
    ("GET", "/v1/openapi.json", None),
    ("GET", "/v1/nothing", None),
    ("GET", "/v1/check/default", None),
]


def ask(client: Client, peer: str, call: tuple[str, str, Any] = CALLS[0], **fields: str) -> Answer:
    method, path, body = call
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return client.ask(method, path, json=body, headers=headers, peer=peer)


@pytest.fixture
def client(make_app: Make) -> Client:
    return make_app(TRUSTED_PROXIES=TRUSTED, API_TOKEN=API_TOKEN, LIMITS="5/minute").client


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(call[:2]))
def test_a_stranger_is_not_answered(client: Client, call: tuple[str, str, Any]) -> None:
    """Without this check, it could charge others, and refund itself, in 20 of 20 tries."""
    answers = [ask(client, STRANGER, call) for _ in range(20)]

    for answer in answers:
        assert "trusted network" in problem(answer, 403)["detail"]


@pytest.mark.parametrize("root", ["", "/", "/base", "/base/", "/v1", "/v1/", "/v1/check"])
def test_a_root_path_opens_nothing(client: Client, root: str) -> None:
    """A server that has one puts it before each path; the check once missed ``/v1`` behind it."""
    call = {"json": {"key": "victim"}, "peer": STRANGER, "scope": {"root_path": root}}
    for path in ("/v1/check/default", "/v1/refund/default", "/v1/nothing"):
        for sent in (path, f"{root}{path}"):
            problem(client.post(sent, **call), 403)
    for path in ("/", "/x", "/v1", "/healthz/", "//healthz"):
        assert client.post(f"{root}{path}", **call).status in (403, 404)


@pytest.mark.parametrize("root", ["", "/base", "/api/v1/limiter"])
def test_a_probe_may_come_from_any_address(client: Client, root: str) -> None:
    for path in ("/healthz", "/readyz"):
        answer = client.get(f"{root}{path}", peer=STRANGER, scope={"root_path": root})
        assert answer.status == 200


@pytest.mark.parametrize("peer", ["10.1.2.3", "192.0.2.1"])
def test_a_caller_in_a_trusted_network_is_answered(client: Client, peer: str) -> None:
    assert ask(client, peer).status == 200
    assert ask(client, peer, X_Forwarded_For="10.9.9.9").status == 200
    assert ask(client, peer, Authorization="Bearer wrong-but-nobody-asked").status == 200


def test_a_caller_with_the_token_is_answered_wherever_it_is(client: Client, make_app: Make) -> None:
    bearer = f"Bearer {API_TOKEN}"
    assert [ask(client, STRANGER, Authorization=bearer).status for _ in range(6)] == [
        *[200] * 5,
        429,
    ]
    assert ask(client, STRANGER, Authorization=BEARER["Authorization"]).status == 403
    without = make_app(TRUSTED_PROXIES=TRUSTED, API_TOKEN="").client
    assert ask(without, STRANGER, Authorization=bearer).status == 403
    assert ask(without, STRANGER, Authorization="Bearer ").status == 403


@pytest.mark.parametrize(
    "forwarded_for", [STRANGER, f"10.1.1.1, {STRANGER}", f"{STRANGER}, 10.1.1.1", "", "unknown"]
)
def test_a_proxy_that_routes_these_paths_makes_no_client_trusted(
    client: Client, forwarded_for: str
) -> None:
    problem(ask(client, "10.1.2.3", X_Forwarded_For=forwarded_for), 403)


def test_a_proxy_with_another_address_field_makes_no_client_trusted(make_by_file: Make) -> None:
    text = "address_from = 'x-real-ip'\n[policies.default]\nlimits = '5/minute'\n"
    client = make_by_file(text, TRUSTED_PROXIES=TRUSTED).client

    assert ask(client, "10.1.2.3").status == 200
    problem(ask(client, "10.1.2.3", X_Real_Ip=STRANGER), 403)
    problem(ask(client, "10.1.2.3", X_Real_Ip="10.1.1.1", X_Forwarded_For=STRANGER), 403)


def test_the_token_of_callers_opens_nothing_else(make_app: Make) -> None:
    app = make_app(TRUSTED_PROXIES=TRUSTED, API_TOKEN=API_TOKEN, ADMIN_TOKEN=TOKEN)
    bearer = {"Authorization": f"Bearer {API_TOKEN}"}
    asked = {**bearer, "X-Forwarded-For": STRANGER}
    problem(app.client.get("/forward-auth", headers=asked, peer=STRANGER), 403)
    for path in ("/v1/policies", "/v1/keys/u"):
        problem(app.operators.get(path, headers=bearer), 401)


def test_tokens_are_compared_in_constant_time(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the function that exists for it, which gets the whole of both tokens."""
    compared = []

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return False

    monkeypatch.setattr(callers.hmac, "compare_digest", compare)
    app = make_app(TRUSTED_PROXIES=TRUSTED, API_TOKEN=API_TOKEN, ADMIN_TOKEN=TOKEN)
    for token in ("x", API_TOKEN):
        assert ask(app.client, STRANGER, Authorization=f"Bearer {token}").status == 403
    problem(app.operators.get("/v1/policies", headers=BEARER), 401)
    expected = API_TOKEN.encode()
    assert compared == [(b"x", expected), (expected, expected), (TOKEN.encode(), TOKEN.encode())]


def test_wrong_tokens_are_slowed_down(make_app: Make) -> None:
    """After too many wrong tokens of an address, its tokens are not checked; those of others are."""
    app = make_app(TRUSTED_PROXIES=TRUSTED, API_TOKEN=API_TOKEN, ADMIN_TOKEN=TOKEN)
    client, operator = app.client, app.operators
    policies: tuple[str, str, Any] = ("GET", "/v1/policies", None)
    for asked, call, right, refused in (
        (client, CALLS[0], API_TOKEN, 403),
        (operator, policies, TOKEN, 401),
    ):
        good = {"Authorization": f"Bearer {right}"}
        statuses = [ask(asked, STRANGER, call, **good).status for _ in range(12)]
        assert statuses == [200] * 12  # correct tokens do not count
        wrong = [
            ask(asked, STRANGER, call, Authorization=f"Bearer {number}").status
            for number in range(12)
        ]
        assert wrong == [refused] * 10 + [429] * 2
        slowed = ask(asked, STRANGER, call, **good)
        problem(slowed, 429)
        assert 1 <= int(slowed.headers["Retry-After"]) <= 60
        assert ask(asked, "203.0.113.67", call, **good).status == 200
        # Clients behind one proxy are counted separately.
        behind = {**good, "X_Forwarded_For": STRANGER}
        assert ask(asked, "10.1.1.1", call, **behind).status == 429
        behind["X_Forwarded_For"] = "203.0.113.67"
        assert ask(asked, "10.1.1.1", call, **behind).status == 200
        # All IPv6 addresses of one host are counted together.
        for number in range(11):
            answer = ask(asked, f"2001:db8::{number}", call, Authorization="Bearer wrong")
        assert answer.status == 429
        assert ask(asked, STRANGER, call).status == refused  # a call without a token does not count


def test_wrong_tokens_leave_a_line_and_no_flood(
    make_app: Make, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    app = make_app(TRUSTED_PROXIES=TRUSTED, API_TOKEN=API_TOKEN, ADMIN_TOKEN=TOKEN)
    request.addfinalizer(logs.calm())
    with caplog.at_level(logging.DEBUG, "limiter"):
        for number in range(50):
            shown = {"Authorization": f"Bearer secret-{number}"}
            ask(app.client, f"203.0.113.{number}", **shown)
            ask(app.operators, f"203.0.113.{number}", ("GET", "/v1/policies", None), **shown)
    lines = [json.loads(logs.AsJson().format(record)) for record in caplog.records]

    assert [(line["level"], line["message"], line["address"]) for line in lines] == [
        ("warning", f"a caller showed a token that is not {variable}", "203.0.113.0")
        for variable in ("LIMITER_API_TOKEN", "LIMITER_ADMIN_TOKEN")
    ]
    assert "secret" not in str(lines)


def test_resets_and_refunds_leave_a_line_each(
    make_by_file: Make, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """These lines are never throttled."""
    text = "[policies.api]\nlimits = '9/minute'\n[policies.other]\nlimits = '9/minute'\n"
    app = make_by_file(text, ADMIN_TOKEN=TOKEN)
    request.addfinalizer(logs.calm())
    with caplog.at_level(logging.INFO, "limiter"):
        for _ in range(3):
            app.client.post("/v1/refund/api", json={"key": "canary", "cost": 2})
            app.operators.post("/v1/reset/canary", headers=BEARER)
        app.operators.post("/v1/reset/canary?policy=nobody", headers=BEARER)
    lines = [json.loads(logs.AsJson().format(record)) for record in caplog.records]

    assert [(line["message"], line["policy"], line.get("cost")) for line in lines] == [
        ("a charge was refunded", "api", 2),
        ("an operator reset a subject", "api", None),
        ("an operator reset a subject", "other", None),
    ] * 3
    assert {(line["level"], line["peer"], len(line["subject"])) for line in lines} == {
        ("info", "127.0.0.1", 8)
    }
    assert len({line["subject"] for line in lines}) == 1
    assert "canary" not in str(lines)


@pytest.mark.parametrize("token", ["short", "with blanks in between", "\xe9" * 20])
@pytest.mark.parametrize("variable", ["API_TOKEN", "ADMIN_TOKEN"])
def test_a_token_that_could_be_guessed_or_not_be_sent(
    make_app: Make, variable: str, token: str
) -> None:
    with pytest.raises(InvalidSetting, match=f"LIMITER_{variable} is set to") as caught:
        make_app(**{variable: token})
    assert token not in str(caught.value)


def test_the_tokens_are_two(make_app: Make) -> None:
    with pytest.raises(InvalidSetting, match="LIMITER_API_TOKEN is the same as") as caught:
        make_app(API_TOKEN=TOKEN, ADMIN_TOKEN=TOKEN)
    assert TOKEN not in str(caught.value)

"""Decisions, leases and refunds for services in any language."""

from __future__ import annotations

import json
import socket
from functools import partial
from time import monotonic
from typing import Any

import pytest

from limiter import Limiter
from limiter.policies import ALGORITHMS
from limiter.server.bodies import MOST_BYTES
from service.demo.servers import HOST, Server, free_port
from tests.server.client import Answer, Client
from tests.server.conftest import Make
from tests.waiting import until

JSON = {"Content-Type": "application/json"}

POLICIES = """
[policies.api]
limits = "3/minute"
exempt.keys = ["friend"]
[policies.api.overrides]
partner = "5/minute"

[policies.shadow]
limits = "1/minute"
shadow = true

[policies.jobs]
limits = [{ algorithm = "concurrency", limit = 2, lease = 30 }, "3/minute"]
"""


#: The algorithms that count units.
RATES = sorted(name for name, policy in ALGORITHMS.items() if not policy.leases)


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """Return the problem in a response."""
    found: dict[str, Any] = answer.json()
    assert answer.status == found["status"] == status, found
    assert answer.media_type == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance"} <= set(found)
    return found


#: Policies with leases alone, one of them in shadow mode.
HOLDS = """
[policies.one]
limits = { algorithm = "concurrency", limit = 1, lease = 30 }

[policies.shadow]
limits = { algorithm = "concurrency", limit = 1, lease = 30 }
shadow = true
"""


@pytest.fixture
def client(make_by_file: Make) -> Client:
    return make_by_file(POLICIES).client


def check(client: Client, policy: str = "api", **body: Any) -> Answer:
    return client.post(f"/v1/check/{policy}", json=body)


def test_a_check_decides_and_returns_what_is_left(client: Client) -> None:
    answers = [check(client, key="u", cost=2), check(client, key="u", cost=2)]

    assert [answer.status for answer in answers] == [200, 429]
    first = answers[0].json()
    assert first["allowed"] is True
    assert first["decision"]["remaining"] == 1
    assert first["decision"]["each"][0]["policy"]["limit"] == 3
    assert answers[0].headers["RateLimit"] == '"api";r=1;t=60'
    denied = problem(answers[1], 429)
    assert denied["violated-policies"] == ["api"]
    assert denied["decision"]["remaining"] == 1
    assert int(answers[1].headers["Retry-After"]) in (59, 60)
    assert answers[1].headers["Cache-Control"] == "no-store"


def test_a_whole_number_may_have_a_point(client: Client) -> None:
    assert check(client, key=7.0, cost=2.0).status == 200
    assert check(client, key=7, cost=2).status == 429


def test_a_peek_takes_nothing(client: Client) -> None:
    assert check(client, key="u", cost=3, peek=True).status == 200
    assert check(client, key="u", cost=3).status == 200
    assert problem(check(client, key="u", peek=True), 429)["decision"]["remaining"] == 0


def test_the_library_has_the_same_subjects(make_app: Make, store: str, subject: str) -> None:
    client = make_app(LIMITS="3/minute", PREFIX=subject, NAME="shared").client
    limiter = Limiter("3/minute", store=store, prefix=subject, name="shared")
    limiter.hit("user:42")
    limiter.hit(("user", 42))

    for key in ("user:42", ["user", 42], ["user", "42"]):
        left = check(client, "shared", key=key, peek=True).json()["decision"]["remaining"]
        assert left == 2, key


def test_a_batch_is_decided_in_order_and_independently(client: Client) -> None:
    checks = [
        {"key": "u", "cost": 2},
        {"key": "u", "cost": 2},
        {"key": "u"},
        {"key": "u", "cost": 4},
        {"key": ""},
        {"key": "friend", "cost": 9},
        {"key": "partner", "cost": 5},
    ]
    answer = check(client, checks=checks)
    results = answer.json()["results"]

    assert answer.status == 200
    assert [one["status"] for one in results] == [200, 429, 200, 422, 422, 200, 200]
    assert results[5] == {"status": 200, "allowed": True, "decision": None}
    assert check(client, checks=[{"key": n} for n in range(100)]).status == 200


@pytest.mark.parametrize("algorithm", RATES)
def test_a_batch_decides_as_single_checks_do(make_app: Make, algorithm: str) -> None:
    client = make_app(ALGORITHM=algorithm, LIMITS="9/hour", DENIAL_CACHE="0").client
    costs = [2, 2, 2, 1, 1, 3, 1, 1, 9, 1]
    single = [check(client, "default", key="single", cost=cost) for cost in costs]
    batch = check(
        client,
        "default",
        checks=[{"key": key, "cost": cost} for cost in costs for key in ("u", "v", "w")],
    ).json()["results"]

    expected = [(each.status, each.json()["decision"]["remaining"]) for each in single]
    assert [status for status, _ in expected].count(200) == 6
    for subject in range(3):
        results = batch[subject::3]
        assert [(one["status"], one["decision"]["remaining"]) for one in results] == expected


PLANS = """
[policies.api]
limits = "10/minute"
class = { header = "X-Priority", low = 0.8, high = 1.0 }
[policies.api.plans.gold]
limits = "20/minute"

[policies.one]
limits = { algorithm = "concurrency", limit = 10, lease = 30 }
class = { header = "X-Priority", low = 0.8, high = 1.0 }
"""


def test_a_caller_names_a_plan_and_a_class(make_by_file: Make) -> None:
    """Of the plan's limit, each class has its share; other names count as no plan and the lowest class."""
    client = make_by_file(PLANS).client
    gold = {"plan": "gold", "class": "high"}
    for named, limit in (
        ({}, 8),
        ({"plan": None, "class": None}, 8),
        ({"plan": "lead", "class": "?"}, 8),
        ({"class": "high"}, 10),
        ({"plan": "gold"}, 16),
        (gold, 20),
    ):
        for number in range(2):
            answer = check(client, key="u", peek=True, cost=limit + number, **named)
            assert answer.status == (422 if number else 200), named
    assert check(client, key="u", cost=20, **gold).status == 200
    refund = client.post("/v1/refund/api", json={"key": "u", "cost": 20, "plan": "gold"})
    assert refund.json() == {"refunded": True}
    batch = [{"key": "u", "cost": 1}, {"key": "u", "cost": 12, **gold}, {"key": "u"}]
    assert [one["status"] for one in check(client, checks=batch).json()["results"]] == [
        200,
        200,
        429,
    ]
    for wrong in (1, True, [], {}, "x" * 65):
        for name in ("plan", "class"):
            assert problem(check(client, key="u", **{name: wrong}), 422)["detail"].startswith(name)


def test_a_lease_of_a_high_class_is_renewed_and_released_by_any(make_by_file: Make) -> None:
    client = make_by_file(PLANS).client
    problem(hold(client, "a", cost=9), 422)
    assert hold(client, "a", cost=9, **{"class": "high"}).status == 200
    assert hold(client, "a", cost=9, renew=True).status == 200
    assert release(client, "a", cost=9).json() == {"released": 9}


@pytest.mark.parametrize("checks", [[], [{"key": "u"}] * 101, {}, None, 1])
def test_a_batch_has_its_bounds(client: Client, checks: Any) -> None:
    problem(check(client, checks=checks), 422)


def test_shadow_mode_denies_nothing(client: Client) -> None:
    answers = [check(client, "shadow", key="u") for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.json()["decision"]["allowed"] for answer in answers] == [True, False]
    assert "RateLimit" not in answers[0].headers
    assert check(client, "shadow", key="u", peek=True).status == 200
    for peek in (False, True):  # of a cost that the policy never admits
        dear = check(client, "shadow", key="dear", cost=2, peek=peek)
        assert dear.json() == {"allowed": True, "decision": None}


@pytest.mark.parametrize("on_error", ["local", "allow", "deny", "raise"])
def test_shadow_mode_denies_nothing_without_a_store(
    make_by_file: Make, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "limiter.server.checks.BATCH_TIMEOUT", 0
    )  # a silent store is asked once in a batch
    gone = {"STORE": f"redis://{HOST}:{free_port()}/0", "TIMEOUT": "0.05", "ON_ERROR": on_error}
    client = make_by_file(POLICIES, **gone).client
    asked = [{"key": "u"}, {"key": "u", "peek": True}, {"key": "v", "peek": True}]

    results = check(client, "shadow", checks=asked).json()["results"]

    assert [(one["status"], one["allowed"]) for one in results] == [(200, True)] * 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"key": ""},
        {"key": None},
        {"key": True},
        {"key": 1.5},
        {"key": []},
        {"key": [[]]},
        {"key": ["a"] * 9},
        {"key": "x" * 1025},
        {"key": 2**60},
        {"key": "\ud800"},
        {"key": {"a": 1}},
        {"key": "u", "cost": 0},
        {"key": "u", "cost": -1},
        {"key": "u", "cost": True},
        {"key": "u", "cost": "1"},
        {"key": "u", "cost": 1.5},
        {"key": "u", "cost": 1e400},
        {"key": 1e300},
        {"key": "u", "cost": 2**60},
        {"key": "u", "cost": 4},
        {"key": "u", "peek": 1},
        {"key": "u", "cost": 4, "peek": True},
        {"key": "u", "hurry": True},
        {"key": "u", "checks": []},
        [],
        "u",
    ],
)
def test_invalid_bodies_are_refused(client: Client, body: Any) -> None:
    problem(client.post("/v1/check/api", json=body), 422)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b'{"key": ' + b"[" * 30_000, b'{"key": ' + b"9" * 10_000 + b"}"]
)
def test_bodies_that_are_not_json(client: Client, raw: bytes) -> None:
    answer = client.post("/v1/check/api", pieces=[raw], headers=JSON)

    assert answer.status in (400, 422)  # a number of 10,000 digits is JSON, but no key
    problem(answer, answer.status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/check/api", 405),
        ("PUT", "/v1/hold/jobs", 405),
        ("GET", "/v1/refund/api", 405),
        ("POST", "/v1/check/nobody", 404),
        ("POST", "/v1/hold/nobody", 404),
        ("DELETE", "/v1/hold/nobody", 404),
        ("POST", "/v1/refund/nobody", 404),
        ("POST", "/v1/check", 404),
        ("POST", "/v1/check/a/b", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v1/policies", 404),
        ("GET", "/v1/keys/u", 404),
        ("POST", "/v1/reset/u", 404),
    ],
)
def test_paths_and_methods_that_do_not_exist(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = client.ask(method, path, json={"key": "u"})

    problem(answer, status)
    assert ("Allow" in answer.headers) == (status == 405)


def test_bodies_have_a_type_and_a_bound(client: Client) -> None:
    for other in ({}, {"Content-Type": ""}, {"Content-Type": "application/x-www-form-urlencoded"}):
        problem(client.post("/v1/check/api", pieces=[b'{"key": "u"}'], headers=other), 415)
    for same in ("application/json; charset=utf-8", "Application/JSON ; x=y"):
        fields = {"Content-Type": same}
        assert client.post("/v1/check/api", pieces=[b'{"key": "u"}'], headers=fields).status == 200
    long = json.dumps({"key": "u", "x": "y" * 70_000}).encode()
    problem(client.post("/v1/check/api", pieces=[long], headers=JSON), 413)


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413), (500_000, 413)])
def test_the_bound_holds_however_a_body_is_sent(client: Client, over: int, status: int) -> None:
    """A body in chunks has no length."""
    body = b'{"key": "u"}'.ljust(MOST_BYTES + over)
    chunks = [body[start : start + 1_000] for start in range(0, len(body), 1_000)]

    def remaining() -> int:
        left: int = check(client, key="u", peek=True).json()["decision"]["remaining"]
        return left

    for charged, fields in enumerate(({}, {"Transfer-Encoding": "chunked"}), 1):
        answer = client.post("/v1/check/api", pieces=chunks, headers={**JSON, **fields})
        received = client.received
        assert answer.status == status
        assert remaining() == 3 - (charged if status == 200 else 0)
        if status == 413:
            problem(answer, 413)
            # The server neither reads the rest, nor takes it for a request.
            assert answer.headers["Connection"] == "close"
            assert received == (MOST_BYTES // 1_000 + 1 if fields else 0)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_not_charged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.post("/v1/check/api", pieces=[b'{"key": "u"}'], headers=JSON, leaves=True)

    assert not caplog.records
    assert check(client, key="u", peek=True).json()["decision"]["remaining"] == 3


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503), ("local", 200)])
def test_a_store_that_is_gone(make_app: Make, on_error: str, status: int) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    client = make_app(STORE=gone, ON_ERROR=on_error, TIMEOUT="0.2").client
    for peek in (False, True):
        answer = check(client, "default", key="u", peek=peek)
        assert answer.status == status
        assert answer.json()["decision"]["degraded"] is True
    problem(client.post("/v1/refund/default", json={"key": "u"}), 503)


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("raise", 503), ("local", 200)])
def test_a_silent_store_delays_a_batch_for_a_bounded_time(
    make_app: Make, on_error: str, status: int
) -> None:
    with socket.create_server((HOST, 0)) as silent:
        gone = f"redis://{HOST}:{silent.getsockname()[1]}/0"
        given = {"STORE": gone, "ON_ERROR": on_error, "TIMEOUT": "0.1", "LIMITS": "1000/minute"}
        client = make_app(**given).client
        for bodies, last in (
            # These wait for each other. The peek is not sent any more.
            ([{"key": 1, "cost": 1 + number % 2} for number in range(99)], {503}),
            ([{"key": 1}] * 99, {200, 503}),
            ([{"key": number} for number in range(99)], {200, 503}),
        ):
            began = monotonic()
            answer = check(client, "default", checks=[*bodies, {"key": 1, "peek": True}])
            took = monotonic() - began

            results = answer.json()["results"]
            assert {one["status"] for one in results[:99]} == {status}
            assert results[99]["status"] in last
            assert took < 5  # one after the other, they would take ten seconds


def test_items_about_one_subject_are_decided_in_order(client: Client) -> None:
    """However they write it; items about others are decided meanwhile."""
    about = [7, "7", ["7"], 7.0, "7", ["7"]]
    costs = [1, 1, 3, 2, 1, 1]
    checks = [{"key": key, "cost": cost} for key, cost in zip(about, costs, strict=True)]
    results = check(client, checks=checks).json()["results"]

    assert [one["status"] for one in results] == [200, 200, 200, 429, 200, 429]
    assert [one["decision"]["remaining"] for one in results] == [2, 1, 0, 1, 0, 0]


def test_a_store_that_refuses(make_app: Make) -> None:
    with Server(password="secret") as server:  # noqa: S106
        client = make_app(STORE=f"redis://{HOST}:{server.port}/0", ON_ERROR="allow").client
        for peek in (False, True):
            problem(check(client, "default", key="u", peek=peek), 503)
        problem(client.post("/v1/refund/default", json={"key": "u"}), 503)


def test_a_refund(client: Client) -> None:
    check(client, key="u", cost=3)
    answer = client.post("/v1/refund/api", json={"key": "u", "cost": 2})

    assert (answer.status, answer.json()) == (200, {"refunded": True})
    assert check(client, key="u", cost=2).status == 200
    assert client.post("/v1/refund/api", json={"key": "friend"}).json() == {"refunded": False}
    problem(client.post("/v1/refund/api", json={"key": "u", "cost": 4}), 422)
    problem(client.post("/v1/refund/jobs", json={"key": "u"}), 422)


def test_a_lease_is_held_renewed_and_released(client: Client) -> None:
    hold_job = partial(hold, client, policy="jobs")
    release_job = partial(release, client, policy="jobs")
    first = client.post("/v1/hold/jobs", json={"key": "u"}).json()
    assert first["seconds"] == 30.0
    assert first["decision"]["each"][0]["remaining"] == 1
    again = [hold_job(lease="mine"), hold_job(lease="mine")]  # the same lease, and charged once
    assert [one.status for one in again] == [200, 200]
    assert [one.json()["decision"]["each"][1]["remaining"] for one in again] == [1, 1]
    denied = problem(hold_job(lease="another"), 429)
    assert denied["violated-policies"] == ["jobs.1"]

    renewed = hold_job(lease="mine", renew=True)
    assert (renewed.status, renewed.json()["decision"]) == (200, None)
    assert release_job(lease="mine").json() == {"released": 1}
    assert release_job(lease="mine").json() == {"released": 0}
    problem(hold_job(lease="mine", renew=True), 410)
    assert hold_job(lease="another").status == 200


def test_leases_of_several_units(client: Client) -> None:
    assert hold(client, "two", "jobs", cost=2).status == 200
    problem(hold(client, "one", "jobs"), 429)
    assert release(client, "two", "jobs", cost=2).json() == {"released": 2}


@pytest.mark.parametrize(
    ("method", "policy", "body"),
    [
        ("POST", "jobs", {"key": "u", "renew": True}),
        ("POST", "jobs", {"key": "u", "lease": ""}),
        ("POST", "jobs", {"key": "u", "lease": "a b"}),
        ("POST", "jobs", {"key": "u", "lease": 1}),
        ("POST", "jobs", {"key": "u", "cost": 3}),
        ("POST", "api", {"key": "u"}),
        ("POST", "api", {"key": "u", "lease": "x", "renew": True}),
        ("DELETE", "api", {"key": "u", "lease": "x"}),
        ("DELETE", "jobs", {"key": "u"}),
        ("DELETE", "jobs", {"key": "u", "lease": "x", "renew": True}),
    ],
)
def test_invalid_holds(client: Client, method: str, policy: str, body: dict[str, Any]) -> None:
    problem(client.ask(method, f"/v1/hold/{policy}", json=body), 422)
    problem(check(client, "jobs", key="u"), 422)


def test_leases_without_a_store(make_by_file: Make) -> None:
    gone = {"STORE": f"redis://{HOST}:{free_port()}/0", "TIMEOUT": "0.2"}
    client = make_by_file(POLICIES, ON_ERROR="deny", **gone).client
    for body in ({}, {"lease": "x"}, {"lease": "x", "renew": True}):
        problem(client.post("/v1/hold/jobs", json={"key": "u", **body}), 503)
    problem(client.delete("/v1/hold/jobs", json={"key": "u", "lease": "x"}), 503)
    client = make_by_file(POLICIES, ON_ERROR="local", **gone).client
    assert client.post("/v1/hold/jobs", json={"key": "u"}).json()["decision"]["degraded"]


def hold(client: Client, lease: str, policy: str = "one", **more: Any) -> Answer:
    return client.post(f"/v1/hold/{policy}", json={"key": "u", "lease": lease, **more})


def release(client: Client, lease: str, policy: str = "one", **more: Any) -> Answer:
    return client.delete(f"/v1/hold/{policy}", json={"key": "u", "lease": lease, **more})


def test_a_lease_of_the_fallback_is_renewed_and_released(make_by_file: Make) -> None:
    gone = {"STORE": f"redis://{HOST}:{free_port()}/0", "TIMEOUT": "0.05"}
    client = make_by_file(HOLDS, **gone).client

    for name in ("first", "second"):
        assert hold(client, name).status == 200
        problem(hold(client, "another"), 429)
        assert hold(client, name, renew=True).status == 200
        assert release(client, name).json() == {"released": 1}
        # A lease that this process did not give may be in the store.
        problem(release(client, name), 503)
        problem(hold(client, name, renew=True), 503)


def test_a_lease_of_the_fallback_outlives_the_outage(make_by_file: Make) -> None:
    with Server() as server:
        server.kill()
        client = make_by_file(HOLDS, STORE=server.url, TIMEOUT="0.2").client
        assert hold(client, "first").json()["decision"]["degraded"] is True
        server.restart()

        def decides() -> bool:
            answer = hold(client, "second")
            return answer.status == 200 and not answer.json()["decision"]["degraded"]

        until(decides, what=lambda: hold(client, "second").text)

        assert hold(client, "first", renew=True).status == 200
        assert release(client, "first").json() == {"released": 1}
        problem(hold(client, "first", renew=True), 410)
        assert hold(client, "second", renew=True).status == 200


def test_in_shadow_mode_every_lease_is_held(make_by_file: Make) -> None:
    """A lease beyond the limit is not taken, but can be renewed and released like any other."""
    client = make_by_file(HOLDS).client
    for name, allowed in (("first", True), ("second", False)):
        taken = hold(client, name, "shadow")
        assert (taken.status, taken.json()["seconds"]) == (200, 30.0)
        assert taken.json()["decision"]["allowed"] is allowed
        assert hold(client, name, "shadow", renew=True).status == 200
    assert release(client, "second", "shadow").json() == {"released": 0}
    assert release(client, "first", "shadow").json() == {"released": 1}
    dear = hold(client, "dear", "shadow", cost=2)
    assert (dear.status, dear.json()["decision"]) == (200, None)
    assert hold(client, "dear", "shadow", cost=2, renew=True).status == 200
    assert release(client, "dear", "shadow", cost=2).json() == {"released": 0}


@pytest.mark.parametrize("on_error", ["local", "allow", "deny", "raise"])
def test_shadow_mode_denies_nothing_while_the_store_is_down(
    make_by_file: Make, on_error: str
) -> None:
    gone = {"STORE": f"redis://{HOST}:{free_port()}/0", "TIMEOUT": "0.05", "ON_ERROR": on_error}
    client = make_by_file(HOLDS, **gone).client
    for name in ("first", "second"):
        assert hold(client, name, "shadow").status == 200
        assert hold(client, name, "shadow", renew=True).status == 200
        assert release(client, name, "shadow").status == 200


def test_shadow_mode_denies_nothing_while_the_store_refuses(make_by_file: Make) -> None:
    with Server(password="secret") as server:  # noqa: S106
        client = make_by_file(HOLDS, STORE=f"redis://{HOST}:{server.port}/0").client
        assert hold(client, "first", "shadow").json()["decision"] is None
        assert hold(client, "first", "shadow", renew=True).status == 200
        assert release(client, "first", "shadow").json() == {"released": 0}
        problem(hold(client, "first"), 503)
        problem(release(client, "first"), 503)

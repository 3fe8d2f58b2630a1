"""Counters, subjects, logs and spans for operators, which no other client can read."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import nullcontext
from typing import Any

import pytest

from limiter.server import logs, recorder
from service.demo.servers import HOST, Server, free_port
from tests.server.client import Running, under_uvicorn
from tests.server.conftest import Make
from tests.server.test_api import problem
from tests.waiting import until

TOKEN = "a-token-of-enough-length"  # noqa: S105
BEARER = {"Authorization": f"Bearer {TOKEN}"}

POLICIES = """
[policies.api]
limits = "3/minute"
key = "api-key"
[policies.api.overrides]
partner = "5/minute"

[policies.shadow]
limits = "1/minute"
shadow = true

[policies.jobs]
limits = { algorithm = "concurrency", limit = 2 }
"""


def counted(app: Running) -> dict[str, float]:
    """Return the metrics, without the histogram's buckets."""
    lines = app.operators.get("/metrics").text.splitlines()
    pairs = [line.rpartition(" ") for line in lines if line[0] != "#" and "_created" not in line]
    return {name: float(value) for name, _, value in pairs if "_bucket" not in name}


def test_decisions_are_counted_by_policy_and_outcome(make_by_file: Make) -> None:
    app = make_by_file(POLICIES)
    client = app.client
    for body in (
        {"key": "canary-7f3a", "cost": 2},
        {"key": "canary-7f3a", "cost": 2},
        {"key": 1, "cost": 9},
    ):
        client.post("/v1/check/api", json=body)
    for _ in range(3):
        client.post("/v1/check/shadow", json={"key": "canary-7f3a"})
    client.get("/forward-auth/api", headers={"X-Forwarded-For": "203.0.113.9"})
    client.post("/v1/hold/jobs", json={"key": "canary-7f3a"})
    items = [{"policy": name, "key": "canary-8", "cost": 1} for name in ("api", "shadow")]
    for method, path in (("POST", "reserve"), ("POST", "settle"), ("POST", "reserve")):
        client.ask(method, f"/v1/{path}", json={"id": "canary-id", "items": items})
    found = counted(app)

    assert found['limiter_decisions_total{outcome="allowed",policy="api"}'] == 2
    assert found['limiter_decisions_total{outcome="denied",policy="api"}'] == 1
    assert found['limiter_decisions_total{outcome="too_costly",policy=""}'] == 1
    assert found['limiter_decisions_total{outcome="unidentified",policy=""}'] == 1
    assert found['limiter_decisions_total{outcome="allowed",policy="shadow"}'] == 4
    assert found['limiter_decisions_total{outcome="allowed",policy="jobs"}'] == 1
    assert found['limiter_shadow_denials_total{policy="shadow"}'] == 2
    assert found["limiter_decision_seconds_count"] == 9
    assert "canary" not in app.operators.get("/metrics").text


def at_zero(*policies: str, shadow: tuple[str, ...] = ()) -> set[str]:
    """Return all counters with these policies."""
    return {
        *(
            f'limiter_decisions_total{{outcome="{outcome}",policy="{policy}"}}'
            for policy in policies
            for outcome in ("allowed", "denied", "unavailable")
        ),
        *(
            f'limiter_decisions_total{{outcome="{outcome}",policy=""}}'
            for outcome in ("passed", "unavailable", "unidentified", "too_costly")
        ),
        *(f'limiter_degraded_decisions_total{{policy="{policy}"}}' for policy in policies),
        *(f'limiter_cached_denials_total{{policy="{policy}"}}' for policy in policies),
        *(f'limiter_shadow_denials_total{{policy="{policy}"}}' for policy in shadow),
        'limiter_store_errors_total{error="StoreUnavailable"}',
        'limiter_store_errors_total{error="StoreRefused"}',
        "limiter_decision_seconds_count",
        "limiter_decision_seconds_sum",
    }


def test_all_counters_exist_at_zero_from_the_start(make_by_file: Make, make_app: Make) -> None:
    """A series that begins at 1 has no increase, so no alert would see the first failure."""
    app = make_by_file(POLICIES)
    expected = {*at_zero("api", "shadow", "jobs", shadow=("shadow",))}
    assert counted(app) == dict.fromkeys({*expected, "limiter_policy_file_refused"}, 0.0)
    policies = app.service.policies
    with open(policies.path, "a") as file:
        file.write("[policies.new]\nlimits = '1/minute'\n")
    policies.reload()
    found = counted(app)
    assert at_zero("new") <= set(found)
    assert set(found.values()) == {0.0}
    assert counted(make_app(POLICIES="", LIMITS="1/minute")) == dict.fromkeys(
        at_zero("default"), 0.0
    )


def test_many_subjects_are_few_series(make_by_file: Make) -> None:
    app = make_by_file(POLICIES)
    before = set(counted(app))
    client = app.client
    for turn in range(2):
        checks = [{"key": f"u-{turn}-{number}"} for number in range(50)]
        client.post("/v1/check/api", json={"checks": checks})
        client.post(f"/v1/check/nobody-{turn}", json={"key": "u"})
        client.get(f"/forward-auth/nobody-{turn}")

    # Of three policies, and of no policy, for any request; all of them from the start.
    assert set(counted(app)) == before


@pytest.mark.parametrize(("variables", "cached"), [({}, 2), ({"DENIAL_CACHE": "0"}, 0)])
def test_cached_denials_are_counted(
    make_by_file: Make, variables: dict[str, str], cached: int
) -> None:
    """By default there are some: repeated denials call no store. They are denials as others are."""
    app = make_by_file(POLICIES, **variables)
    client = app.client
    answers = [client.post("/v1/check/api", json={"key": "u", "cost": 3}) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 429, 429, 429]
    assert [answer.json()["decision"]["cached"] for answer in answers].count(True) == cached
    found = counted(app)
    assert found['limiter_cached_denials_total{policy="api"}'] == cached
    assert found['limiter_decisions_total{outcome="denied",policy="api"}'] == 3


def test_a_store_that_is_down_is_counted(make_app: Make) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    app = make_app(STORE=gone, LIMITS="1/minute", TIMEOUT="0.2")
    for _ in range(2):
        app.client.post("/v1/check/default", json={"key": "u"})
    found = counted(app)

    assert found['limiter_degraded_decisions_total{policy="default"}'] == 2
    assert found['limiter_store_errors_total{error="StoreUnavailable"}'] == 2
    app = make_app(STORE=gone, ON_ERROR="deny", TIMEOUT="0.2")
    app.client.post("/v1/check/default", json={"key": "u"})
    assert counted(app)['limiter_decisions_total{outcome="unavailable",policy="default"}'] == 1


def test_a_store_that_refuses_is_counted(make_app: Make) -> None:
    with Server(password="secret") as server:  # noqa: S106
        app = make_app(STORE=f"redis://{HOST}:{server.port}/0")
        app.client.post("/v1/check/default", json={"key": "u"})
        operator = make_app(STORE=f"redis://{HOST}:{server.port}/0", ADMIN_TOKEN=TOKEN).operators
        problem(operator.get("/v1/keys/u", headers=BEARER), 503)

    assert counted(app)['limiter_store_errors_total{error="StoreRefused"}'] == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/policies"), ("GET", "/v1/keys/u"), ("POST", "/v1/reset/u"), ("GET", "/x")],
)
def test_without_the_right_token_no_route_answers(make_app: Make, method: str, path: str) -> None:
    without = make_app().operators
    assert without.ask(method, path, headers=BEARER).status == 404
    assert without.get("/metrics").status == 200
    client = make_app(ADMIN_TOKEN=TOKEN).operators
    for given in (
        "",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        "Bearer",
        "Bearer \xe9",
        f"Bearer {TOKEN[:-1]}",
    ):
        answer = client.ask(method, path, headers={"Authorization": given})
        problem(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert client.get("/metrics").status == 200


def test_a_subject_is_looked_at_and_forgotten(make_by_file: Make) -> None:
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    client, operator = app.client, app.operators
    for key in ("partner", ["a", "b"], "2001:db8::/64"):
        client.post("/v1/check/api", json={"key": key})
    client.post("/v1/hold/jobs", json={"key": "partner"})

    def look(path: str, method: str = "GET") -> dict[str, Any]:
        answer = operator.ask(method, path, headers=BEARER)
        assert answer.status == 200, answer.text
        found: dict[str, Any] = answer.json()["policies"]
        return {name: said["remaining"] for name, said in found.items()}

    assert look("/v1/keys/partner") == {"api": 4, "shadow": 1, "jobs": 1}
    assert look("/v1/keys/partner") == {"api": 4, "shadow": 1, "jobs": 1}  # nothing was taken
    assert look("/v1/keys/a,b?policy=api") == {"api": 2}
    assert look("/v1/keys/2001:db8::/64?policy=api") == {"api": 2}
    assert look("/v1/keys/nobody?policy=api") == {"api": 3}
    assert look("/v1/reset/partner?policy=api", "POST") == {"api": 4}  # as it was before
    assert look("/v1/keys/partner") == {"api": 5, "shadow": 1, "jobs": 1}
    look("/v1/reset/partner", "POST")
    assert look("/v1/keys/partner") == {"api": 5, "shadow": 1, "jobs": 2}
    problem(operator.get("/v1/keys/partner?policy=nobody", headers=BEARER), 404)
    for nobody in (",", "a,,b", "a,b,", ",a"):
        problem(operator.get(f"/v1/keys/{nobody}", headers=BEARER), 422)
    problem(operator.get("/v1/keys/", headers=BEARER), 404)
    problem(operator.get("/v1/reset/partner", headers=BEARER), 405)
    # The operators' address has no routes for proxies and services.
    for path in ("/forward-auth/api", "/v1/check/api", "/demo-service/hello", "/healthz"):
        problem(operator.get(path, headers=BEARER), 404)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("%2Fapi/orders", "/api/orders"),
        ("/api/orders", "/api/orders"),
        ("a//b", "a//b"),
        ("a/", "a/"),
        ("%2F", "/"),
        ("a%0A", "a\n"),
        ("a,", ["a"]),
        ("x%5C,y", "x,y"),
        ("x%5C%5C,y", ["x\\", "y"]),
        ("x\\y", "x\\y"),
        ("/a,/b", ["/a", "/b"]),
        ("1,2,3", [1, 2, 3]),
    ],
)
def test_a_subject_in_a_path_is_that_one_and_no_other(
    make_by_file: Make, path: str, key: str | list[str]
) -> None:
    app = make_by_file("[policies.api]\nlimits = '3/minute'\n", ADMIN_TOKEN=TOKEN)
    client, operator = app.client, app.operators
    others = ["api/orders", "a/b", "a", ["a", "b"], [1, 2]]
    for about in (key, *others):
        client.post("/v1/check/api", json={"key": about})

    def left(about: object) -> int:
        answer = client.post("/v1/check/api", json={"key": about, "peek": True})
        found: int = answer.json()["decision"]["remaining"]
        return found

    looked = operator.get(f"/v1/keys/{path}", headers=BEARER)
    assert looked.json()["policies"]["api"]["remaining"] == 2
    assert operator.post(f"/v1/reset/{path}", headers=BEARER).status == 200
    assert (left(key), [left(other) for other in others]) == (3, [2] * len(others))


def test_policies_are_shown_without_their_subjects(make_by_file: Make, make_app: Make) -> None:
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    answer = app.operators.get("/v1/policies", headers=BEARER)
    found = answer.json()

    assert [policy["name"] for policy in found["policies"]] == ["api", "shadow", "jobs"]
    assert found["file"].endswith("policies.toml")
    assert found["refused"] == []
    assert "partner" not in answer.text
    one = make_app(POLICIES="", LIMITS="7/minute", ADMIN_TOKEN=TOKEN).operators
    found = one.get("/v1/policies", headers=BEARER).json()
    assert [policy["limits"][0]["limit"] for policy in found["policies"]] == [7]


def test_a_file_that_is_refused_is_shown(make_by_file: Make) -> None:
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    policies = app.service.policies
    with open(policies.path, "a") as file:
        file.write("[policies.api2]\nlimits = '0/minute'\n")

    assert counted(app)["limiter_policy_file_refused"] == 0
    assert policies.reload() is False
    assert counted(app)["limiter_policy_file_refused"] == 1
    (fault,) = app.operators.get("/v1/policies", headers=BEARER).json()["refused"]
    assert fault["key"] == "policies.api2.limits"
    ready = app.client.get("/readyz")
    assert (ready.status, "refused" in ready.text) == (200, True)
    assert app.client.post("/v1/check/api", json={"key": "u"}).status == 200
    assert app.client.post("/v1/check/api2", json={"key": "u"}).status == 404
    with open(policies.path, "w") as file:
        file.write(POLICIES)
    assert policies.reload() is True
    assert counted(app)["limiter_policy_file_refused"] == 0


def test_a_changed_file_is_shown_without_other_requests(make_by_file: Make) -> None:
    app = make_by_file(POLICIES, ADMIN_TOKEN=TOKEN)
    policies = app.service.policies
    for text, faults, limit in (
        ("nonsense", 1, 3),
        (POLICIES.replace("3/minute", "4/minute"), 0, 4),
    ):
        with open(policies.path, "w") as file:
            file.write(text)
        os.utime(policies.path, (time.time() - 60,) * 2)
        policies._look_at = 0.0

        def shown() -> tuple[int, int]:
            answer = app.operators.get("/v1/policies", headers=BEARER).json()
            return len(answer["refused"]), answer["policies"][0]["limits"][0]["limit"]

        until(lambda: shown() == (faults, limit), what=lambda: str(shown()))  # noqa: B023


@pytest.mark.slow
def test_a_changed_file_is_in_force_without_requests(make_by_file: Make) -> None:
    """Else the first request after a change would be decided by the old text."""
    service = make_by_file(POLICIES).service
    policies = service.policies
    with under_uvicorn(service):
        with open(policies.path, "a") as file:
            file.write("[policies.new]\nlimits = '1/minute'\n")
        until(lambda: "new" in policies._current.guards, 5.0)


def test_without_a_file_there_is_no_metric_of_one(make_app: Make) -> None:
    assert "limiter_policy_file_refused" not in counted(make_app())


def test_denials_are_logged_without_the_subject(
    make_app: Make, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    client = make_app(LIMITS="1/minute").client
    request.addfinalizer(logs.calm())
    with caplog.at_level(logging.INFO, "limiter"):
        for number in range(40):
            client.post("/v1/check/default", json={"key": f"canary-{number % 2}"})
            client.get("/forward-auth/default", headers={"X-Forwarded-For": "203.0.113.77"})
    (record,) = caplog.records
    line = logs.AsJson().format(record)
    said = json.loads(line)

    assert said["message"] == "a limit denied"
    assert (said["level"], said["logger"]) == ("info", "limiter.service")
    assert (said["policy"], said["cost"], said["shadow"]) == ("default", 1, False)
    assert 0 < said["retry_after"] <= 60
    assert "\n" not in line
    assert "canary" not in line
    assert "203.0.113" not in line


def test_a_line_with_an_exception_is_one_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "f", 1, "%s", ("m",), (ValueError, error, None)
        )
    said = json.loads(logs.AsJson().format(record))

    assert (said["message"], said["exception"]) == ("m", "ValueError: first\nsecond")


class _Span:
    """A stand-in for OpenTelemetry's tracer and span."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, name: str, value: Any) -> None:
        self.found[name] = value


def test_each_decision_is_a_span_of_its_caller_s_trace(
    make_by_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    spans: list[_Span] = []
    traces: set[str] = set()

    class Tracer:
        def start_as_current_span(self, name: str, context: Any) -> Any:
            assert name == "limiter.decision"
            spans.append(_Span())
            traces.add(f"{trace.get_current_span(context).get_span_context().trace_id:032x}")
            return nullcontext(spans[-1])

    monkeypatch.setattr(recorder, "_tracer", Tracer())
    client = make_by_file(POLICIES).client
    fields = {"traceparent": f"00-{'12ab' * 8}-{'34cd' * 4}-01"}
    checks = [{"key": "canary", "cost": 2}] * 2
    client.post("/v1/check/api", json=checks[0], headers=fields)
    client.post("/v1/check/api", json={"checks": checks}, headers=fields)
    client.post("/v1/hold/jobs", json={"key": "canary"}, headers=fields)
    proxied = {**fields, "X-Forwarded-For": "203.0.113.9"}
    client.get("/forward-auth/shadow", headers=proxied)
    items = [{"policy": name, "key": "canary", "cost": 2} for name in ("shadow", "api")]
    for path in ("reserve", "settle"):
        client.post(f"/v1/{path}", json={"id": "a", "items": items}, headers=fields)

    assert [span.found["limiter.status"] for span in spans] == [200, 429, 429, 200, 200, 429]
    policies = [span.found["limiter.policies"] for span in spans]
    assert policies == [["api"], ["api"], ["api"], ["jobs"], ["shadow"], ["api"]]
    assert traces == {"12ab" * 8}
    assert "canary" not in str([span.found for span in spans])


def test_without_opentelemetry_there_are_no_spans(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_tracer", None)
    client = make_app(LIMITS="1/minute").client

    assert client.post("/v1/check/default", json={"key": "u"}).status == 200

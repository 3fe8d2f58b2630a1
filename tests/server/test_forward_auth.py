"""Responses to a proxy that asks before it passes a request on."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from limiter.asgi import LimiterMiddleware
from limiter.policyfile import AsyncPolicies
from limiter.server import logs
from limiter.testing import Clock
from limiter.web.asgi_messages import Receive, Scope, Send
from limiter.web.paths import decoded, path_of
from tests.server.client import Answer, Client
from tests.server.conftest import Make

CLIENT = {"X-Forwarded-For": "203.0.113.9"}


def ask(client: Client, policy: str | None = "default", **more: Any) -> Answer:
    """Ask as Traefik does: a GET, with the client's request in header fields."""
    names = {"method": "Method", "host": "Host", "uri": "Uri", "forwarded_for": "For"}
    fields = dict(CLIENT)
    for name, value in more.items():
        if name in names:
            fields[f"X-Forwarded-{names[name]}"] = value
    fields.update(more.get("headers", {}))
    path = "/forward-auth" if policy is None else f"/forward-auth/{policy}"
    return client.get(path, headers=fields)


def test_allowed_is_204_without_a_body_and_denied_is_a_problem(make_app: Make) -> None:
    client = make_app(LIMITS="2/minute", NAME="api").client
    answers = [ask(client, uri="/orders?x=1") for _ in range(3)]

    assert [answer.status for answer in answers] == [204, 204, 429]
    assert answers[0].body == b""
    assert answers[0].headers["RateLimit-Policy"] == '"api";q=2;w=60'
    assert answers[0].headers["RateLimit"] == '"api";r=1;t=60'
    assert "Retry-After" not in answers[0].headers
    assert answers[2].headers["Retry-After"] in ("59", "60")
    assert answers[2].headers["Cache-Control"] == "no-store"
    assert answers[2].media_type == "application/problem+json"
    assert answers[2].json()["instance"] == "/orders"
    assert len(answers[2].body) < 1024


#: Pieces of paths: plain ones, and some that take up to twelve bytes in JSON.
PIECES = ["a", "/", "%22", "%FF", "%C3%A9", "%F0%9F%98%80", "%00", "%5C", "%ED%A0%80", "\xe9"]


@given(piece=st.sampled_from(PIECES), count=st.integers(0, 3000), rest=st.text(max_size=9))
@example(piece="%FF", count=800, rest="")
@example(piece="%F0%9F%98%80", count=2000, rest="")
@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
def test_a_refusal_is_short_whatever_the_path(
    make_app: Make, piece: str, count: int, rest: str
) -> None:
    """Traefik turns a response above its maxResponseBodySize into a 401."""
    client = make_app(STORE="memory://", LIMITS="1/minute", NAME="n" * 64).client
    uri = "/" + piece * count + quote(rest)
    answers = [ask(client, uri=uri), ask(client, uri=uri), ask(client, "nobody", uri=uri)]
    answers.append(client.get(f"/forward-auth/nobody{uri}", headers=CLIENT))
    answers.append(client.get(f"/forward-auth/default{uri}"))

    assert [answer.status for answer in answers] == [204, 429, 404, 404, 400]
    for answer in answers[1:]:
        assert len(answer.body) < 1024
        said = answer.json()["instance"]
        assert said.startswith("/")
    path = path_of(uri, "GET") or ""
    assert path.startswith(answers[1].json()["instance"])


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "QUERY"]
)
def test_any_method_and_any_path_after_the_policy(make_app: Make, method: str) -> None:
    client = make_app(LIMITS="2/minute").client
    paths = ["/forward-auth/default", "/forward-auth/default/a/b", "/forward-auth/default/x"]
    answers = [client.ask(method, path, headers=CLIENT) for path in paths]

    assert [answer.status for answer in answers] == [204, 200, 429]
    assert answers[1].headers["Content-Length"] == "0"
    assert (answers[2].body == b"") == (method == "HEAD")


def test_only_trusted_proxies_are_answered(make_app: Make) -> None:
    client = make_app(TRUSTED_PROXIES="10.0.0.0/8").client

    assert ask(client).status == 403
    answer = client.get("/forward-auth/default", headers=CLIENT, peer="10.1.1.1")
    assert answer.status == 204
    nobody = client.get("/forward-auth/default", headers=CLIENT, peer=None)
    assert nobody.status == 403


def test_a_request_without_a_decision_leaves_a_line(
    make_by_file: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that does not pass a key on, or is not trusted, gets only the client's response."""
    text = '[policies.orders]\nlimits = "9/minute"\nkey = "api-key"\nnew_subjects = "9/hour"\n'
    client = make_by_file(text, TRUSTED_PROXIES="10.0.0.0/8").client
    with caplog.at_level(logging.INFO, "limiter.service"):
        assert client.get("/forward-auth", headers=CLIENT, peer="10.1.1.1").status == 400
        assert client.get("/forward-auth", headers=CLIENT, peer="192.0.2.1").status == 403
        assert client.get("/forward-auth/no", headers=CLIENT, peer="10.1.1.1").status == 404
        assert client.get("/forward-auth/orders", peer="10.1.1.1").status == 400

    lines = [json.loads(logs.AsJson().format(record)) for record in caplog.records]
    assert [(line["level"], line["message"], line.get("peer")) for line in lines] == [
        ("info", "a request is unidentified", None),
        ("warning", "a proxy got no decision: Only trusted proxies are answered.", "192.0.2.1"),
        ("warning", "a proxy got no decision: There is no such policy.", "10.1.1.1"),
        (
            "info",
            "a proxy got no decision: The proxy does not report the client's address.",
            "10.1.1.1",
        ),
    ]
    assert lines[0]["reason"] == "the request has no API key"


def test_a_proxy_may_use_a_unix_socket(make_app: Make) -> None:
    client = make_app(TRUSTED_PROXIES="unix", LIMITS="1/minute").client
    for status in (204, 429):
        answer = client.get("/forward-auth/default", headers=CLIENT, peer=None)
        assert answer.status == status
    assert ask(client).status == 403


@pytest.mark.parametrize("forwarded_for", [None, "", " , ", "unknown", "203.0.113.1, nobody"])
def test_a_proxy_must_report_the_client(make_app: Make, forwarded_for: str | None) -> None:
    fields = {} if forwarded_for is None else {"X-Forwarded-For": forwarded_for}
    answer = make_app().client.get("/forward-auth/default", headers=fields)

    assert answer.status == 400
    assert answer.media_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/forward-auth/nobody", "/forward-auth/", "/forward-auth//x"])
def test_a_policy_that_does_not_exist(make_app: Make, path: str) -> None:
    answer = make_app().client.get(path, headers=CLIENT)

    assert answer.status == 404
    assert answer.media_type == "application/problem+json"


POLICIES = """
[policies.writes]
limits = "1/minute"
match.methods = ["POST"]
match.hosts = ["api.example.com"]
match.paths = ["/orders/{org}/**"]
key = "path:org"

[policies.counted]
limits = "1/minute"
preflights = true

[policies.free]
limits = "1/minute"
preflights = false

[policies.apart]
limits = "2/minute"
key = "api-key"

[policies.keys]
limits = "5/day"
key = "api-key"
new_subjects = "3/hour"

[policies.jobs]
limits = { algorithm = "concurrency", limit = 2 }

[policies.exports]
limits = "10/minute"
cost = { header = "X-Cost" }
"""


def test_the_client_s_request_counts(make_by_file: Make) -> None:
    client = make_by_file(POLICIES).client

    def status(method: str, host: str, uri: str) -> int:
        return ask(client, "writes", method=method, host=host, uri=uri).status

    assert status("POST", "api.example.com", "/orders/1/x") == 204
    assert status("POST", "API.example.com:8443", "/orders/1/y?z=/orders/2/") == 429
    assert status("POST", "api.example.com", "/orders/2/x") == 204
    # Other spellings of the path are limited too.
    for uri in (
        "//orders/1/x",
        "/a/../orders/1/x",
        "/%6frders/1/x",
        "/./orders//1/x",
        "http://h/orders/1/x",
    ):
        assert status("POST", "api.example.com", uri) == 429, uri
    # The policy does not apply to these.
    for method, host, uri in (
        ("GET", "api.example.com", "/orders/1/x"),
        ("POST", "www.example.com", "/orders/1/x"),
        ("POST", "api.example.com", "/invoices/1"),
    ):
        answer = ask(client, "writes", method=method, host=host, uri=uri)
        assert (answer.status, "RateLimit" in answer.headers) == (204, False)


def test_preflights_are_counted_apart_by_default(make_by_file: Make) -> None:
    client = make_by_file(POLICIES).client
    preflight = {"Origin": "https://x.example", "Access-Control-Request-Method": "PUT"}

    def statuses(policy: str, **more: Any) -> list[int]:
        return [ask(client, policy, **more).status for _ in range(2)]

    assert statuses("free", method="OPTIONS", headers=preflight) == [204, 204]
    # An OPTIONS that is no preflight, and another method with a preflight's fields, are counted as usual.
    assert statuses("free", method="OPTIONS") == [204, 429]
    assert ask(client, "free", method="GET", headers=preflight).status == 429
    assert statuses("counted", method="OPTIONS", headers=preflight) == [204, 429]
    # Preflights have no credentials: they are counted by client address, and take nothing from a key.
    assert statuses("apart", method="OPTIONS", headers=preflight) == [204, 204]
    assert statuses("apart", method="OPTIONS", headers=preflight) == [429, 429]
    assert statuses("apart", headers={"X-API-Key": "k"}) == [204, 204]
    other = {"X-Forwarded-For": "198.51.100.2"}
    assert statuses("apart", method="OPTIONS", headers={**preflight, **other}) == [204, 204]


def test_a_client_begins_a_bounded_number_of_subjects(make_by_file: Make) -> None:
    """Invented keys are refused; keys that it has begun, or that others use, still work."""
    running = make_by_file(POLICIES)
    client = running.client

    def statuses(*keys: str, address: str = "203.0.113.9") -> list[int]:
        fields = {"X-Forwarded-For": address}
        asked = [ask(client, "keys", headers={"X-API-Key": key, **fields}) for key in keys]
        return [answer.status for answer in asked]

    assert statuses("known", address="198.51.100.2") == [204]
    assert statuses(*"abcdefgh") == [204] * 3 + [429] * 5
    assert statuses("known", "a") == [204, 204]
    denied = ask(client, "keys", headers={"X-API-Key": "i"})
    assert int(denied.headers["Retry-After"]) > 3_590
    assert "allows 3 new subjects per 3600 s for one address" in denied.text
    counted = 'limiter_decisions_total{outcome="denied",policy="keys"} 6.0'
    assert counted in running.operators.get("/metrics").text


def test_leases_and_impossible_costs_are_refused(make_by_file: Make) -> None:
    client = make_by_file(POLICIES).client

    assert ask(client, "jobs").status == 422
    dear = ask(client, "exports", headers={"X-Cost": "11"})
    assert (dear.status, "Retry-After" in dear.headers) == (413, False)
    assert ask(client, "exports", headers={"X-Cost": "10"}).status == 204


def test_a_body_of_unknown_length_costs_the_whole_limit(make_by_file: Make) -> None:
    """The proxy's request has no body; a GET of the client counts as one without."""
    text = "[policies.p]\nlimits = '10/minute'\ncost = { body = '1KiB' }\n"
    client = make_by_file(text).client
    asked = [ask(client, "p", method=method) for method in ("GET", "POST", "GET")]
    assert [answer.status for answer in asked] == [204, 429, 204]
    by_length = client.get(
        "/forward-auth/p",
        headers={**CLIENT, "X-Forwarded-Method": "POST", "Content-Length": "2048"},
    )
    assert (by_length.status, by_length.headers["RateLimit"]) == (204, '"p";r=6;t=60')
    # Envoy sends no body, and so a length of 0, which is not that of the client's body.
    of_the_question = client.get(
        "/forward-auth/p",
        headers={**CLIENT, "X-Forwarded-Method": "POST", "Content-Length": "0"},
    )
    assert of_the_question.status == 429


def test_the_body_is_never_read(make_app: Make) -> None:
    client = make_app().client
    pieces = [b"x" * 1000] * 10
    assert client.post("/forward-auth/default", headers=CLIENT, pieces=pieces).status == 204
    assert client.received == 0


ORDERS = """
[policies.orders]
limits = "1/minute"
match.paths = ["/orders", "/orders/{id}", "/caf\u00e9"]
match.ignore_case = true

[policies.by-id]
limits = "1/minute"
key = "path:id"
match.paths = ["/orders/{id}"]

[policies.hosts]
limits = "1/minute"
match.hosts = ["api.example.com"]
match.methods = ["GET"]
exempt.paths = ["/static/**"]

[policies.sid]
limits = "1/minute"
key = "cookie:sid"

[policies.keys]
limits = "1/minute"
key = "api-key"

[policies.users]
limits = "1/minute"
key = "header:X-User"
"""


SPELLINGS = [
    *("/orders%0A", "/orders/%0A", "/orders%FF", "/orders\xff", "/Orders"),
    *("/orders#x", "/orders#x?y", "/orders?x#y"),
    *("/orders/7%2f8", "/orders/7%2F..", "/ORDERS/a%2Fb"),
    *("/caf\xc3\xa9", "/caf%C3%A9"),
]


@pytest.mark.parametrize(
    "uri", [*SPELLINGS, "HTTP://h/orders", "https://u@h:1/orders#x", "http:///orders"]
)
def test_no_reading_of_a_path_gets_past_its_limit(make_by_file: Make, uri: str) -> None:
    client = make_by_file(ORDERS).client

    assert [ask(client, "orders", uri=uri).status for _ in range(2)] == [204, 429]


@pytest.mark.parametrize("uri", SPELLINGS)
def test_no_reading_of_an_appended_path_gets_past_its_limit(make_by_file: Make, uri: str) -> None:
    client = make_by_file(ORDERS).client
    target = f"/forward-auth/orders{uri}".partition("?")[0]
    sent = {"path": decoded(target), "raw_path": target.encode("latin-1")}
    answers = [client.get("/", headers=CLIENT, scope=sent) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 429]


@pytest.mark.parametrize(
    ("uri", "method"),
    [
        ("", "GET"),
        ("orders", "GET"),
        ("?orders", "GET"),
        ("#orders", "GET"),
        ("*", "GET"),
        ("ftp://h/orders", "GET"),
        ("http:orders", "GET"),
        ("h:80", "CONNECT"),
        ("/orders x", "GET"),
        ("/orders\tx", "GET"),
        ("/orders\x7f", "GET"),
        ("/orders\\..;x#/a%2F%FF%0A", "GET"),
        ("/orders", "GET,OPTIONS"),
        ("/orders", "GET OPTIONS"),
    ],
)
def test_invalid_targets_and_methods_are_refused(make_by_file: Make, uri: str, method: str) -> None:
    """Each once got past all limits: no policy applied, but the upstream served the request."""
    client = make_by_file(ORDERS).client
    answer = ask(client, "orders", uri=uri, method=method)

    assert (answer.status, answer.media_type) == (400, "application/problem+json")


def test_a_proxy_must_report_the_path_if_a_rule_reads_paths(make_by_file: Make) -> None:
    client = make_by_file(ORDERS).client

    assert ask(client, "orders").status == 400
    assert ask(client, "users", headers={"X-User": "a"}).status == 204
    assert ask(client, "orders", uri="*", method="OPTIONS").status == 204


def test_two_hosts_are_refused(make_by_file: Make) -> None:
    client = make_by_file(ORDERS).client
    hosts = ["api.example.com", "API.example.com.:80", "u@api.example.com", "x, api.example.com"]
    statuses = [ask(client, "hosts", host=host, uri="/").status for host in hosts]

    assert statuses == [204, 429, 429, 400]
    # An exemption applies only if each reading is exempt.
    for uri, status in [("/static/a%2Fb", 204), ("/static/..%2Fx", 429), ("/static#/../x", 429)]:
        assert ask(client, "hosts", host="api.example.com", uri=uri).status == status, uri


def test_a_part_with_an_encoded_slash_is_one_subject(make_by_file: Make) -> None:
    client = make_by_file(ORDERS).client
    uris = ["/orders/a%2Fb", "/orders/a%2fb", "/orders/%61%2Fb", "/orders/a%2Fc", "/orders/a%0A"]
    statuses = [ask(client, "by-id", uri=uri).status for uri in uris]

    assert statuses == [204, 429, 429, 204, 400]


@pytest.mark.parametrize(
    ("policy", "field", "values", "expected"),
    [
        (
            "sid",
            "Cookie",
            ["sid=s%3Aa", "sid=s%3aa", "sid=s:a", "x=1, 2; sid=s:a"],
            [204, *[429] * 3],
        ),
        ("sid", "Cookie", ["sid=a,sid=b", "x=1,sid=a", "sid=a,x", "sid=%61"], [400] * 4),
        ("keys", "Authorization", ["Bearer a", "bearer a", "Bearer a x"], [204, 429, 400]),
        ("keys", "Authorization", ["Basic x, Bearer y", "Bearer y,Basic x", "Basic x"], [400] * 3),
        ("users", "X-User", ["a", " a ", "a, b", "b,a"], [204, 429, 400, 400]),
    ],
)
def test_one_caller_is_one_subject(
    make_by_file: Make, policy: str, field: str, values: list[str], expected: list[int]
) -> None:
    client = make_by_file(ORDERS).client
    statuses = [ask(client, policy, uri="/", headers={field: value}).status for value in values]

    assert statuses == expected


def test_a_client_cannot_keep_the_service_from_asking_the_store(make_by_file: Make) -> None:
    """A long path with many readings took 0.1 s, and other requests had no answer of the store in time."""
    client = make_by_file(ORDERS).client
    for piece in ("/%2e%2e", "/..", "%2F", "%FF", "/a;b"):
        began = time.process_time()
        assert ask(client, "orders", uri="/" + piece * (60_000 // len(piece))).status == 400
        assert time.process_time() - began < 0.05


SEVERAL = """
[policies.address]
limits = "3/minute"

[policies.writes]
limits = "1/minute"
match.methods = ["POST"]

[policies.reports]
limits = "1/minute"
match.paths = ["/reports/**"]

[policies.jobs]
limits = { algorithm = "concurrency", limit = 1 }
"""


def test_without_a_name_all_policies_that_match_are_asked(make_by_file: Make) -> None:
    """All of them are charged, or none; a policy that counts leases is left out."""
    client = make_by_file(SEVERAL).client

    def answer(method: str, uri: str) -> tuple[int, str | None]:
        answer = ask(client, None, method=method, uri=uri)
        return answer.status, answer.headers.get("RateLimit")

    assert answer("GET", "/") == (204, '"address";r=2;t=60')
    assert answer("POST", "/") == (204, '"address";r=1;t=60, "writes";r=0;t=60')
    denied = ask(client, None, method="POST", uri="/")
    assert (denied.status, denied.json()["violated-policies"]) == (429, ["writes"])
    assert answer("GET", "/reports/1") == (204, '"address";r=0;t=60, "reports";r=0;t=60')
    denied = ask(client, None, method="POST", uri="/reports/1")
    assert denied.json()["violated-policies"] == ["address", "writes", "reports"]


def test_without_a_name_the_proxy_must_report_all_that_a_policy_reads(make_by_file: Make) -> None:
    client = make_by_file(SEVERAL).client

    assert ask(client, None).status == 400
    assert ask(client, None, uri="/").status == 204
    assert client.get("/forward-auth", headers={"X-Forwarded-Uri": "/"}).status == 400
    assert client.get("/forward-auth", peer="203.0.113.9").status == 403


def test_without_a_name_policies_are_in_force_that_the_file_has_now(make_by_file: Make) -> None:
    running = make_by_file("[policies.a]\nlimits = '1/minute'\n")
    policies = running.service.policies
    assert ask(running.client, None).headers["RateLimit"].startswith('"a"')
    assert policies.path is not None
    with open(policies.path, "w") as file:
        file.write("[policies.b]\nlimits = '1/minute'\n")
    policies.reload()

    assert ask(running.client, None).headers["RateLimit"].startswith('"b"')


def test_without_a_file_the_only_policy_is_asked(make_app: Make) -> None:
    client = make_app(LIMITS="1/minute").client

    assert [ask(client, None).status, ask(client).status] == [204, 429]


def test_a_file_with_leases_alone_decides_about_no_request(
    make_by_file: Make, caplog: pytest.LogCaptureFixture
) -> None:
    text = "[policies.jobs]\nlimits = { algorithm = 'concurrency', limit = 1 }\n"
    client = make_by_file(text).client

    assert ask(client, None, uri="/").status == 422
    assert "/forward-auth leaves it out" in caplog.text


def test_only_a_name_may_have_a_path_after_it(make_app: Make) -> None:
    client = make_app().client

    for path in ("/forward-auth?x=/a", "/forward-auth/default?x=/a"):
        assert client.get(path, headers=CLIENT).status == 204
    for path in ("/forward-authx", "/forward-auth/", "/forward-auth//default", "/Forward-Auth"):
        assert client.get(path, headers=CLIENT).status == 404


def test_prepaid_units_are_spent(make_app: Make) -> None:
    """A request that finds units in the process calls no store."""
    running = make_app(LIMITS="100/minute", PREPAID="10")
    answers = [ask(running.client) for _ in range(5)]
    metrics = running.operators.get("/metrics").text

    assert [answer.status for answer in answers] == [204] * 5
    assert answers[4].headers["RateLimit"].startswith('"default";r=95;')
    assert 'limiter_decisions_total{outcome="allowed",policy="default"} 5.0' in metrics


def test_header_fields_of_a_repeated_name_are_joined(make_by_file: Make) -> None:
    """Two addresses are two entries; two keys or hosts are ambiguous."""
    client = make_by_file(ORDERS).client

    def status(policy: str, *fields: tuple[bytes, bytes]) -> int:
        own = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-uri", b"/"), *fields]
        return client.get(f"/forward-auth/{policy}", scope={"headers": own}).status

    assert status("users", (b"x-user", b"a"), (b"x-user", b"b")) == 400
    assert status("users", (b"x-user", b"a"), (b"x-forwarded-uri", b"/orders/1")) == 400
    assert status("users", (b"x-user", b"a")) == 204
    # The client's own entry is left of the proxy's, which counts.
    assert status("users", (b"X-User", b"a"), (b"x-forwarded-for", b"nonsense")) == 400


EVERY_KEY = """
[policies.address]
limits = "10000/hour"
exempt.networks = ["198.51.100.0/24"]
exempt.paths = ["/static/**"]

[policies.host]
limits = "10000/hour"
key = ["host", "path:id"]
match.paths = ["/orders/{id}/**"]
match.hosts = ["*.example.com"]

[policies.key]
limits = "10000/hour"
key = "api-key"
new_subjects = "1000/hour"

[policies.cookie]
limits = "10000/hour"
key = "cookie:sid"
unidentified = "address"

[policies.body]
limits = "10000/hour"
key = "header:X-User"
cost = { body = "1KiB" }
unidentified = "skip"
"""

_NAMES = [
    *("x-forwarded-for", "x-forwarded-uri", "x-forwarded-method", "x-forwarded-host", "x-real-ip"),
    *("forwarded", "host", "cookie", "authorization", "x-api-key", "x-user", "content-length"),
    *("transfer-encoding", "traceparent", "baggage", "origin", "access-control-request-method"),
]
_VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"203.0.113.9", b"/orders/7/x", b"OPTIONS", b"sid=a", b"Bearer x", b"0"]),
)


@pytest.fixture
def tolerant(make_by_file: Make) -> Client:
    """A client of a service with policies of every kind."""
    return make_by_file(EVERY_KEY, STORE="memory://").client


@given(
    fields=st.lists(st.tuples(st.sampled_from(_NAMES), _VALUES), max_size=8),
    name=st.sampled_from([None, "address", "host", "key", "cookie", "body", "nobody"]),
    appended=st.binary(max_size=20),
    method=st.text("AGEPTOSHN-x,\xe9 ", max_size=8),
    peer=st.sampled_from([("127.0.0.1", 1), ("203.0.113.9", 0), ("unix", 1), None]),
)
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
def test_no_request_fails(
    tolerant: Client,
    fields: list[tuple[str, bytes]],
    name: str | None,
    appended: bytes,
    method: str,
    peer: tuple[str, int] | None,
) -> None:
    """A 5xx is for what the store does: no bytes of a client or a proxy cause one."""
    raw = "/forward-auth" if name is None else f"/forward-auth/{name}"
    sent = raw.encode() + (b"" if name is None or not appended else b"/" + appended)
    scope = {
        "raw_path": sent,
        "path": decoded(sent.decode("latin-1")),
        "headers": [(field.encode(), value) for field, value in fields],
        "client": peer,
    }
    answer = tolerant.ask(method, raw, scope=scope)

    assert answer.status in (200, 204, 400, 403, 404, 413, 429)
    assert (answer.status < 300) == (answer.body == b"" and method != "HEAD")


EVERY_SETTING = """
[policies.everyone]
limits = "5/day"
exempt.networks = ["203.0.113.0/28"]
overrides."203.0.113.33" = "2/day"

[policies.keys]
limits = "2/day"
key = "api-key"
unidentified = "address"
exempt.keys = ["friend"]
new_subjects = "2/day"

[policies.users]
limits = "2/day"
key = ["header:X-User", "host"]
unidentified = "skip"
percent = 50
preflights = true

[policies.writes]
limits = "3/day"
key = "cookie:sid"
cap = true
plan = { header = "X-Plan" }
class = { header = "X-Priority", low = 0.5, high = 1 }
plans.gold = { limits = "6/day", key_prefix = "2" }
match.methods = ["POST", "PUT"]
cost = { header = "X-Cost" }
preflights = false

[policies.orders]
limits = "1/day"
key = "path:id"
match.paths = ["/orders/{id}", "/orders/{id}/x"]
match.ignore_case = true

[policies.hosts]
limits = "1/day"
match.hosts = ["*.example.com"]
exempt.paths = ["/static/**"]
shadow = true

[policies.default]
limits = ["2/day", { algorithm = "fixed_window", limit = 3, per = "day", name = "fixed" }]
"""

_FIELDS = {
    "x-forwarded-for": ["203.0.113.1", "203.0.113.17", "203.0.113.33", "1.2.3.4, 203.0.113.33"],
    "x-api-key": ["a", "b", "friend", ""],
    "authorization": ["Bearer a", "bearer  b", "Bearer a b", "Basic YTpi"],
    "cookie": ["sid=1", 'sid="1"', "sid=2; x=y", "x=y", "sid=%41"],
    "x-user": ["u", " u", "v", "\xe9", "u,v"],
    "x_user": ["w"],
    "x-cost": ["2", "9", "-1", "many"],
    "x-plan": ["gold", "gold, gold", "none"],
    "x-priority": ["high", "low", "top"],
    "origin": ["http://example.com"],
    "access-control-request-method": ["POST"],
}
_PROXIED = st.tuples(
    st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "PURGE"]),
    st.sampled_from(["/", "/orders/1", "/Orders/2/x", "/orders/%31", "/orders/a%2Fx", "//x"])
    | st.sampled_from(["/static/a", "/static/../orders/1", "/orders/1;v", "/orders/1/?x=y"]),
    st.sampled_from(["example.com", "API.example.com:80", "api.example.com.", "[::1]:80"]),
    st.lists(
        st.sampled_from([(name, value) for name in _FIELDS for value in _FIELDS[name]]), max_size=6
    ),
)


@given(requests=st.lists(_PROXIED, min_size=1, max_size=12), again=st.integers(1, 3))
@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
def test_without_a_name_the_service_decides_as_a_middleware_does(
    make_by_file: Make,
    new_subject: Callable[[], str],
    loop: asyncio.AbstractEventLoop,
    requests: list[tuple[str, str, str, list[tuple[str, str]]]],
    again: int,
) -> None:
    """A client that this file limits in one place is limited in the other, too."""
    service = make_by_file(EVERY_SETTING, STORE="memory://", PREFIX=new_subject())
    policies = AsyncPolicies(
        str(service.service.policies.path), store="memory://", prefix=new_subject()
    )
    middleware = Client(LimiterMiddleware(no_content, policies), loop)
    with Clock():  # else a second may end between the two
        for method, target, host, fields in requests * again:
            sent = [
                ("x-forwarded-for", "203.0.113.9"),
                *fields,
            ]  # the nearest proxy adds the last entry
            raw = [(name.encode(), value.encode("latin-1")) for name, value in sent]
            own = [
                (b"x-forwarded-method", method.encode()),
                (b"x-forwarded-host", host.encode()),
                (b"x-forwarded-uri", target.encode()),
            ]
            expected = middleware.ask(
                method, target, scope={"headers": [(b"host", host.encode()), *raw]}
            )
            answer = service.client.get("/forward-auth", scope={"headers": raw + own})

            assert answer.status == expected.status, (method, target, host, fields)
            assert answer.headers.get("RateLimit") == expected.headers.get("RateLimit")
            if method != "HEAD":  # the proxy itself sends a GET
                assert answer.body == expected.body


async def no_content(scope: Scope, receive: Receive, send: Send) -> None:
    """An application."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})

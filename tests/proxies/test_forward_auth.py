"""Tests for every proxy whose configuration is in docs/forward-auth.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from service.demo.servers import HOST
from tests.proxies.support import MARKS, Front, by_file, front, run_service, run_upstream

pytestmark = MARKS

POLICIES = """
[policies.default]
limits = "4/minute"
plan = { header = "X-Plan" }
plans.gold.limits = "1000/minute"
class = { header = "X-Priority", low = 0.75, critical = 1.0 }
match.methods = ["GET", "POST", "OPTIONS"]
match.paths = ["/limited/**"]
match.hosts = ["127.0.0.1"]
"""

#: How each proxy removes or sets the fields that name a plan and a class; the others do not pass them on.
OWN_FIELDS = {
    "short-traefik": {
        'X-Forwarded-Host: ""': 'X-Forwarded-Host: ""\n          X-Plan: ""\n          X-Priority: low',
        "- Origin": "- Origin\n          - X-Plan\n          - X-Priority",
    },
    "nginx": {
        'proxy_set_header Content-Length "";': 'proxy_set_header Content-Length ""; '
        'proxy_set_header X-Plan ""; proxy_set_header X-Priority low;'
    },
    "caddy": {
        "request_header -RateLimit-Policy": "request_header -RateLimit-Policy\n"
        "\t\trequest_header -X-Plan\n\t\trequest_header X-Priority low"
    },
}

A_PREFLIGHT = {"Origin": "https://x.example", "Access-Control-Request-Method": "PUT"}

#: Fields with which a client may try to change its address or its request.
FORGED = [
    {"X-Forwarded-For": "203.0.113.1"},
    {"X-Forwarded-For": "203.0.113.1, 203.0.113.2"},
    {"X-Real-Ip": "203.0.113.3"},
    {"Forwarded": "for=203.0.113.4"},
    {"X_Forwarded_For": "203.0.113.5"},
    {"X-Plan": "gold"},
    {"X-Priority": "critical"},
    {"X-Forwarded-Method": "HEAD"},
    {"X-Forwarded-Uri": "/free"},
    {"X-Forwarded-Host": "elsewhere.example"},
    {"X-Original-Uri": "/free"},
    {"Connection": "close, X-Forwarded-For, X-Forwarded-Uri"},
]


@pytest.fixture(scope="module")
def upstream_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """One upstream behind all proxies."""
    with run_upstream(tmp_path_factory.mktemp("upstream")) as port:
        yield port


@pytest.fixture(scope="module", params=["traefik", "short-traefik", "nginx", "caddy", "envoy"])
def proxy(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    store: str,
    upstream_port: int,
) -> Iterator[Front]:
    """A proxy with a service of its own, which the last test stops."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = OWN_FIELDS.get(request.param)
    with (
        run_service(upstream_port, folder, **by_file(folder, POLICIES, store)) as found,
        front(folder, request.param, changes=changes, found=found) as running,
    ):
        yield running


def test_a_client_is_limited_and_gets_the_fields(proxy: Front) -> None:
    answers = [proxy.ask("127.1.0.1", path="/limited/x?y=1") for _ in range(4)]
    denied = answers[3]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    for left, answer in zip((2, 1, 0), answers, strict=False):
        assert answer.fields["ratelimit"] == f'"default";r={left};t=60'
        assert answer.fields["ratelimit-policy"] == '"default";q=3;w=60'
        assert "retry-after" not in answer.fields
    assert json.loads(answers[0].text)["upstream"] == "upstream"
    assert denied.fields["content-type"] == "application/problem+json"
    assert denied.fields["cache-control"] == "no-store"
    assert 50 <= int(denied.fields["retry-after"]) <= 60
    assert denied.fields["ratelimit"].startswith('"default";r=0')
    assert json.loads(denied.text)["status"] == 429
    # Another client has a limit of its own.
    assert proxy.ask("127.1.0.2", path="/limited/x").status == 200


def test_fields_of_a_client_do_not_count(proxy: Front) -> None:
    statuses = [proxy.ask("127.2.0.1", "GET", "/limited/x", fields).status for fields in FORGED]

    # Envoy answers 400 to a Connection field that names fields which it sets.
    assert statuses[:-1] == [200] * 3 + [429] * (len(FORGED) - 4)
    assert statuses[-1] in (400, 429)
    # The client's own RateLimit fields are not in the response.
    told = proxy.ask("127.2.0.1", path="/free", fields={"RateLimit": "forged"})
    assert told.status == 200
    assert "forged" not in str(told)


def test_method_and_path_are_those_of_the_client(proxy: Front) -> None:
    def status(method: str, path: str) -> int:
        return proxy.ask("127.3.0.1", method, path, body=b"" if method == "POST" else None).status

    assert [status("POST", "/limited/x") for _ in range(4)] == [200, 200, 200, 429]
    assert status("GET", "/limited/x") == 429
    assert status("PUT", "/limited/x") == 200
    assert status("POST", "/free") == 200
    for spelled in ("//limited/x", "/%6cimited/x", "/free/../limited/x", "/./limited/x"):
        # Some proxies refuse such a path, or redirect to the plain one: none lets it pass.
        assert status("GET", spelled) in (307, 308, 400, 429), spelled


def test_the_host_is_the_one_that_the_target_names(proxy: Front) -> None:
    """The proxy chooses by it where a request goes; the field Host may name another one (RFC 9112)."""
    fields = {"Host": "elsewhere.example"}
    target = "http://127.0.0.1/limited/x"
    statuses = [proxy.ask("127.7.0.1", "GET", target, fields).status for _ in range(5)]

    assert set(statuses) <= {200, 400, 429}
    assert statuses.count(200) <= 3
    assert statuses[-1] != 200


def test_a_preflight_is_counted_apart(proxy: Front) -> None:
    def status(fields: dict[str, str]) -> int:
        return proxy.ask("127.4.0.1", "OPTIONS", "/limited/x", fields).status

    # It has no class.
    assert [status(A_PREFLIGHT) for _ in range(6)] == [200, 200, 200, 200, 429, 429]
    assert [status({}) for _ in range(4)] == [200, 200, 200, 429]


def test_bodies_reach_only_the_upstream(proxy: Front) -> None:
    """If the service read them, it would refuse more than 64 KiB."""
    for _ in range(2):
        answer = proxy.ask("127.5.0.1", "POST", "/limited/x", body=b"x" * 500_000)
        assert answer.status == 200


def test_no_request_passes_without_the_service(proxy: Front) -> None:
    """The last test, since it stops the service."""
    proxy.service.stop()

    answer = proxy.ask("127.6.0.1", path="/limited/x")
    assert answer.status >= 500
    assert "upstream" not in answer.text


def test_a_denial_leaves_no_line_in_nginx_s_error_log(
    tmp_path: Path, store: str, upstream_port: int
) -> None:
    """The denial also keeps the client's connection open, with or without a body."""
    variables = by_file(tmp_path, POLICIES, store)
    with (
        run_service(upstream_port, tmp_path, **variables) as found,
        front(tmp_path, "nginx", found=found) as proxy,
    ):
        before = (tmp_path / "nginx.log").read_text()  # while it waited for the upstream
        connection = HTTPConnection(HOST, proxy.port, timeout=20)
        statuses, kept = [], []
        for body in (None, None, None, b"x" * 100_000, None):
            connection.request("POST", "/limited/x", body)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            kept.append(connection.sock)
        connection.close()
        proxy.service.stop()
        unavailable = proxy.ask("127.6.0.2", path="/limited/x")
    lines = (tmp_path / "nginx.log").read_text().removeprefix(before).splitlines()

    assert statuses == [200, 200, 200, 429, 429]
    assert len({id(one) for one in kept}) == 1
    assert unavailable.status == 503
    assert [line for line in lines if "connect() failed" not in line] == [
        line for line in lines if "unexpected status: 50" in line
    ]

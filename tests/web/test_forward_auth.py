"""What a proxy reports of a client's request, and when the service refuses to decide about it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from limiter import Concurrency, Limiter
from limiter.web.forward_auth import Refusal, reported
from limiter.web.guard import Guard
from limiter.web.match import Match, pattern
from limiter.web.request import Request
from limiter.web.rules import Rule

TRUSTED = (ip_network("192.0.2.0/24"),)
REPORT = {
    "x-forwarded-for": "203.0.113.9",
    "x-forwarded-method": "post",
    "x-forwarded-host": "API.example:443",
    "x-forwarded-uri": "/orders/%37?x=1",
    "content-length": "0",
}


def guard(limits: Any = "5/minute", **conditions: Any) -> Guard:
    return Guard([Rule(Limiter(limits, store="memory://"), **conditions)])


def asked(headers: dict[str, str], peer: str = "192.0.2.1") -> Request:
    return Request("GET", "limiter.internal", "/forward-auth", headers, peer)


def test_the_request_of_a_client() -> None:
    client = reported(asked(REPORT), guard(), TRUSTED)
    assert isinstance(client, Request)
    assert (client.method, client.host, client.path) == ("POST", "api.example", "/orders/7")
    assert client.caller(TRUSTED) == "203.0.113.9"
    assert client.size is None  # nothing is known of the client's body


def test_a_proxy_that_appends_the_target() -> None:
    """It keeps the method and the host."""
    client = reported(asked({"x-forwarded-for": "203.0.113.9"}), guard(), TRUSTED, "/orders/7?x=1")
    assert isinstance(client, Request)
    assert (client.method, client.host) == ("GET", "limiter.internal")
    assert (client.path, client.target) == ("/orders/7", "/orders/7?x=1")


def test_the_path_may_be_missing_if_no_policy_reads_it() -> None:
    headers = {"x-forwarded-for": "203.0.113.9"}
    assert isinstance(reported(asked(headers), guard(), TRUSTED), Request)
    for conditions in (
        {"match": Match(paths=(pattern("/a"),))},
        {"exempt_paths": (pattern("/a"),)},
    ):
        refusal = reported(asked(headers), guard(**conditions), TRUSTED)
        assert isinstance(refusal, Refusal)
        assert refusal.status == 400


LEASES = Guard([Rule(Limiter(Concurrency(2), store="memory://"))])


@pytest.mark.parametrize(
    ("headers", "peer", "given", "expected"),
    [
        (REPORT, "203.0.113.9", guard(), (403, "Only trusted proxies are answered.")),
        (REPORT, "192.0.2.1", None, (404, "There is no such policy.")),
        (
            REPORT,
            "192.0.2.1",
            LEASES,
            (422, "This policy counts leases, and ForwardAuth does not see a request end."),
        ),
        (
            REPORT,
            "192.0.2.1",
            Guard([]),
            (422, "Every policy counts leases, and ForwardAuth does not see a request end."),
        ),
        *(
            (
                {**REPORT, name: value},
                "192.0.2.1",
                guard(),
                (400, "The proxy does not report the method, host or path."),
            )
            for name, value in (
                ("x-forwarded-uri", ""),
                ("x-forwarded-uri", "a b"),
                ("x-forwarded-host", "a.example, b.example"),
                ("x-forwarded-method", "GET, POST"),
            )
        ),
        *(
            (
                {"x-forwarded-uri": "/a", **address},
                "192.0.2.1",
                guard(),
                (400, "The proxy does not report the client's address."),
            )
            for address in ({}, {"x-forwarded-for": ""}, {"x-forwarded-for": "unknown"})
        ),
    ],
)
def test_refusals(
    headers: dict[str, str], peer: str, given: Guard | None, expected: tuple[int, str]
) -> None:
    refusal = reported(asked(headers, peer), given, TRUSTED)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.detail) == expected


def test_a_refusal_about_the_client_has_the_path_of_the_client() -> None:
    assert reported(asked({"x-forwarded-uri": "/a"}), guard(), TRUSTED) == Refusal(
        400, "The proxy does not report the client's address.", "/a"
    )

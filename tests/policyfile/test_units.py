"""What a policy's limits count, as a refusal and the header fields name it."""

from __future__ import annotations

import json

import pytest

from limiter.policyfile.reading import read
from limiter.web.guard import Guard
from limiter.web.request import Request
from limiter.web.rules import Rule
from limiter.web.verdict import Verdict


def rule(cost: str, limits: str = "20480/hour") -> Rule:
    text = f"[policies.p]\nlimits = '{limits}'\nalgorithm = 'fixed_window'\ncost = {cost}\n"
    return read(text, "policies.toml").policies["p"].rule


@pytest.mark.parametrize(
    ("cost", "unit"),
    [
        ("1", "requests"),
        ("5", "units"),
        ("{ header = 'X-Cost' }", "units"),
        ("{ body = 1 }", "bytes"),
        ("{ body = '1B' }", "bytes"),
        ("{ body = '1 kb' }", "KB"),
        ("{ body = 1024 }", "KiB"),
        ("{ body = '1MB' }", "MB"),
        ("{ body = '1024KiB' }", "MiB"),
        ("{ body = '1GB' }", "GB"),
        ("{ body = '1GiB' }", "GiB"),
        ("{ body = 512 }", "units of 512 bytes"),
        ("{ body = '64KiB' }", "units of 64 KiB"),
        ("{ body = '64KB' }", "units of 64 KB"),
        ("{ body = '1025' }", "units of 1,025 bytes"),
    ],
)
def test_units(cost: str, unit: str) -> None:
    assert rule(cost).unit == unit


def denied(rule: Rule, size: int) -> Verdict:
    """The verdict about the second of two requests with bodies of this size."""
    request = Request("POST", "h.example", "/", {"content-length": str(size)}, "203.0.113.9")
    guard = Guard([rule])
    assert guard.enter(request).allowed
    verdict = guard.enter(request)
    assert verdict.status == 429
    return verdict


@pytest.mark.parametrize(
    ("cost", "limits", "size", "amount", "policy"),
    [
        ("1", "1/minute", 0, "1 request per 60 s", '"p";q=1;w=60'),
        ("5", "9/minute", 0, "9 units per 60 s", '"p";q=9;w=60'),
        (
            "{ body = '1KiB' }",
            "20480/hour",
            20480 * 1024,
            "20,480 KiB per 3600 s",
            '"p";q=20480;w=3600',
        ),
        ("{ body = '64KB' }", "1/minute", 9, "1 unit of 64 KB per 60 s", '"p";q=1;w=60'),
        (
            "{ body = 1 }",
            "65536/minute",
            40_000,
            "65,536 bytes per 60 s",
            '"p";q=65536;qu="content-bytes";w=60',
        ),
    ],
)
def test_a_denial_names_the_unit(
    cost: str, limits: str, size: int, amount: str, policy: str
) -> None:
    """The draft has a name for bytes, and for none of the others."""
    verdict = denied(rule(cost, limits), size)
    assert json.loads(verdict.body)["detail"] == f"Policy p allows {amount}."
    assert dict(verdict.fields)["RateLimit-Policy"] == policy


def test_a_body_that_is_counted_by_bytes_below_a_second() -> None:
    """The syntax has no window there, and still a unit."""
    verdict = denied(rule("{ body = 1 }", "9/100ms"), 9)
    assert dict(verdict.fields)["RateLimit-Policy"] == '"p";q=9;qu="content-bytes"'
    assert json.loads(verdict.body)["detail"] == "Policy p allows 9 bytes per 0.1 s."

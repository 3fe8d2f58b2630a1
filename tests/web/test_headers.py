"""Decisions and the exact text of their header fields."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.decision import Decision
from limiter.policies import FixedWindow, Policy, SlidingLog, TokenBucket
from limiter.web import headers, problems
from limiter.web.identity import NoAddress, Unidentified

SECOND = 1_000_000


def decide(*parts: tuple[Policy, int, float, float]) -> Decision:
    """Make a decision out of (policy, remaining, retry_after, reset_after) in seconds."""
    reply: list[int] = []
    for _, remaining, retry_after, reset_after in parts:
        reply += [0, remaining, round(retry_after * SECOND), round(reset_after * SECOND), 0]
    return Decision(tuple(part[0] for part in parts), [*reply, 0])


MINUTE = SlidingLog(100, per=60)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            [(MINUTE, 99, 0, 60)],
            {"RateLimit-Policy": '"api";q=100;w=60', "RateLimit": '"api";r=99;t=60'},
        ),
        (
            [(MINUTE, 0, 4.2, 59.9)],
            {
                "RateLimit-Policy": '"api";q=100;w=60',
                "RateLimit": '"api";r=0;t=5',
                "Retry-After": "5",
            },
        ),
        (  # a microsecond is rounded up to a second: a client never comes too early
            [(MINUTE, 0, 0.000_001, 60)],
            {
                "RateLimit-Policy": '"api";q=100;w=60',
                "RateLimit": '"api";r=0;t=1',
                "Retry-After": "1",
            },
        ),
        (  # an exact second stays one second
            [(MINUTE, 0, 5, 60)],
            {
                "RateLimit-Policy": '"api";q=100;w=60',
                "RateLimit": '"api";r=0;t=5',
                "Retry-After": "5",
            },
        ),
        (  # unused
            [(FixedWindow(5, per=60), 5, 0, 0)],
            {"RateLimit-Policy": '"api";q=5;w=60', "RateLimit": '"api";r=5;t=0'},
        ),
        (  # a bucket: its capacity, and how long it takes to fill
            [(TokenBucket(100, per=60, burst=20), 19, 0, 0.6)],
            {"RateLimit-Policy": '"api";q=20;w=12', "RateLimit": '"api";r=19;t=1'},
        ),
        (
            [(TokenBucket(7, per=60, burst=2), 1, 0, 8.5)],
            {"RateLimit-Policy": '"api";q=2;w=18', "RateLimit": '"api";r=1;t=9'},
        ),
        (
            [(SlidingLog(5, per=1.5), 4, 0, 1.5)],
            {"RateLimit-Policy": '"api";q=5;w=2', "RateLimit": '"api";r=4;t=2'},
        ),
        (  # below a second the syntax has no window
            [(SlidingLog(5, per=0.25), 0, 0.1, 0.25)],
            {"RateLimit-Policy": '"api";q=5', "RateLimit": '"api";r=0;t=1', "Retry-After": "1"},
        ),
        (  # a debt from before the limit was raised: at most the window
            [(TokenBucket(100, per=60), 0, 90, 120)],
            {
                "RateLimit-Policy": '"api";q=100;w=60',
                "RateLimit": '"api";r=0;t=60',
                "Retry-After": "90",
            },
        ),
        (  # several policies: by name, else by number
            [
                (FixedWindow(10, per=1, name="burst"), 9, 0, 1),
                (MINUTE, 0, 7, 60),
                (FixedWindow(1000, per="hour"), 500, 0, 3600),
            ],
            {
                "RateLimit-Policy": '"burst";q=10;w=1, "api.1";q=100;w=60, "api.2";q=1000;w=3600',
                "RateLimit": '"burst";r=9;t=1, "api.1";r=0;t=7, "api.2";r=500;t=3600',
                "Retry-After": "7",
            },
        ),
        (  # a single policy without a name needs no number
            [(FixedWindow(10, per=1, name="burst"), 9, 0, 1), (MINUTE, 99, 0, 60)],
            {
                "RateLimit-Policy": '"burst";q=10;w=1, "api";q=100;w=60',
                "RateLimit": '"burst";r=9;t=1, "api";r=99;t=60',
            },
        ),
    ],
)
def test_fields(parts: list[tuple[Policy, int, float, float]], expected: dict[str, str]) -> None:
    rendered = headers.fields(decide(*parts), "api")

    assert dict(rendered) == expected
    assert len(rendered) == len(expected)


def test_older_forms_show_one_limit() -> None:
    """All three numbers are of one limit, so a client waits for the right reset."""
    day = FixedWindow(100, per="day")
    for form, prefix in (("x-ratelimit", "X-RateLimit"), ("draft-06", "RateLimit")):
        allowed = headers.fields(decide((MINUTE, 3, 0, 40), (day, 80, 0, 86_000)), "api", form)
        denied = headers.fields(decide((day, 80, 0, 86_000), (MINUTE, 0, 7, 40)), "api", form)

        names = [f"{prefix}-Limit", f"{prefix}-Remaining", f"{prefix}-Reset"]
        assert allowed == list(zip(names, ["100", "3", "40"], strict=True))
        assert denied == [*zip(names, ["100", "0", "40"], strict=True), ("Retry-After", "7")]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_fallback_without_numbers_has_no_fields(allowed: bool) -> None:
    assert headers.fields(Decision.without_store((MINUTE,), allowed), "api") == []


@given(
    retry_us=st.integers(0, 366 * 86_400 * SECOND),
    reset_us=st.integers(0, 366 * 86_400 * SECOND),
    remaining=st.integers(0, 10**12),
    policy=st.builds(
        FixedWindow, st.integers(1, 10**12), st.integers(1, 10**9).map(lambda ms: ms / 1000)
    ),
)
def test_every_field_is_a_structured_field_of_integers(
    retry_us: int, reset_us: int, remaining: int, policy: Policy
) -> None:
    """By RFC 9651, a parser ignores the whole field if one member is malformed."""
    decision = Decision((policy,), [0, remaining, retry_us, reset_us, 0, 0])
    rendered = dict(headers.fields(decision, "api"))

    assert re.fullmatch(r'"api";q=\d{1,15}(;w=[1-9]\d{0,14})?', rendered["RateLimit-Policy"])
    assert re.fullmatch(r'"api";r=\d{1,15};t=\d{1,15}', rendered["RateLimit"])
    assert ("Retry-After" in rendered) == (retry_us > 0)
    if retry_us:
        # A client that waits this long is admitted, and waits less than a second too long.
        seconds = int(rendered["Retry-After"])
        assert max(0, (seconds - 1)) * SECOND < retry_us <= seconds * SECOND
        assert seconds >= int(rendered["RateLimit"].rpartition("=")[2]) >= 1


def test_quota_exceeded_names_the_limits_that_denied() -> None:
    decision = decide(
        (FixedWindow(10, per=1, name="burst"), 9, 0, 1),
        (TokenBucket(100, per=60, burst=20), 0, 4.2, 12),
    )
    body = problems.quota_exceeded([(decision, "api", "requests")], "/orders/42")

    assert json.loads(body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": "Policy api allows 100 requests per 60 s, 20 at once.",
        "instance": "/orders/42",
        "violated-policies": ["api"],
    }


def test_the_bodies_of_one_limit_have_one_length() -> None:
    bodies = {
        problems.quota_exceeded([(decide((MINUTE, 0, seconds, 60)), "api", "requests")], "/")
        for seconds in (0.5, 5, 50)
    }

    assert len(bodies) == 1


def test_reduced_capacity_and_unidentified_are_problems_too() -> None:
    assert json.loads(problems.reduced_capacity("/x"))["status"] == 503
    assert json.loads(problems.unidentified(NoAddress("'x' is no address"), "/x")) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "The caller cannot be identified by its connection or by the header fields of proxies.",
        "instance": "/x",
    }
    why = problems.unidentified(Unidentified("the request has no API key"), "/x")
    assert json.loads(why)["detail"] == (
        "The caller cannot be identified: the request has no API key."
    )
    long = json.loads(problems.unidentified(Unidentified("\u20ac" * 3_000), "/x" * 3_000))
    assert long["detail"] == "The caller cannot be identified: " + "\u20ac" * 50 + "."
    assert len(problems.unidentified(Unidentified("x" * 3_000), "/x" * 3_000)) < 1024

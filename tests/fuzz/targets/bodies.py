"""Bodies of the service's ``/v1``: each gets a decision, or a refusal with its reason that costs nothing.

An input chooses the route, and where the body is split. The rest is the body, or the members of an object.
"""

from __future__ import annotations

import asyncio
import json
import os
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from limiter import testing
from limiter.server.app import create_app
from tests.fuzz.source import Source, words
from tests.server.client import Answer, Client

WORDS = words(
    '"key" "cost" "peek" "plan" "class" "checks" "items" "id" "policy" "lease" "renew" "seconds" '
    '"a" "rate" "leases" true false null NaN Infinity [] {} [1] -1 -0 0 1 5 6 1.0 1E2 1e400 '
    r"9007199254740993 99999999999999999999 { } : , ~ é \n \ud800 \u0000"
)

_LIMIT = 5
_POLICIES = Path(__file__).parents[1] / "service.toml"
_ROUTES = [
    route.split(" ")
    for route in """\
POST /v1/check/rate
POST /v1/refund/rate
POST /v1/hold/leases
DELETE /v1/hold/leases
POST /v1/reserve
POST /v1/settle
DELETE /v1/reserve
POST /v1/check/leases
POST /v1/hold/rate
POST /v1/check/x
PUT /v1/settle
""".splitlines()
]
_STATUSES = frozenset({200, 400, 404, 405, 409, 410, 413, 415, 422, 429})
_ITEM = '{"policy": "rate", "key": "a", "cost": 2}'
_NAMES = words("key cost peek plan class checks items id lease renew seconds x")
_VALUES = [
    *f"""\
"a"
1
5
6
true
false
null
0
-1
1.0
0.5
1e400
NaN
[]
{{}}
""
["a", 1]
[{_ITEM}]
[{_ITEM}, {_ITEM}]
[{{"key": "a"}}, {{"key": "a", "peek": true}}]
"b"
[{{"policy": "rate", "key": "b"}}]
[{{"policy": "leases", "key": "a"}}]
"gold"
9007199254740993
99999999999999999999
"\\ud800"
"\\u0000"
[["a"]]
"x" * 9
[1.0]
""".splitlines(),
    '"' + "x" * 1025 + '"',
]
_JSON = {"Content-Type": "application/json"}


def check(data: bytes) -> None:
    """Check a body in one piece and in two."""
    source = Source(data)
    method, path = source.pick(_ROUTES)
    split = source.byte()
    body = source.pick((Source.rest, _object))(source)
    client = _client()
    answers = []
    for pieces in ([body], [body[:split], b"", body[split:]]):
        testing.reset()
        answer = client.ask(method, path, pieces=pieces, headers=_JSON)
        _check_answer(answer)
        _check_charge(client, path, body, answer)
        answers.append(answer.status)
    assert answers[0] == answers[1], f"in pieces the answer is {answers[1]}, not {answers[0]}"


def _object(source: Source) -> bytes:
    """Return an object of members that the input's bytes choose."""
    members = []
    while source:
        members.append(f'"{source.pick(_NAMES)}": {source.pick(_VALUES)}')
    return f"{{{', '.join(members)}}}".encode()


def _check_answer(answer: Answer) -> None:
    """Check that an answer is JSON, and that a refusal has its reason."""
    assert answer.status in _STATUSES, answer
    body = answer.json()
    for name, value in answer.headers.items():
        assert (name + value).isprintable(), answer.headers
    if answer.status >= 400:
        assert answer.media_type == "application/problem+json"
        assert body["status"] == answer.status
        assert body["title"]
        assert body.get("detail") or body.get("violated-policies")


def _check_charge(client: Client, path: str, body: bytes, answer: Answer) -> None:
    """Check what a call about the subject ``a`` took: its cost if it was allowed, else nothing."""
    left = client.post("/v1/check/rate", json={"key": "a", "peek": True}).json()
    left = left["decision"]["remaining"]
    assert 0 <= left <= _LIMIT
    if answer.status != 200 or path == "/v1/refund/rate":
        assert left == _LIMIT, f"a body that was refused took {_LIMIT - left}"
    elif path == "/v1/check/rate":
        asked: Any = json.loads(body)
        for item in asked.get("checks", [asked]):
            if isinstance(item, dict) and item.get("key") == "a" and item is asked:
                expected = 0 if item.get("peek") else item.get("cost", 1)
                assert left == _LIMIT - expected, f"a cost of {expected} took {_LIMIT - left}"


@cache
def _client() -> Client:
    own = {"LIMITER_STORE": "memory://", "LIMITER_POLICIES": str(_POLICIES)}
    others = {name: value for name, value in os.environ.items() if "LIMITER_" not in name}
    with mock.patch.dict(os.environ, {**others, **own}, clear=True):
        return Client(create_app(), asyncio.new_event_loop())

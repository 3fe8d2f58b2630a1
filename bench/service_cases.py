"""The requests that the decision service gets, and its policies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from bench import wrk
from service.demo.servers import HOST

SUBJECTS = 1_000
BATCH = 100
BATCH_CONNECTIONS = 4

ALLOWED = ("allowed, many subjects", "allowed, one subject")
DENIED = ("denied, many subjects", "denied, one subject")
CHECK, BATCHES = "`/v1/check`", f"`/v1/check`, batches of {BATCH}, a decision"
NAMES = (*ALLOWED, *DENIED, CHECK, BATCHES)

POLICIES = """
[policies.open]
limits = "100000000/hour"
algorithm = "fixed_window"

[policies.tight]
limits = "1/day"
algorithm = "fixed_window"
"""

#: The header fields that Traefik's ForwardAuth sends with traefik/dynamic.yml.
_FORWARD_AUTH = """GET /forward-auth/{policy} HTTP/1.1
Host: {host}
User-Agent: wrk
X-Forwarded-For: {subject}
X-Forwarded-Host: shop.example
X-Forwarded-Method: GET
X-Forwarded-Port: 443
X-Forwarded-Proto: https
X-Forwarded-Server: proxy
X-Forwarded-Uri: /orders/42?page=2
X-Real-Ip: {subject}
Accept-Encoding: gzip

"""
_CHECK = """POST /v1/check/open HTTP/1.1
Host: {host}
Content-Type: application/json
Content-Length: {length}

{body}"""


class Load(NamedTuple):
    """What `wrk` sends in one case."""

    requests: list[bytes]
    """They are sent in turn."""
    denied: bool = False
    decisions: int = 1
    """Decisions of one request; the figures are of a decision."""
    connections: int = wrk.CONNECTIONS
    seconds: int = 1


def cases() -> dict[str, Load]:
    """Return each case's load, in the order of the tables."""
    many = [f"198.18.{number // 250}.{number % 250}" for number in range(SUBJECTS)]
    one = ["203.0.113.9"]
    batch = {"checks": [{"key": f"user-{number}"} for number in range(BATCH)]}
    return {
        ALLOWED[0]: Load(_questions("open", many)),
        ALLOWED[1]: Load(_questions("open", one)),
        DENIED[0]: Load(_questions("tight", many), denied=True),
        DENIED[1]: Load(_questions("tight", one), denied=True),
        CHECK: Load([_check({"key": "user-1"})]),
        # More connections would only wait longer, and more of them would be cut off at a run's end.
        BATCHES: Load([_check(batch)], False, BATCH, BATCH_CONNECTIONS, seconds=2),
    }


def _questions(policy: str, subjects: list[str]) -> list[bytes]:
    return [
        _raw(_FORWARD_AUTH.format(policy=policy, subject=subject, host=HOST))
        for subject in subjects
    ]


def _check(body: Mapping[str, object]) -> bytes:
    text = json.dumps(body)
    return _raw(_CHECK.format(host=HOST, length=len(text), body=text))


def _raw(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()

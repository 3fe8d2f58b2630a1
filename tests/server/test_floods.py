"""Floods of requests that are refused: at most one line of a kind in ten seconds, in each worker."""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.demo.servers import HOST, Server, free_port
from tests.server.serving import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8"),
]

#: Requests of each kind.
FLOOD = 60
TOKENS = {
    "LIMITER_API_TOKEN": "a-token-of-enough-length",
    "LIMITER_ADMIN_TOKEN": "another-token-of-length",
}

POLICIES = """
[policies.open]
limits = "100000/minute"
algorithm = "fixed_window"
[policies.small]
limits = "1/hour"
[policies.costly]
limits = "2/hour"
cost = { header = "X-Cost" }
[policies.leases]
limits = { algorithm = "concurrency", limit = 1 }
"""


def _post(path: str, body: str, fields: str = "Content-Type: application/json") -> bytes:
    length = len(body.encode())
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{body}".encode()


def _get(path: str, fields: str = "X: y") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode()


CLIENT = "X-Forwarded-For: 203.0.113.7"
#: Kinds of requests: what is sent, and the expected status of all but the first few.
REFUSED = {
    "no client": (_get("/forward-auth/open"), 400),
    "a client that is none": (_get("/forward-auth/open", "X-Forwarded-For: x"), 400),
    "no policy": (_get("/forward-auth/nobody", CLIENT), 404),
    "leases": (_get("/forward-auth/leases", CLIENT), 422),
    "denied": (_get("/forward-auth/small", CLIENT), 429),
    "too costly": (_get("/forward-auth/costly", f"{CLIENT}\r\nX-Cost: 9"), 413),
    "denied by the API": (_post("/v1/check/small", '{"key": "u"}'), 429),
    "no JSON": (_post("/v1/check/open", "{"), 400),
    "deep JSON": (_post("/v1/check/open", "[" * 60_000), 400),
    "another type": (_post("/v1/check/open", "{}", "Content-Type: text/plain"), 415),
    "no sense": (_post("/v1/check/open", '{"key": ""}'), 422),
    "too long": (_post("/v1/check/open", "x" * 70_000), 413),
    "no path": (_get("/v1/%00%ff"), 404),
    "wrong chunks": (
        b"POST /v1/check/open HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
    ),
    "an end too early": (_post("/v1/check/open", "x" * 100)[:-50], None),
    "no HTTP": (b"nonsense\r\n\r\n", 400),
    "other nonsense": (b"GET / HTTP/9.9\r\n\r\n", 400),
    "a field that is none": (b"GET / HTTP/1.1\r\nHost: x\r\nx y\r\n\r\n", 400),
    "another coding": (b"GET / HTTP/1.1\r\nTransfer-Encoding: x\r\n\r\n", 400),
    "a long line": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
}
OF_STRANGERS = {
    "a stranger": (_get("/forward-auth/open", CLIENT), 403),
    "a stranger at the API": (_post("/v1/check/open", "{}"), 403),
    "a wrong token": (_get("/v1/openapi.json", "Authorization: Bearer wrong"), None),
}
OF_OPERATORS = {
    "a wrong operator's token": (_get("/v1/policies", "Authorization: Bearer wrong"), None),
    "none": (_get("/v1/policies"), 401),
}


def flood(
    port: int, sent: bytes, status: int | None, source: str = HOST, ends: bool = True
) -> None:
    """Send it repeatedly, each time on a connection of its own, which may stay open."""

    def once(_: int) -> bytes:
        with socket.create_connection((HOST, port), 10, source_address=(source, 0)) as one:
            one.sendall(sent)
            if ends:
                one.shutdown(socket.SHUT_WR)
            return one.recv(65_536)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(once, range(FLOOD)))
    if status is not None:
        seen = Counter(answer[9:12] for answer in answers)
        assert seen[b"%d" % status] >= FLOOD - 2, (seen, sent[:80])


def kinds(log: Path) -> Counter[str]:
    """The lines of a log since it began to serve, without their numbers."""
    _, _, text = log.read_text().partition("Booting worker")
    lines = text.splitlines()[1:]
    return Counter(re.sub(r"[0-9]+", "0", line) for line in lines)


def test_refusals_are_few_lines(tmp_path: Path, store: str, subject: str) -> None:
    """Without throttling, each malformed request wrote a line, and invalid chunks a traceback."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    second = free_port()
    with serving(
        tmp_path / "log",
        f"--operators={HOST}:{second}",
        LIMITER_STORE=store,
        LIMITER_PREFIX=subject,
        LIMITER_POLICIES=str(tmp_path / "policies.toml"),
        LIMITER_TRUSTED_PROXIES=f"{HOST}/32",
        **TOKENS,
    ) as (child, url):
        port = int(url.rpartition(":")[2])
        for sent, status in REFUSED.values():
            flood(port, sent, status)
        for sent, status in OF_STRANGERS.values():
            flood(port, sent, status, "127.0.0.2")
        for sent, status in OF_OPERATORS.values():
            flood(second, sent, status, "127.0.0.2")
        assert child.alive
        found = kinds(tmp_path / "log")

    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text, text
    # A line of each kind; on a slow machine some are written a second time.
    assert sum(found.values()) <= 16, found
    for expected in ("a limit denied", "showed a token", "a request is refused"):
        assert expected in text


@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "is away"])
def test_a_store_that_does_not_decide_is_few_lines(tmp_path: Path, refuses: bool) -> None:
    variables = {"LIMITER_LIMITS": "1/hour", "LIMITER_ON_ERROR": "deny"}
    variables["LIMITER_TIMEOUT"] = "5" if refuses else "0.05"
    with Server(password="secret") as server:  # noqa: S106
        port = server.port if refuses else free_port()
        variables["LIMITER_STORE"] = f"redis://{HOST}:{port}/0"
        with serving(tmp_path / "log", **variables) as (_, url):
            own = int(url.rpartition(":")[2])
            flood(own, _get("/forward-auth/default", CLIENT), 503)
            flood(own, _post("/v1/check/default", '{"key": "u"}'), 503)
            flood(own, _post("/v1/refund/default", '{"key": "u"}'), 503)
            flood(own, _get("/readyz"), 503 if refuses else 200)
        found = kinds(tmp_path / "log")

    assert sum(found.values()) <= 8, found

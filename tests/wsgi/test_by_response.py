"""When a WSGI response shows the true cost of its request: once its head cannot change any more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, request

from limiter import Concurrency, Limiter
from limiter.policyfile import Policies
from limiter.web.by_response import StatusOrField
from limiter.web.rules import Rule
from limiter.wsgi import LimiterMiddleware
from tests.wsgi.support import CALLER, ask, begin, environ

MEMORY = "memory://"
TEXT = [("Content-Type", "text/plain")]


@pytest.fixture
def limiter() -> Iterator[Limiter]:
    """Ten units."""
    with Limiter("10/hour", store=MEMORY) as found:
        yield found


def left(limiter: Limiter) -> int:
    """What the caller has left."""
    return limiter.peek(CALLER).remaining


def used(cost: int) -> list[tuple[str, str]]:
    """The fields of a response with its true cost."""
    return [*TEXT, ("X-Used", str(cost))]


def charged(app: Any, limiter: Limiter, cost: int = 5) -> LimiterMiddleware:
    """The application, with an estimate that its response corrects."""
    return LimiterMiddleware(
        app, limiter, cost=cost, true_cost="header:X-Used", refund_unless=["2xx"]
    )


def test_a_stream_is_settled_when_its_head_has_been_sent(limiter: Limiter) -> None:
    seen: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", used(2))
        for piece in (b"", b"a", b"b", b"c"):
            seen.append(left(limiter))
            yield piece

    assert b"".join(ask(charged(app, limiter)).body) == b"abc"
    assert seen == [5, 5, 8, 8]
    assert left(limiter) == 8


def test_the_last_head_counts(limiter: Limiter) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", used(9))
        try:
            raise ValueError("too late for a 200")
        except ValueError:
            start_response("500 Oh", TEXT, sys.exc_info())
        return [b"sorry"]

    assert ask(charged(app, limiter)).code == 500
    assert left(limiter) == 10


def test_a_stream_that_breaks_is_not_free(limiter: Limiter) -> None:
    """An error before the first piece is a 500; after it, the client got a response, and pays for it."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", used(3))
        if environ["PATH_INFO"] == "/late":
            yield b"a"
        raise ValueError("broken")

    for path, expected in (("/early", 10), ("/late", 7)):
        with pytest.raises(ValueError, match="broken"):
            list(begin(charged(app, limiter), path=path).body)
        assert left(limiter) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_worker_that_ends_leaves_the_charge(limiter: Limiter, error: type[BaseException]) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise error

    with pytest.raises(error):
        ask(charged(app, limiter))
    assert left(limiter) == 5


def test_a_client_that_disconnects_does_not_get_its_request_for_nothing(limiter: Limiter) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", used(3))
        yield from (b"a", b"b")

    def no_server(status: str, fields: Any) -> Any:
        raise AssertionError(status)

    response: Any = charged(app, limiter)(environ(), no_server)
    response.close()  # before the first piece: there is no head
    assert left(limiter) == 5
    begin(charged(app, limiter)).body.close()  # type: ignore[attr-defined]
    assert left(limiter) == 2


def test_what_is_written_by_start_response(limiter: Limiter) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", used(1))(b"written")
        assert left(limiter) == 9
        raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        charged(app, limiter)(environ(), lambda *_: [].append)
    assert left(limiter) == 9


def test_head_requests_and_strange_statuses(limiter: Limiter) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(environ["PATH_INFO"][1:], used(1))
        return []

    for path, expected in (("/200 OK", 9), ("/999 Odd", 9), ("/Strange", 9)):
        charged(app, limiter)(environ(path=path, method="HEAD"), lambda *_: [].append).close()  # type: ignore[attr-defined]
        assert left(limiter) == expected


def test_leases_are_released_also_if_the_settlement_fails() -> None:
    """The function of a rule may raise an error: it is the application's."""
    with Limiter(
        [Concurrency(2), *Limiter("10/hour", store=MEMORY).policies], store=MEMORY
    ) as both:
        fails = Rule(both, by_response=lambda head: head.nothing)
        answer = begin(LimiterMiddleware(lambda _, start: start("200 OK", TEXT) and [b""], fails))
        assert both.peek(CALLER).each[0].remaining == 1
        with pytest.raises(AttributeError):
            answer.body.close()  # type: ignore[attr-defined]
        assert [each.remaining for each in both.peek(CALLER).each] == [2, 9]
        settles = Rule(both, by_response=StatusOrField(frozenset(), None))
        ask(LimiterMiddleware(lambda _, start: start("200 OK", TEXT) and [b"x"], settles))
        assert [each.remaining for each in both.peek(CALLER).each] == [2, 9]


# --- Flask, with a policy file ---


def test_flask_with_a_policy_file(tmp_path: Path) -> None:
    """Wrong passwords cost something, and nothing else does; tokens cost what the view says."""
    app = Flask(__name__)

    @app.post("/login")
    def login() -> str:
        return "welcome" if request.headers.get("X-Proof") == "right" else abort(401)

    @app.get("/tokens")
    def tokens() -> tuple[str, dict[str, str]]:
        return "text", {"X-Used": "7"}

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    file = tmp_path / "policies.toml"
    file.write_text(
        """
        [policies.passwords]
        limits = "2/hour"
        match = { paths = ["/login"], methods = ["POST"] }
        refund_unless = ["401"]

        [policies.tokens]
        limits = "30/hour"
        cost = 10
        match.paths = ["/tokens", "/broken"]
        true_cost = { header = "X-Used" }
        refund_unless = ["2xx"]
        """
    )
    policies = Policies(file, store=MEMORY)
    (_, of_tokens) = [rule.limiter for rule in policies.guard.rules]
    limited = LimiterMiddleware(app, policies)

    def log_in(**fields: str) -> int:
        return ask(limited, path="/login", method="POST", **fields).code

    assert [log_in(HTTP_X_PROOF="right") for _ in range(3)] == [200] * 3
    assert [log_in(), log_in(), log_in()] == [401, 401, 429]
    assert log_in(HTTP_X_PROOF="right") == 429
    assert [ask(limited, path=path).code for path in ("/tokens", "/broken")] == [200, 500]
    assert left(of_tokens) == 23
    policies.close()

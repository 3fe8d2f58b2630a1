"""What the middleware does between any server and any application."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from limiter import (
    Concurrency,
    FixedWindow,
    InvalidCost,
    InvalidPolicy,
    InvalidSetting,
    LeakyBucket,
    Limiter,
    StoreUnavailable,
)
from limiter.policyfile import Policies
from limiter.testing import StoreCall, intercept
from limiter.web.guard import AsyncGuard, Guard
from limiter.web.request import Request
from limiter.web.rules import Match, Rule, pattern
from limiter.web.subjects import identity
from limiter.web.verdict import Verdict
from limiter.wsgi import LimiterMiddleware
from service.demo.servers import HOST, free_port
from tests.wsgi.support import CALLER, Answer, ask, begin, environ, eventually

MEMORY = "memory://"


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Say hello."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def body(answer: Answer) -> bytes:
    return b"".join(answer.body)


# --- what is said ---


def test_one_line_limits_an_application() -> None:
    app = LimiterMiddleware(hello, "2/minute", store=MEMORY, name="api")
    answers = [ask(app, path="/a/b") for _ in range(3)]

    assert [answer.code for answer in answers] == [200, 200, 429]
    assert body(answers[0]) == b"hello"
    assert answers[0]["RateLimit-Policy"] == '"api";q=2;w=60'
    assert answers[0]["RateLimit"] == '"api";r=1;t=60'
    assert not answers[0].all("Retry-After")
    assert answers[2].status == "429 Too Many Requests"
    assert answers[2]["RateLimit-Policy"] == '"api";q=2;w=60'
    assert answers[2]["RateLimit"] == f'"api";r=0;t={answers[2]["Retry-After"]}'
    assert answers[2]["Retry-After"] in ("59", "60")
    assert answers[2]["Cache-Control"] == "no-store"
    assert answers[2]["Content-Type"] == "application/problem+json"
    assert answers[2]["Content-Length"] == str(len(body(answers[2])))
    assert json.loads(body(answers[2])) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": "Policy api allows 2 requests per 60 s.",
        "instance": "/a/b",
        "violated-policies": ["api"],
    }


def test_a_refusal_of_head_has_no_body() -> None:
    app = LimiterMiddleware(hello, "1/minute", store=MEMORY)
    ask(app)
    answer = ask(app, method="HEAD")

    assert (answer.code, body(answer)) == (429, b"")
    assert int(answer["Content-Length"]) > 100


def test_whoever_calls_has_a_limit_of_its_own() -> None:
    app = LimiterMiddleware(hello, "1/minute", store=MEMORY, trusted="203.0.113.7/32")

    def code(**more: str) -> int:
        return ask(app, **more).code

    assert code(HTTP_X_FORWARDED_FOR="198.51.100.1") == 200
    assert code(HTTP_X_FORWARDED_FOR="198.51.100.2") == 200
    assert code(HTTP_X_FORWARDED_FOR="192.0.2.9, 198.51.100.1") == 429
    # Whom nobody trusts is itself, whatever it says.
    assert code(REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="198.51.100.3") == 200
    assert code(REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="198.51.100.4") == 429


def test_proxies_may_say_it_in_another_header() -> None:
    more: Any = {"store": MEMORY, "trusted": CALLER, "address_from": "forwarded"}
    app = LimiterMiddleware(hello, "1/minute", **more)

    assert ask(app, HTTP_FORWARDED="for=198.51.100.1").code == 200
    assert ask(app, HTTP_FORWARDED="for=192.0.2.1, for=198.51.100.1").code == 429
    assert ask(app, HTTP_FORWARDED="for=198.51.100.2", HTTP_X_FORWARDED_FOR="10.0.0.1").code == 200


def test_who_cannot_be_told_is_refused() -> None:
    app = LimiterMiddleware(hello, "9/minute", store=MEMORY)
    answer = ask(app, REMOTE_ADDR="nobody")

    assert (answer.code, answer["Content-Type"]) == (400, "application/problem+json")
    assert not answer.all("RateLimit")


def test_keys_costs_and_forms() -> None:
    app = LimiterMiddleware(
        hello, "5/minute", store=MEMORY, key="api-key", cost=2, form="x-ratelimit"
    )
    answer = ask(app, HTTP_X_API_KEY="a")

    assert answer["X-RateLimit-Remaining"] == "3"
    assert not answer.all("RateLimit")
    assert [ask(app, HTTP_X_API_KEY="a").code for _ in range(2)] == [200, 429]
    assert ask(app, HTTP_X_API_KEY="b").code == 200
    nobody = ask(app)
    assert nobody.code == 400
    assert b"the request has no API key" in b"".join(nobody.body)


@pytest.mark.parametrize(
    "key",
    [
        lambda request: request.environ.get("REMOTE_USER"),
        lambda request, trusted: (request.environ.get("REMOTE_USER") or "", len(trusted))[0],
        lambda *both: both[0].environ.get("REMOTE_USER"),
    ],
)
def test_functions_take_as_much_as_they_need(key: Any) -> None:
    """And find what the server has put into the environment."""
    app = LimiterMiddleware(hello, "4/minute", store=MEMORY, key=key, cost=lambda: 2)
    codes = [ask(app, REMOTE_USER=user).code for user in ("ann", "ann", "bob", "ann", "")]
    assert codes == [200, 200, 200, 429, 400]


async def late(request: Any) -> str:
    """A function that has to be awaited."""
    return "x"


@pytest.mark.parametrize("setting", ["key", "cost"])
@pytest.mark.parametrize("function", [late, lambda one, two, three: (one, two, three)])
def test_a_function_that_cannot_be_called_is_an_error_at_once(setting: str, function: Any) -> None:
    with pytest.raises(InvalidSetting, match=f"{setting} is .*: accepted is a function of nothing"):
        LimiterMiddleware(hello, "5/minute", store=MEMORY, **{setting: function})
    with pytest.raises(InvalidSetting, match=r"'user': accepted .*; or a function of nothing"):
        LimiterMiddleware(hello, "5/minute", store=MEMORY, key="user")


def test_a_cost_that_makes_no_sense_lets_nobody_pass() -> None:
    """A fixed one shows at the start; what a function says is an error of the program, and no denial."""
    with pytest.raises(InvalidCost, match="cost is 6: accepted is a whole number from 1 to 5"):
        LimiterMiddleware(hello, "5/minute", store=MEMORY, cost=6)
    for wrong in (0, -1, True):
        with pytest.raises(InvalidSetting, match=f"cost is {wrong}: accepted .* from 1"):
            LimiterMiddleware(hello, "5/minute", store=MEMORY, cost=wrong)
    for wrong in (1.5, "3"):
        app = LimiterMiddleware(hello, "5/minute", store=MEMORY, cost=lambda *_, said=wrong: said)
        with pytest.raises(TypeError, match="accepted are a whole number"):
            ask(app)


@pytest.mark.parametrize("nobody", [None, "", b"", ()])
def test_a_function_that_names_nobody_lets_nobody_pass(nobody: Any) -> None:
    app = LimiterMiddleware(hello, "1/minute", store=MEMORY, key=lambda *_: nobody)

    assert ask(app).code == 400


@pytest.mark.parametrize("subject", [42, "x", ("x", 42)])
def test_a_function_says_for_whom(subject: Any) -> None:
    def whom(request: Request, trusted: Any) -> Any:
        return subject

    app = LimiterMiddleware(hello, "1/minute", store=MEMORY, key=whom)

    assert [ask(app, REMOTE_ADDR=f"192.0.2.{one}").code for one in (1, 2)] == [200, 429]


def test_what_can_never_pass_is_too_large() -> None:
    def cost(request: Request, trusted: Any) -> int:
        return request.size

    app = LimiterMiddleware(hello, "5/minute", store=MEMORY, cost=cost)

    assert ask(app, CONTENT_LENGTH="5").code == 200
    answer = ask(app, CONTENT_LENGTH="6")
    assert answer.status == "413 Content Too Large"  # as everywhere here; older Pythons differ
    assert not answer.all("Retry-After")


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error"])
def test_errors_of_the_application_say_it_too(status: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, [("Content-Type", "text/plain")])
        return [b"no"]

    assert ask(LimiterMiddleware(app, "5/minute", store=MEMORY))["RateLimit"].endswith(";r=4;t=60")


def test_an_application_may_change_its_mind() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise ValueError("too late for a 200")
        except ValueError:
            start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    answer = ask(LimiterMiddleware(app, "5/minute", store=MEMORY))

    assert answer.status == "500 Oh"
    assert len(answer.all("RateLimit")) == 1
    assert answer.exc_info[0] is ValueError


def test_a_server_may_know_no_exc_info_and_its_write_works() -> None:
    written: list[bytes] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"written")
        return []

    def start_response(status: str, headers: Any) -> Any:
        return written.append

    LimiterMiddleware(app, "5/minute", store=MEMORY)(environ(), start_response)

    assert written == [b"written"]


def test_what_the_application_says_itself_stays() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        own = [("RateLimit", '"own";r=1'), ("x-ratelimit-limit", "7"), ("Retry-After", "3")]
        start_response("200 OK", [("Content-Type", "text/plain"), *own])
        return [b"hello"]

    answer = ask(LimiterMiddleware(app, "5/minute", store=MEMORY))
    older = ask(LimiterMiddleware(app, "5/minute", store=MEMORY, form="x-ratelimit"))

    assert answer.all("RateLimit") == ['"own";r=1', '"default";r=4;t=60']
    assert older.all("X-RateLimit-Limit") == ["7"]
    assert older["X-RateLimit-Remaining"] == "4"


def test_two_of_them_speak_side_by_side() -> None:
    seen: list[Verdict] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.extend(environ["limiter.verdicts"])
        return hello(environ, start_response)

    inner = LimiterMiddleware(app, "5/minute", store=MEMORY, name="inner")
    answer = ask(LimiterMiddleware(inner, "9/minute", store=MEMORY, name="outer"))

    assert answer.all("RateLimit") == ['"inner";r=4;t=60', '"outer";r=8;t=60']
    assert [verdict.results[0].decision.remaining for verdict in seen] == [8, 4]


# --- what it is given ---


def test_rules_are_asked_in_one_call() -> None:
    first = Limiter("3/minute", store=MEMORY, name="all")
    search = Limiter("1/minute", store=first, name="search")
    rules = [Rule(first), Rule(search, match=Match(paths=(pattern("/search/**"),)))]
    app = LimiterMiddleware(hello, rules)
    calls: list[Any] = []
    intercept(first, lambda call, ahead: calls.append(call) or ahead())

    answer = ask(app, path="/search/x")

    assert answer["RateLimit"] == '"all";r=2;t=60, "search";r=0;t=60'
    assert len(calls) == 1
    denied = ask(app, path="/search/y")
    assert denied.code == 429
    assert denied["RateLimit"].startswith('"all";r=2;')  # nothing was taken
    assert ask(app, path="/")["RateLimit"] == '"all";r=1;t=60'


def test_a_guard_may_be_replaced() -> None:
    def guard(limits: str) -> Guard:
        return Guard([Rule(Limiter(limits, store=MEMORY))])

    holder = SimpleNamespace(guard=guard("5/minute"))
    app = LimiterMiddleware(hello, holder)

    assert ask(app)["RateLimit-Policy"] == '"default";q=5;w=60'
    holder.guard = guard("7/minute")
    assert ask(app)["RateLimit-Policy"] == '"default";q=7;w=60'
    assert ask(LimiterMiddleware(hello, holder.guard))["RateLimit"] == '"default";r=5;t=60'


def test_a_policy_file_and_what_it_says_later(tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    text = '[policies.pages]\nlimits = "5/minute"\nmatch.paths = ["/pages/**"]\n'
    file.write_text(text)
    with closing(Policies(file, store=MEMORY)) as policies:
        app = LimiterMiddleware(hello, policies)

        assert ask(app, path="/pages/a")["RateLimit"] == '"pages";r=4;t=60'
        assert not ask(app).all("RateLimit")
        file.write_text(text.replace("5/minute", "7/minute"))
        assert policies.reload()
        assert ask(app, path="/pages/a")["RateLimit"] == '"pages";r=5;t=60'


def test_a_limiter_a_rule_and_nothing() -> None:
    limiter = Limiter("5/minute", store=MEMORY, name="own")
    app = LimiterMiddleware(hello, limiter, key="global")

    assert ask(app)["RateLimit"] == '"own";r=4;t=60'
    assert limiter.peek("global").remaining == 4
    rule = Rule(limiter, identity=identity("global"))
    assert ask(LimiterMiddleware(hello, rule))["RateLimit"] == '"own";r=3;t=60'
    assert not ask(LimiterMiddleware(hello, ())).all("RateLimit")


def test_the_environment_says_what_is_not_given(
    monkeypatch: pytest.MonkeyPatch, store: str, subject: str
) -> None:
    monkeypatch.setenv("LIMITER_STORE", store)
    monkeypatch.setenv("LIMITER_PREFIX", subject)
    monkeypatch.setenv("LIMITER_LIMITS", "9/minute")
    monkeypatch.setenv("LIMITER_NAME", "ours")
    monkeypatch.setenv("LIMITER_TIMEOUT", "5")
    monkeypatch.setenv("LIMITER_ALGORITHM", "fixed_window")
    monkeypatch.setenv("LIMITER_TRUSTED_PROXIES", CALLER)

    app = LimiterMiddleware(hello)
    app.open()
    answer = ask(app, HTTP_X_FORWARDED_FOR="198.51.100.1")
    app.close()

    assert answer["RateLimit"] == '"ours";r=8;t=60'
    given = LimiterMiddleware(hello, FixedWindow(4, per=60), name="given")
    assert ask(given)["RateLimit-Policy"] == '"given";q=4;w=60'
    given.close()
    with Limiter("9/minute", store=store, prefix=subject, name="ours") as other:
        assert other.peek("198.51.100.1").remaining == 9  # another algorithm's state


@pytest.mark.parametrize(
    ("limits", "more", "message"),
    [
        ("5/minute", {}, "LIMITER_STORE is not set"),
        (None, {"store": MEMORY}, "LIMITER_LIMITS is not set: give it, for example 100/minute$"),
        ("5/minute", {"store": "http://x"}, "store is"),
        ("5/minute", {"store": MEMORY, "key": "nose"}, "key is 'nose'"),
        ("5/minute", {"store": MEMORY, "form": "loud"}, "form is 'loud'"),
        ("5/minute", {"store": MEMORY, "address_from": "x"}, "address_from is 'x'"),
        ("5/minute", {"store": MEMORY, "cost": 0}, "cost is 0"),
        ("5/minute", {"store": MEMORY, "trusted": "10.0.0.0/99"}, "trusted is '10.0.0.0/99'"),
        ([Rule(Limiter("5/minute", store=MEMORY))], {"key": "host"}, "key is given beside rules"),
        (Limiter("5/minute", store=MEMORY), {"name": "x"}, "name is given beside a limiter"),
        (Guard([]), {"trusted": "::/0"}, "trusted is given beside a guard"),
        (AsyncGuard([]), {}, "accepted here: Guard"),
        (SimpleNamespace(guard=None), {}, "accepted here: Guard"),
        (
            [Rule(Limiter("5/minute", store=MEMORY)), Rule(Limiter("6/minute", store=MEMORY))],
            {},
            "store of rule default is another",
        ),
    ],
)
def test_a_wrong_setting(limits: Any, more: Any, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        LimiterMiddleware(hello, limits, **more)


def test_other_mistakes_are_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidPolicy, match="0/minute"):
        LimiterMiddleware(hello, "0/minute", store=MEMORY)
    with pytest.raises(TypeError, match="stroe"):
        LimiterMiddleware(hello, "5/minute", store=MEMORY, stroe=MEMORY)
    monkeypatch.setenv("LIMITER_LIMITS", "0/minute")
    with pytest.raises(InvalidSetting, match=r"LIMITER_LIMITS.*'0/minute'"):
        LimiterMiddleware(hello, store=MEMORY)
    monkeypatch.setenv("LIMITER_ON_ERROR", "cry")
    with pytest.raises(InvalidSetting, match="LIMITER_ON_ERROR: on_error is 'cry'"):
        LimiterMiddleware(hello, "5/minute", store=MEMORY)


def test_an_observer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, int]] = []

    def observe(request: Request, verdict: Verdict) -> None:
        told.append((request.path, verdict.status))
        raise ValueError("of its own")

    app = LimiterMiddleware(hello, "1/minute", store=MEMORY, observe=observe)

    assert [ask(app, path="/x").code for _ in range(2)] == [200, 429]
    assert told == [("/x", 200), ("/x", 429)]
    assert "an observer failed" in caplog.text


def test_it_sleeps_a_delay_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("limiter.wsgi.time", SimpleNamespace(sleep=slept.append))

    def calls(**more: Any) -> None:
        app = LimiterMiddleware(hello, LeakyBucket(60, per=60), store=MEMORY, **more)
        assert [ask(app).code for _ in range(3)] == [200] * 3

    calls()
    assert slept == []
    calls(sleep=True)
    assert slept == pytest.approx([1, 2], abs=0.5)


def test_in_the_shadows_nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("limiter.wsgi.time", SimpleNamespace(sleep=slept.append))
    rule = Rule(Limiter(LeakyBucket(1, per=60), store=MEMORY), shadow=True)
    app = LimiterMiddleware(hello, rule, sleep=True)

    assert [ask(app).code for _ in range(3)] == [200] * 3
    assert slept == []


# --- a store that does not decide ---


@pytest.mark.parametrize(
    ("on_error", "codes", "spoken"),
    [
        ("raise", [503, 503, 503], False),
        ("deny", [503, 503, 503], False),
        ("allow", [200, 200, 200], False),
        ("local", [200, 200, 429], True),
    ],
)
def test_the_store_is_gone(on_error: str, codes: list[int], spoken: bool) -> None:
    store = f"redis://{HOST}:{free_port()}/0"
    app = LimiterMiddleware(hello, "2/minute", store=store, timeout=0.05, on_error=on_error)
    answers = [ask(app) for _ in range(3)]

    assert [answer.code for answer in answers] == codes
    for answer in answers:
        assert bool(answer.all("RateLimit")) == spoken
        if answer.code == 503:
            assert not answer.all("Retry-After")
            assert answer["Content-Type"] == "application/problem+json"
            assert json.loads(body(answer))["type"].endswith("#temporary-reduced-capacity")


# --- leases ---


@pytest.fixture
def limiter() -> Iterator[Limiter]:
    """Two at once."""
    with Limiter([Concurrency(2, lease=30)], store=MEMORY) as found:
        yield found


@pytest.fixture
def free(limiter: Limiter) -> Callable[[], int]:
    """How many may come in."""
    return lambda: limiter.peek(CALLER).remaining


def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Three pieces, said one by one."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield from (b"a", b"b", b"c")


def test_a_lease_is_held_until_the_response_is_closed(
    limiter: Limiter, free: Callable[[], int]
) -> None:
    app = LimiterMiddleware(stream, limiter)
    first, second = begin(app), begin(app)

    assert free() == 0
    assert first["RateLimit-Policy"] == '"default";q=2;qu="concurrent-requests"'
    denied = ask(app)
    assert denied.code == 429
    assert json.loads(body(denied))["detail"] == "Policy default allows 2 requests at once."
    assert body(first) == b"abc"
    assert free() == 0
    first.body.close()  # type: ignore[attr-defined]
    assert free() == 1
    first.body.close()  # type: ignore[attr-defined]
    assert free() == 1
    second.body.close()  # type: ignore[attr-defined]  # the client went away: nothing was read
    assert free() == 2


def test_a_response_is_closed_with_its_lease(limiter: Limiter, free: Callable[[], int]) -> None:
    class Response(list[bytes]):
        closed = 0

        def close(self) -> None:
            self.closed += 1
            raise OSError("of its own")

    response = Response([b"x"])

    def app(environ: Any, start_response: Any) -> Response:
        start_response("200 OK", [])
        return response

    answer = begin(LimiterMiddleware(app, limiter))
    with pytest.raises(OSError, match="of its own"):
        answer.body.close()  # type: ignore[attr-defined]

    assert response.closed == 1
    assert free() == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_application_that_fails_gives_its_lease_back(
    limiter: Limiter, free: Callable[[], int], error: type[BaseException]
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert free() == 1
        raise error

    with pytest.raises(error):
        ask(LimiterMiddleware(app, limiter))

    assert free() == 2


def test_a_stream_that_fails_gives_its_lease_back(
    limiter: Limiter, free: Callable[[], int]
) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"
        assert free() == 1
        raise ValueError("in the midst")

    with pytest.raises(ValueError, match="in the midst"):
        ask(LimiterMiddleware(app, limiter))

    assert free() == 2


def test_without_a_lease_the_response_is_the_application_s_own() -> None:
    response = [b"as it was"]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return response

    def start_response(status: str, headers: Any) -> Any:
        return response.append

    assert LimiterMiddleware(app, "5/minute", store=MEMORY)(environ(), start_response) is response


def test_a_denied_request_holds_nothing(free: Callable[[], int], limiter: Limiter) -> None:
    rate = Limiter("1/minute", store=limiter, name="rate")
    app = LimiterMiddleware(hello, [Rule(limiter), Rule(rate)])

    assert [ask(app).code for _ in range(3)] == [200, 429, 429]
    assert free() == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreUnavailable("no answer in time")])
def test_an_answer_that_nobody_saw_leaves_no_lease(error: BaseException) -> None:
    """The store gave a lease, and the request never learned of it: it is given back a moment later."""
    limiter = Limiter([Concurrency(1, lease=30)], store=MEMORY, timeout=0.05, on_error="deny")

    def interrupted(call: StoreCall, ahead: Any) -> Any:
        ahead()
        intercept(limiter, None)
        raise error

    intercept(limiter, interrupted)
    app = LimiterMiddleware(hello, limiter)
    if isinstance(error, StoreUnavailable):
        assert ask(app).code == 503
    else:
        with pytest.raises(KeyboardInterrupt):
            ask(app)

    assert limiter.peek(CALLER).remaining == 0
    eventually(lambda: limiter.peek(CALLER).remaining == 1)


def test_a_lease_is_renewed_for_as_long_as_the_response_lasts(
    store: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    limiter = Limiter([Concurrency(1, lease=0.3)], store=store, prefix=subject, timeout=5)
    app = LimiterMiddleware(stream, limiter)
    answer = begin(app)
    time.sleep(0.7)  # twice as long as a lease lives by itself

    assert limiter.peek(CALLER).remaining == 0
    answer.body.close()  # type: ignore[attr-defined]
    assert limiter.peek(CALLER).remaining == 1
    assert not caplog.text
    limiter.close()


def test_a_client_that_reads_slowly_holds_no_place_for_ever() -> None:
    """The place is given to another client; the slow one still gets its response."""
    with Limiter(Concurrency(1, lease=0.2, max_hold=0.2), store=MEMORY) as limiter:
        app = LimiterMiddleware(stream, limiter)
        slow = begin(app)
        assert ask(app).code == 429
        eventually(lambda: limiter.peek(CALLER).remaining == 1)
        assert ask(app).code == 200
        assert body(slow) == b"abc"
        slow.body.close()  # type: ignore[attr-defined]
        assert limiter.peek(CALLER).remaining == 1


def test_it_needs_no_framework() -> None:
    """And brings none."""
    program = """
import sys, limiter.wsgi, limiter.asgi
print({"django", "flask", "fastapi", "starlette", "werkzeug", "anyio"} & set(sys.modules))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert found.stdout == "set()\n"


ORDERS = (pattern("/orders"),)


@pytest.mark.parametrize("path", ["/orders", "/orders\xff", "/orders/\xff"])
def test_bottle_leaves_bytes_out_that_are_not_utf_8(path: str) -> None:
    bottle = pytest.importorskip("bottle")
    inner = bottle.Bottle()
    for rule in ("/orders", "/orders/"):
        inner.route(rule, callback=lambda: "orders")
    app = LimiterMiddleware(
        inner, [Rule(Limiter("1/minute", store=MEMORY), match=Match(paths=ORDERS))]
    )

    assert [begin(app, path=path).code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("path", ["/orders", "orders"])
def test_flask_sets_a_slash_before_a_path_that_has_none(path: str) -> None:
    """As its own server hands it on."""
    inner = Flask(__name__)
    inner.add_url_rule("/orders", view_func=lambda: "orders", endpoint="orders")
    app = LimiterMiddleware(
        inner, [Rule(Limiter("1/minute", store=MEMORY), match=Match(paths=ORDERS))]
    )

    assert [begin(app, path=path).code for _ in range(2)] == [200, 429]

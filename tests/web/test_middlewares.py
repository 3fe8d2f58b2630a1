"""Tests that both middlewares must pass, WSGI and ASGI, with any server and application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from limiter import (
    AsyncLimiter,
    FixedWindow,
    InvalidCost,
    InvalidPolicy,
    InvalidSetting,
    LeakyBucket,
    Limiter,
)
from limiter.testing import intercept
from limiter.web import Match, Rule, pattern
from limiter.web.request import Request
from limiter.web.subjects import identity
from limiter.web.verdict import Verdict
from limiter.web.wiring import limiter_by
from service.demo.servers import HOST, free_port
from tests.web.support import MEMORY, Wsgi
from tests.wsgi.support import CALLER

Make = Callable[..., Any]


# --- responses ---


def test_one_line_limits_an_application(web: Wsgi, make: Make) -> None:
    app = make("2/minute", name="api")
    answers = [web.ask(app, "/a/b") for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0].body == b"hello"
    assert answers[0].fields == {
        "content-type": "text/plain",
        "ratelimit-policy": '"api";q=2;w=60',
        "ratelimit": '"api";r=1;t=60',
    }
    denied = answers[2]
    wait = denied.fields["retry-after"]
    assert wait in ("59", "60")
    assert denied.fields == {
        "content-type": "application/problem+json",
        "content-length": str(len(denied.body)),
        "cache-control": "no-store",
        "ratelimit-policy": '"api";q=2;w=60',
        "ratelimit": f'"api";r=0;t={wait}',
        "retry-after": wait,
    }
    assert json.loads(denied.body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": "Policy api allows 2 requests per 60 s.",
        "instance": "/a/b",
        "violated-policies": ["api"],
    }


def test_a_refusal_of_head_has_no_body(web: Wsgi, make: Make) -> None:
    app = make("1/minute")
    web.ask(app)
    answer = web.ask(app, method="HEAD")

    assert (answer.status, answer.body) == (429, b"")
    assert int(answer.fields["content-length"]) > 100


def test_each_caller_has_a_limit_of_its_own(web: Wsgi, make: Make) -> None:
    app = make("1/minute", trusted=["203.0.113.7/32"])

    def status(forwarded_for: str, **more: str) -> int:
        return web.ask(app, x_forwarded_for=forwarded_for, **more).status

    assert status("198.51.100.1") == 200
    assert status("198.51.100.2") == 200
    assert status("192.0.2.9, 198.51.100.1") == 429
    # The header fields of an untrusted peer are ignored.
    assert status("198.51.100.3", peer="192.0.2.1") == 200
    assert status("198.51.100.4", peer="192.0.2.1") == 429
    assert status("nobody") == 400


def test_proxies_may_report_the_client_in_another_field(web: Wsgi, make: Make) -> None:
    app = make("1/minute", trusted=CALLER, address_from="forwarded")

    assert web.ask(app, forwarded="for=198.51.100.1").status == 200
    assert web.ask(app, forwarded="for=192.0.2.1, for=198.51.100.1").status == 429
    assert web.ask(app, forwarded="for=198.51.100.2", x_forwarded_for="10.0.0.1").status == 200


def test_an_unidentified_caller_is_refused(web: Wsgi, make: Make) -> None:
    answer = web.ask(make(), peer="nobody")

    assert (answer.status, answer.fields["content-type"]) == (400, "application/problem+json")
    assert "ratelimit" not in answer.fields


def test_keys_costs_and_forms(web: Wsgi, make: Make) -> None:
    app = make(key="api-key", cost=2, form="x-ratelimit")
    answer = web.ask(app, x_api_key="a")

    assert answer.fields["x-ratelimit-remaining"] == "3"
    assert "ratelimit" not in answer.fields
    assert [web.ask(app, x_api_key="a").status for _ in range(2)] == [200, 429]
    assert web.ask(app, x_api_key="b").status == 200
    nobody = web.ask(app)
    assert nobody.status == 400
    assert b"the request has no API key" in nobody.body


@pytest.mark.parametrize(
    ("cost", "amount"),
    [(None, "2 requests"), (1, "2 requests"), (2, "2 units"), (lambda: 1, "2 units")],
)
def test_a_denial_names_what_is_counted(web: Wsgi, make: Make, cost: Any, amount: str) -> None:
    app = make("2/minute", cost=cost, name="api")
    answers = [web.ask(app) for _ in range(3)]

    assert json.loads(answers[2].body)["detail"] == f"Policy api allows {amount} per 60 s."
    assert answers[2].fields["ratelimit-policy"] == '"api";q=2;w=60'


async def late(request: Any) -> str:
    """An asynchronous function, whose result must be awaited."""
    return "x"


@pytest.mark.parametrize("setting", ["key", "cost"])
@pytest.mark.parametrize("function", [late, lambda one, two, three: (one, two, three)])
def test_a_function_that_cannot_be_called_is_an_error_at_once(
    make: Make, setting: str, function: Any
) -> None:
    with pytest.raises(
        InvalidSetting, match=f"{setting} is .*: expected a function without arguments"
    ):
        make(**{setting: function})
    with pytest.raises(
        InvalidSetting, match=r"'user': expected .*; or a function without arguments"
    ):
        make(key="user")


def test_an_invalid_cost_lets_no_request_pass(web: Wsgi, make: Make) -> None:
    """An invalid number fails at the start; a function's invalid result is an error, and no denial."""
    with pytest.raises(InvalidCost, match="cost is 6: expected a whole number from 1 to 5"):
        make(cost=6)
    for wrong in (0, -1, True):
        with pytest.raises(InvalidSetting, match=f"cost is {wrong}: expected .* from 1"):
            make(cost=wrong)
    for wrong in (1.5, "3"):
        with pytest.raises(TypeError, match="expected a whole number"):
            web.ask(make(cost=lambda *_, cost=wrong: cost))


@pytest.mark.parametrize("subject", [42, "x", ("x", 42)])
def test_a_function_returns_the_subject(web: Wsgi, make: Make, subject: Any) -> None:
    app = make("1/minute", key=lambda request, trusted: subject)  # noqa: ARG005 (both are given)

    assert [web.ask(app, peer=f"192.0.2.{one}").status for one in (1, 2)] == [200, 429]


def test_what_can_never_pass_is_too_large(web: Wsgi, make: Make) -> None:
    app = make(cost=lambda request: request.size)

    assert web.ask(app, content_length="5").status == 200
    answer = web.ask(app, content_length="6")
    assert answer.status == 413
    assert "retry-after" not in answer.fields


@pytest.mark.parametrize("status", [404, 500])
def test_errors_of_the_application_have_the_fields(web: Wsgi, make: Make, status: int) -> None:
    answer = web.ask(make(app=web.application(status)))

    assert answer.status == status
    assert answer.fields["ratelimit"].endswith(";r=4;t=60")


def test_fields_of_the_application_stay(web: Wsgi, make: Make) -> None:
    own = [("RateLimit", '"own";r=1'), ("x-ratelimit-limit", "7"), ("Retry-After", "3")]
    answer = web.ask(make(app=web.application(fields=own)))
    older = web.ask(make(app=web.application(fields=own), form="x-ratelimit"))

    assert answer.fields["ratelimit"] == '"own";r=1, "default";r=4;t=60'
    assert older.fields["x-ratelimit-limit"] == "7"
    assert older.fields["x-ratelimit-remaining"] == "4"


def test_two_middlewares_join_their_fields(web: Wsgi, make: Make) -> None:
    noted: list[Verdict] = []
    inner = make("5/minute", web.application(noted=noted), name="inner")
    answer = web.ask(make("9/minute", inner, name="outer"))

    assert answer.fields["ratelimit"] == '"inner";r=4;t=60, "outer";r=8;t=60'
    assert noted[-1].results[0].decision.remaining == 4


# --- arguments ---


def test_rules_are_checked_in_one_call(web: Wsgi, make: Make) -> None:
    first = web.limiter("3/minute", store=MEMORY, name="all")
    search = web.limiter("1/minute", store=first, name="search")
    app = make([Rule(first), Rule(search, match=Match(paths=(pattern("/search/**"),)))])
    calls: list[Any] = []
    intercept(first, lambda call, ahead: calls.append(call) or ahead())
    answers = [web.ask(app, path) for path in ("/search/x", "/search/y", "/")]

    assert [answer.status for answer in answers] == [200, 429, 200]
    assert len(calls) == 3
    assert answers[0].fields["ratelimit"] == '"all";r=2;t=60, "search";r=0;t=60'
    assert answers[1].fields["ratelimit"].startswith('"all";r=2;')  # nothing was taken
    assert answers[2].fields["ratelimit"] == '"all";r=1;t=60'


def test_a_guard_may_be_replaced(web: Wsgi, make: Make) -> None:
    def guard(limits: str) -> Any:
        return web.guard([Rule(web.limiter(limits, store=MEMORY))])

    holder = SimpleNamespace(guard=guard("5/minute"))
    app = make(holder)

    assert web.ask(app).fields["ratelimit-policy"] == '"default";q=5;w=60'
    holder.guard = guard("7/minute")
    assert web.ask(app).fields["ratelimit-policy"] == '"default";q=7;w=60'
    assert web.ask(make(holder.guard)).fields["ratelimit"] == '"default";r=5;t=60'


def test_a_policy_file_that_changes(web: Wsgi, make: Make, tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    text = '[policies.pages]\nlimits = "5/minute"\nmatch.paths = ["/pages/**"]\n'
    file.write_text(text)
    policies = web.policies(file, store=MEMORY)
    app = make(policies)

    assert web.ask(app, "/pages/a").fields["ratelimit"] == '"pages";r=4;t=60'
    assert "ratelimit" not in web.ask(app).fields
    file.write_text(text.replace("5/minute", "7/minute"))
    assert policies.reload()
    assert web.ask(app, "/pages/a").fields["ratelimit"] == '"pages";r=5;t=60'
    web.run(policies.close())


def test_a_limiter_a_rule_and_nothing(web: Wsgi, make: Make) -> None:
    limiter = web.limiter("5/minute", store=MEMORY, name="own")

    assert web.ask(make(limiter, key="global")).fields["ratelimit"] == '"own";r=4;t=60'
    assert web.run(limiter.peek("global")).remaining == 4
    rule = Rule(limiter, identity=identity("global"))
    assert web.ask(make(rule)).fields["ratelimit"] == '"own";r=3;t=60'
    assert "ratelimit" not in web.ask(make(())).fields


def test_the_environment_has_the_missing_settings(
    web: Wsgi, monkeypatch: pytest.MonkeyPatch, store: str, subject: str
) -> None:
    for variable, value in {
        "STORE": store,
        "PREFIX": subject,
        "LIMITS": "9/minute",
        "NAME": "ours",
        "TIMEOUT": "5",
        "ALGORITHM": "fixed_window",
        "TRUSTED_PROXIES": CALLER,
    }.items():
        monkeypatch.setenv(f"LIMITER_{variable}", value)
    app = web.middleware(web.application())
    web.run(app.open())
    answer = web.ask(app, x_forwarded_for="198.51.100.1")
    web.run(app.close())

    assert answer.fields["ratelimit"] == '"ours";r=8;t=60'
    given = web.middleware(web.application(), FixedWindow(4, per=60), name="given")
    assert web.ask(given).fields["ratelimit-policy"] == '"given";q=4;w=60'
    web.run(given.close())
    with Limiter("9/minute", store=store, prefix=subject, name="ours") as other:
        assert other.peek("198.51.100.1").remaining == 9  # another algorithm's state


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"store": None}, "LIMITER_STORE is not set"),
        ({"limits": None}, "LIMITER_LIMITS is not set: give it, for example 100/minute$"),
        ({"store": "http://x"}, "store is"),
        ({"key": "nose"}, "key is 'nose'"),
        ({"form": "loud"}, "form is 'loud'"),
        ({"address_from": "x"}, "address_from is 'x'"),
        ({"cost": 0}, "cost is 0"),
        ({"trusted": "10.0.0.0/99"}, "trusted is '10.0.0.0/99'"),
    ],
)
def test_a_wrong_setting(web: Wsgi, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        web.middleware(web.application(), **{"limits": "5/minute", "store": MEMORY, **more})


def test_settings_that_cannot_be_combined(web: Wsgi, make: Make) -> None:
    limiters = [web.limiter("5/minute", store=MEMORY) for _ in range(2)]
    rules = [Rule(limiter) for limiter in limiters]
    for limits, more, message in (
        (rules[:1], {"key": "host"}, "key cannot be combined with rules"),
        (limiters[0], {"name": "x"}, "name cannot be combined with a limiter"),
        (web.guard([]), {"trusted": "::/0"}, "trusted cannot be combined with a guard"),
        (rules, {}, "store of rule default is not the store"),
        (SimpleNamespace(guard=None), {}, f"expected {web.guard.__name__}"),
        (web.others[0], {}, f"expected {web.guard.__name__}"),
        (web.others[1], {}, f"expected {web.limiter.__name__}"),
    ):
        with pytest.raises(InvalidSetting, match=message):
            make(limits, **more)


def test_other_mistakes_are_what_they_are(web: Wsgi, monkeypatch: pytest.MonkeyPatch) -> None:
    app = web.application()
    with pytest.raises(InvalidPolicy, match="0/minute"):
        web.middleware(app, "0/minute", store=MEMORY)
    with pytest.raises(TypeError, match="stroe"):
        web.middleware(app, "5/minute", store=MEMORY, stroe=MEMORY)
    monkeypatch.setenv("LIMITER_LIMITS", "0/minute")
    with pytest.raises(InvalidSetting, match=r"LIMITER_LIMITS.*'0/minute'"):
        web.middleware(app, store=MEMORY)
    monkeypatch.setenv("LIMITER_ON_ERROR", "cry")
    with pytest.raises(InvalidSetting, match="LIMITER_ON_ERROR: on_error is 'cry'"):
        web.middleware(app, "5/minute", store=MEMORY)


def test_an_observer_gets_every_verdict(
    web: Wsgi, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, int]] = []

    def observe(request: Request, verdict: Verdict) -> None:
        seen.append((request.path, verdict.status))
        raise ValueError("of its own")

    app = make("1/minute", observe=observe)

    assert [web.ask(app, "/x").status for _ in range(2)] == [200, 429]
    assert seen == [("/x", 200), ("/x", 429)]
    assert "an observer failed" in caplog.text


def test_it_sleeps_a_delay_only_when_asked(
    web: Wsgi, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def sleep_in_loop(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("limiter.wsgi.time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr("limiter.asgi.asyncio.sleep", sleep_in_loop)

    def calls(limits: Any = LeakyBucket(60, per=60), **more: Any) -> None:  # noqa: B008 (it is frozen)
        app = make(limits, **more)
        assert [web.ask(app).status for _ in range(3)] == [200] * 3

    calls()
    calls(Rule(web.limiter(LeakyBucket(1, per=60), store=MEMORY), shadow=True), sleep=True)
    assert slept == []
    calls(sleep=True)
    assert slept == pytest.approx([1, 2], abs=0.5)


@pytest.mark.parametrize(
    ("on_error", "codes"),
    [("raise", [503] * 3), ("deny", [503] * 3), ("allow", [200] * 3), ("local", [200, 200, 429])],
)
def test_the_store_is_gone(web: Wsgi, make: Make, on_error: str, codes: list[int]) -> None:
    store = f"redis://{HOST}:{free_port()}/0"
    app = make("2/minute", store=store, timeout=0.05, on_error=on_error)
    answers = [web.ask(app) for _ in range(3)]
    web.run(app.close())

    assert [answer.status for answer in answers] == codes
    for answer in answers:
        assert ("ratelimit" in answer.fields) == (on_error == "local")
        if answer.status == 503:
            assert "retry-after" not in answer.fields
            assert answer.fields["content-type"] == "application/problem+json"
            assert json.loads(answer.body)["type"].endswith("#temporary-reduced-capacity")


# --- turned off ---


def test_every_request_passes_without_a_store(web: Wsgi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMITER_STORE", raising=False)
    app = web.middleware(web.application(), "1/minute", enabled=False)
    web.run(app.open())
    answers = [web.ask(app) for _ in range(2)]
    web.run(app.close())

    assert [answer.status for answer in answers] == [200, 200]
    assert "ratelimit" not in answers[0].fields


@pytest.mark.parametrize("enabled", ["false", 0, None])
def test_only_a_bool_turns_it_off(make: Make, enabled: Any) -> None:
    """The text of a variable would always be true."""
    with pytest.raises(InvalidSetting, match="expected True or False"):
        make("1/minute", enabled=enabled)


@pytest.mark.parametrize("kind", [Limiter, AsyncLimiter])
@pytest.mark.parametrize(
    ("given", "variable", "seconds"),
    [
        (None, None, 1.0),
        (0.25, "0.5", 0.25),
        (None, "0.5", 0.5),
        (0, "0.5", None),
        (None, "0", None),
    ],
)
def test_the_denial_cache_is_on_by_default(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Limiter],
    given: float | None,
    variable: str | None,
    seconds: float | None,
) -> None:
    """For a second; an argument, or else the variable, sets another time, and 0 turns it off."""
    if variable is not None:
        monkeypatch.setenv("LIMITER_DENIAL_CACHE", variable)
    limiter = limiter_by(kind, "1/day", {"store": "redis://localhost", "denial_cache": given})
    denials = limiter._core.denials
    assert (None if denials is None else denials.seconds) == seconds

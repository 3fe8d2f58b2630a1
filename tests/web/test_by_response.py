"""The cost of a request by its response: charged before the application runs, and settled after it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from limiter import Concurrency, FixedWindow, InvalidSetting
from limiter.testing import intercept, store_away
from limiter.web.by_response import StatusOrField, statuses
from limiter.web.rules import Rule, fixed_cost
from service.demo.servers import HOST, Cluster, free_port
from tests.asgi.support import ask as ask_asgi
from tests.waiting import soon, until
from tests.web.support import MEMORY, Asgi, Wsgi
from tests.wsgi.support import CALLER

Make = Callable[..., Any]
#: The paths of the applications below, each with its response.
USED = "x-tokens-used"


def respond(path: str) -> tuple[int, list[tuple[str, str]]]:
    """Answer ``/STATUS`` with that status, and ``/STATUS/COST/COST`` with the costs in fields."""
    status, *used = path.strip("/").split("/")
    if status == "error":
        raise ZeroDivisionError
    return int(status), [("X-Tokens-Used", each) for each in used]


class Limited:
    """An application with a limit, and what its caller has left."""

    def __init__(self, web: Wsgi, limits: Any = "10/hour", **more: Any) -> None:
        given = {
            name: more.pop(name) for name in ("cost", "refund_unless", "true_cost") if name in more
        }
        self.web = web
        self.limiter = web.limiter(limits, **{"store": MEMORY, **more})
        self.app = web.middleware(web.responding(respond), self.limiter, **given)

    def ask(self, path: str) -> int:
        """The status of one request."""
        return self.web.ask(self.app, path).status

    def left(self) -> int:
        """What the caller has left."""
        return int(self.web.run(self.limiter.peek(CALLER)).remaining)

    def after(self, *paths: str) -> list[int]:
        """What the caller has left after each request."""
        left = []
        for path in paths:
            if path.startswith("/error"):
                with pytest.raises(ZeroDivisionError):
                    self.ask(path)
            else:
                assert self.ask(path) == int(path.split("/")[1])
            left.append(self.left())
        return left


# --- statuses ---


def test_only_some_statuses_cost_something(web: Wsgi) -> None:
    """An error counts as the 500 that the server answers with."""
    limited = Limited(web, refund_unless=["2xx", 401, "503"])
    paths = ["/200", "/201", "/404", "/401", "/500", "/503", "/302", "/error"]
    assert limited.after(*paths) == [9, 8, 8, 7, 7, 6, 6, 6]
    assert Limited(web, refund_unless=["5xx"]).after("/200", "/error", "/500") == [10, 9, 8]
    assert Limited(web).after("/404", "/error") == [9, 8]


def test_what_names_statuses() -> None:
    assert statuses("2XX") == frozenset(range(200, 300))
    assert statuses(404) == statuses("404") == {404}
    for wrong in ("2x", "6xx", "099", "600", "40", "4040", "\uff1404", True, 2.0, None, ["200"]):
        assert not statuses(wrong)


# --- the true cost ---


@pytest.mark.parametrize("limits", [FixedWindow(10, 3600), "10/hour", "10/hour burst 10"])
def test_the_response_has_the_true_cost(web: Wsgi, limits: Any) -> None:
    """The excess is charged, too, also beyond the limit; the next call pays it."""
    limited = Limited(web, limits, cost=3, true_cost="header:X-Tokens-Used")
    assert limited.after("/200/1", "/500/3", "/200/0", "/200/5") == [9, 6, 6, 1]
    limited = Limited(web, limits, cost=3, true_cost="header:X-Tokens-Used")
    assert limited.after("/200/15") == [0]
    assert limited.ask("/200/0") == 429
    assert Limited(web, limits, true_cost="header:X-Tokens-Used").after("/200/" + "9" * 40) == [0]


def test_a_response_without_a_true_cost_stays_charged(
    web: Wsgi, caplog: pytest.LogCaptureFixture
) -> None:
    """No client can see to it that a request is free: the field is the application's."""
    limited = Limited(web, "99/hour", cost=5, true_cost="header:X-Tokens-Used")
    wrong = ["", "-1", "1.5", "many", "0x1", "\xb9", "1;2"]
    left = limited.after("/200", "/error", *[f"/200/{value}" for value in wrong])
    assert left == [99 - 5 * count for count in range(1, len(left) + 1)]
    assert caplog.text.count("no whole number in its field x-tokens-used") == 1
    # Of several numbers, the largest.
    assert limited.after("/200/1/3", "/200/ 4 ,2") == [left[-1] - 3, left[-1] - 7]


def test_both_in_one_policy(web: Wsgi) -> None:
    limited = Limited(web, refund_unless=["2xx"], true_cost="header:X-Tokens-Used", cost=2)
    assert limited.after("/200/1", "/404/1", "/error", "/200") == [9, 9, 9, 7]


def test_a_limit_of_a_true_cost_counts_units(web: Wsgi) -> None:
    app = web.middleware(web.application(), "2/hour", store=MEMORY, true_cost="header:X-Used")
    refused = [web.ask(app) for _ in range(3)][2]
    assert json.loads(refused.body)["detail"] == "Policy default allows 2 units per 3600 s."


# --- simultaneous requests ---


def all_at_once(web: Wsgi, limiter: Any, count: int, **given: Any) -> list[int]:
    """The statuses of simultaneous requests; those that pass are answered when all are decided."""
    inside: list[str] = []
    if not isinstance(web, Asgi):
        go = threading.Event()

        def wait(path: str) -> tuple[int, Any]:
            inside.append(path)
            go.wait(10)
            return respond(path)

        app = web.middleware(web.responding(wait), limiter, **given)
        with ThreadPoolExecutor(count) as pool:
            answers = [pool.submit(web.ask, app, "/200/0") for _ in range(count)]
            until(lambda: len(inside) + sum(answer.done() for answer in answers) == count)
            go.set()
        return [answer.result().status for answer in answers]

    async def ask_all() -> list[int]:
        go = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            inside.append(scope["path"])
            await go.wait()
            await web.responding(respond)(scope, receive, send)

        app = web.middleware(waiting, limiter, **given)
        tasks = [asyncio.create_task(ask_asgi(app, "/200/0")) for _ in range(count)]

        async def all_are_decided() -> bool:
            return len(inside) + sum(task.done() for task in tasks) == count

        await soon(all_are_decided)
        go.set()
        return [(await task).status for task in tasks]

    statuses: list[int] = web.run(ask_all())
    return statuses


@pytest.mark.parametrize(
    "given", [{"refund_unless": ["500"]}, {"true_cost": "header:X-Tokens-Used"}]
)
def test_simultaneous_requests_do_not_pass_together(
    web: Wsgi, store: str, subject: str, given: dict[str, Any]
) -> None:
    """Each charges before its application runs: a check without a charge would let all of these pass.

    The denials of meanwhile are cached; the refunds end them, so that the next request passes at once.
    """
    limiter = web.limiter("3/hour", store=store, prefix=subject, timeout=5, denial_cache=9)
    assert sorted(all_at_once(web, limiter, 8, **given)) == [200] * 3 + [429] * 5

    def has_all() -> bool:
        return bool(web.run(limiter.peek(CALLER)).remaining == 3)

    until(has_all)
    app = web.middleware(web.responding(respond), limiter, **given)
    assert [web.ask(app, "/200/0").status for _ in range(2)] == [200, 200]
    until(has_all)
    web.run(limiter.close())


def test_hits_of_prepaid_units_are_settled_in_the_store(
    web: Wsgi, store: str, subject: str
) -> None:
    limiter = web.limiter(
        "99/hour", store=store, prefix=subject, timeout=5, prepaid=8, prepaid_hold=30
    )
    app = web.middleware(web.responding(respond), limiter, true_cost="header:X-Tokens-Used")
    for _ in range(20):
        assert web.ask(app, "/200/2").status == 200
    until(lambda: web.run(limiter.peek(CALLER)).remaining == 59)
    web.run(limiter.close())


# --- several policies ---


POLICIES = """
[defaults]
key = "global"

[policies.calls]
limits = "9/hour"

[policies.logins]
limits = { algorithm = "fixed_window", limit = 9, per = "hour" }
refund_unless = ["401"]

[policies.tokens]
limits = "50/minute; 90/hour"
cost = 10
true_cost = { header = "X-Tokens-Used" }

[policies.trial]
limits = [
    { algorithm = "fixed_window", limit = 26, per = "minute", name = "few" },
    { algorithm = "fixed_window", limit = 90, per = "hour", name = "many" },
]
cost = 3
shadow = true
true_cost = { header = "X-Tokens-Used" }

[policies.streams]
limits = [
    { algorithm = "concurrency", limit = 2 },
    { algorithm = "fixed_window", limit = 9, per = "hour" },
]
refund_unless = ["401"]
"""


@pytest.mark.parametrize("where", ["store", "memory"])
def test_several_policies_of_a_file(
    web: Wsgi, store: str, subject: str, tmp_path: Path, where: str
) -> None:
    """Each settles what it charged; a policy in shadow mode only the limits that had room."""
    file = tmp_path / "policies.toml"
    file.write_text(POLICIES)
    address = MEMORY if where == "memory" else store
    policies = web.policies(file, store=address, prefix=subject, timeout=5)
    limiters = {rule.name: rule.limiter for rule in policies.guard.rules}
    app = web.middleware(web.responding(respond), policies)
    calls: list[Any] = []
    intercept(limiters["calls"], lambda call, ahead: calls.append(call.mode) or ahead())

    def left() -> dict[str, list[int]]:
        peeks = {name: web.run(limiter.peek("global")) for name, limiter in limiters.items()}
        return {name: [each.remaining for each in peek.each] for name, peek in peeks.items()}

    assert web.ask(app, "/200/25").status == 200
    expected = {
        "calls": [8],
        "logins": [9],
        "tokens": [25, 65],
        "trial": [1, 65],
        "streams": [2, 9],
    }
    until(lambda: left() == expected)
    sent = [mode for mode in calls if mode not in ("peek", "release")]
    assert sorted(sent) == ["acquire", "refund", "settle"]
    assert web.ask(app, "/401/5").status == 401
    # ``few`` was full, so it granted nothing, and nothing of it is settled.
    expected = {
        "calls": [7],
        "logins": [8],
        "tokens": [20, 60],
        "trial": [1, 60],
        "streams": [2, 8],
    }
    until(lambda: left() == expected)
    web.run(policies.close())


def user(number: int, *_: Any) -> str:
    """The subject of a rule, each in a slot of its own."""
    return f"u{number}"


def test_on_a_cluster_each_slot_gets_its_settlement(
    web: Wsgi, cluster: Cluster, subject: str
) -> None:
    names = [f"site-{place}" for place in range(6)]
    root = web.limiter("90/hour", store=cluster.url, prefix=subject, name="root", timeout=5)
    limiters = [
        web.limiter("90/hour", store=root, prefix=subject, name=name, timeout=5) for name in names
    ]
    by_field = StatusOrField(None, USED)
    rules = [
        Rule(limiter, identity=partial(user, place), by_response=by_field, cost=fixed_cost(5))
        for place, limiter in enumerate(limiters)
    ]
    app = web.middleware(web.responding(respond), rules)
    assert web.ask(app, "/200/9").status == 200
    assert web.ask(app, "/200/1").status == 200

    def left() -> list[int]:
        return [web.run(each.peek(user(place))).remaining for place, each in enumerate(limiters)]

    until(lambda: left() == [80] * 6)
    web.run(root.close())


# --- without the store ---


@pytest.mark.parametrize(("on_error", "left"), [("local", 8), ("allow", 0)])
def test_a_degraded_decision_is_settled_where_it_was_made(
    web: Wsgi, on_error: str, left: int
) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    limited = Limited(
        web, cost=5, true_cost="header:X-Tokens-Used", store=gone, on_error=on_error, timeout=0.05
    )
    assert limited.after("/200/2") == [left]
    assert limited.limiter.unsettled == 0
    web.run(limited.limiter.close())


def test_a_settlement_that_fails_leaves_the_charge(
    web: Wsgi, caplog: pytest.LogCaptureFixture
) -> None:
    limited = Limited(web, refund_unless=["2xx"])
    limited.app = web.middleware(
        web.responding(away := Away()), limited.limiter, refund_unless=["2xx"]
    )
    with away:
        assert limited.ask("/404") == 404
    assert limited.left() == 9
    assert limited.limiter.unsettled == 1
    assert "a settlement of limiter default did not reach the store" in caplog.text


class Away:
    """Answers requests, and takes the store away at the first."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(self, path: str) -> tuple[int, Any]:
        """Take the store away, and answer."""
        self._stack.enter_context(store_away())
        return respond(path)

    def __enter__(self) -> ExitStack:
        return self._stack.__enter__()

    def __exit__(self, *error: object) -> None:
        self._stack.close()


# --- settings ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"refund_unless": "2xx"}, "refund_unless is '2xx': expected a list of statuses"),
        ({"refund_unless": []}, r"refund_unless is \[\]: expected a list of statuses"),
        ({"refund_unless": ["2xx", 99]}, r"refund_unless is \['2xx', 99\]: expected a list"),
        ({"refund_unless": 200}, "refund_unless is 200: expected a list"),
        ({"true_cost": "X-Used"}, "true_cost is 'X-Used': expected a field of the response"),
        ({"true_cost": "header:X_Used"}, "true_cost is 'header:X_Used': expected a field"),
        ({"true_cost": 5}, "true_cost is 5: expected a field"),
    ],
)
def test_a_wrong_setting(make: Make, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make(**given)


def test_settings_without_effect(web: Wsgi, make: Make) -> None:
    for name, value in (("refund_unless", ["2xx"]), ("true_cost", "header:X-Used")):
        with pytest.raises(InvalidSetting, match=f"{name} has no effect on Concurrency"):
            make(web.limiter([Concurrency(2)], store=MEMORY), **{name: value})
        with pytest.raises(InvalidSetting, match=f"{name} cannot be combined with rules"):
            make([Rule(web.limiter("5/hour", store=MEMORY))], **{name: value})

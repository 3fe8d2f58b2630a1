"""One request against every rule that is about it, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import pytest
import redis

from limiter import (
    AsyncLimiter,
    Concurrency,
    FixedWindow,
    InvalidCost,
    InvalidSetting,
    LeakyBucket,
    Limiter,
    StoreRefused,
    StoreUnavailable,
)
from limiter.renewal_threads import RenewalThreads
from limiter.web import problems
from limiter.web.guard import AsyncGuard, Guard
from limiter.web.identity import Unidentified
from limiter.web.request import Request
from limiter.web.rules import Rule
from limiter.web.subjects import identity, meant
from limiter.web.verdict import Verdict
from service.demo.servers import Cluster
from tests import proxy

NOWHERE = "redis://127.0.0.1:1/0"
ADDRESS = identity("address")
GLOBAL = identity("global")
HOUR = 3_600


def request(path: str = "/", peer: str | None = "203.0.113.9", **headers: str) -> Request:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "h.example", path, fields, peer)


def two_units(*_: Any) -> int:
    return 2


class Door:
    """A guard of either kind, asked the same way; rules are made on one store."""

    def __init__(self, kind: str, prefix: str) -> None:
        self.is_async = kind == "coroutines"
        self._prefix = prefix
        self._loop = asyncio.new_event_loop() if self.is_async else None
        self._root: Any = None
        self.guard: Any = None

    def rules(
        self, store: object, *specs: tuple[str, Any, dict[str, Any]], **root: Any
    ) -> list[Rule]:
        """A rule for each name, limits, and settings of the limiter or the rule."""
        made = AsyncLimiter if self.is_async else Limiter
        root.setdefault("timeout", 5.0)  # a busy machine must not turn decisions into fallbacks
        self._root = made("1/s", store=store, prefix=self._prefix, **root)
        rules = []
        for name, limits, more in specs:
            own = {
                key: more.pop(key) for key in ("on_error", "local_share", "timeout") if key in more
            }
            limiter = made(
                limits, store=self._root, prefix=self._prefix, name=name, **{**root, **own}
            )
            rules.append(Rule(limiter, **more))
        return rules

    def opened(self, *args: Any, observe: Any = None, **root: Any) -> Door:
        """A guard of such rules."""
        return self.of(self.rules(*args, **root), observe)

    def of(self, rules: list[Rule], observe: Any = None) -> Door:
        """A guard of these rules, in the place of the one before."""
        self.guard = (AsyncGuard if self.is_async else Guard)(rules, (), observe)
        return self

    def enter(self, asked: Request | None = None) -> Verdict:
        """Ask about a request."""
        return self._run(self.guard.enter(asked or request()))

    def leave(self, verdict: Verdict) -> None:
        """Its response is closed."""
        self._run(self.guard.leave(verdict))

    def statuses(self, count: int, asked: Request | None = None) -> list[int]:
        """The answers to so many requests."""
        return [self.enter(asked).status for _ in range(count)]

    def left(self, name: str, key: str) -> int:
        """What a rule's subject has left."""
        (limiter,) = (rule.limiter for rule in self.guard.rules if rule.name == name)
        return int(self._run(limiter.peek(key)).remaining)

    def _run(self, answer: Any) -> Any:
        return self._loop.run_until_complete(answer) if self._loop else answer

    def close(self) -> None:
        """End what was begun."""
        if self._root is not None:
            self._run(self._root.close())
        if self._loop:
            left = asyncio.all_tasks(self._loop)  # that renew leases
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
            self._loop.close()


@pytest.fixture(params=["threads", "coroutines"])
def door(request: pytest.FixtureRequest, subject: str) -> Iterator[Door]:
    """One of each kind, with keys of its own."""
    found = Door(request.param, subject)
    yield found
    found.close()


def granted(verdict: Verdict) -> dict[str, int]:
    return {result.rule.name: result.decision.granted for result in verdict.results}


def fields(verdict: Verdict) -> dict[str, str]:
    assert len(dict(verdict.fields)) == len(verdict.fields)
    return dict(verdict.fields)


# --- all or none ---


def test_all_are_charged_or_none(door: Door, any_store: str) -> None:
    """Global, then per caller: a denial by either takes nothing from the other."""
    door.opened(
        any_store,
        ("all", FixedWindow(5, HOUR), {"identity": GLOBAL}),
        ("each", FixedWindow(2, HOUR), {"identity": ADDRESS}),
    )
    assert door.statuses(4) == [200, 200, 429, 429]
    assert door.left("all", "global") == 3
    other = request(peer="198.51.100.1")
    assert door.statuses(2, other) == [200, 200]
    third = request(peer="198.51.100.2")
    assert door.statuses(2, third) == [200, 429]
    assert door.left("each", "198.51.100.2") == 1
    assert door.left("all", "global") == 0


def test_rules_of_one_subject_and_several_limits(door: Door, any_store: str) -> None:
    """Two rules about one caller, of two and of one limit, are five keys' worth of one decision."""
    door.opened(
        any_store,
        ("one", "3/hour; 100/day", {}),
        ("two", [FixedWindow(2, HOUR), FixedWindow(9, "day")], {"cost": two_units}),
    )
    first = door.enter()
    assert granted(first) == {"one": 1, "two": 2}
    assert door.enter().status == 429
    assert (door.left("one", "203.0.113.9"), door.left("two", "203.0.113.9")) == (2, 0)
    assert fields(first)["RateLimit-Policy"] == (
        '"one.1";q=3;w=3600, "one.2";q=100;w=86400, "two.1";q=2;w=3600, "two.2";q=9;w=86400'
    )


def test_subjects_of_different_slots(door: Door, cluster: Cluster) -> None:
    """On a cluster they are asked in turn, and given back: nothing is lost."""
    door.opened(
        cluster.url,
        ("all", FixedWindow(50, HOUR), {"identity": GLOBAL}),
        ("shade", FixedWindow(2, HOUR), {"identity": identity("path:p"), "shadow": True}),
        ("each", FixedWindow(1, HOUR), {"identity": ADDRESS}),
        timeout=5.0,
    )
    for number in range(6):
        asked = replace(request(peer=f"198.51.100.{number}"), parts={"p": "same"})
        assert door.statuses(3, asked) == [200, 429, 429]
    assert door.left("all", "global") == 44
    # Full after two; denials gave back what they had taken, and not what others had.
    shade = str(identity("path:p")(replace(request(), parts={"p": "same"}), ()))
    assert door.left("shade", shade) == 0


def test_header_fields_of_several_rules(door: Door, any_store: str) -> None:
    """Each in the form that was chosen for it; the shadows and the silent say nothing."""
    door.opened(
        any_store,
        ("a", FixedWindow(2, HOUR), {"identity": GLOBAL}),
        ("b", FixedWindow(9, HOUR), {}),
        ("c", FixedWindow(7, HOUR), {"form": "x-ratelimit"}),
        ("d", FixedWindow(6, HOUR), {"form": "draft-06"}),
        ("e", FixedWindow(1, HOUR), {"shadow": True}),
        ("f", FixedWindow(8, HOUR), {"form": "none"}),
    )
    found = fields(door.enter())
    assert found["RateLimit-Policy"] == '"a";q=2;w=3600, "b";q=9;w=3600'
    assert found["RateLimit"] == '"a";r=1;t=3600, "b";r=8;t=3600'
    assert (found["X-RateLimit-Limit"], found["X-RateLimit-Remaining"]) == ("7", "6")
    assert (found["RateLimit-Limit"], found["RateLimit-Remaining"]) == ("6", "5")
    assert "Retry-After" not in found
    door.enter()
    denied = door.enter()
    assert denied.status == 429
    found = fields(denied)
    assert found["RateLimit"].startswith('"a";r=0;t=')
    assert 0 < int(found["Retry-After"]) <= HOUR
    said = json.loads(denied.body)
    assert (said["status"], said["violated-policies"]) == (429, ["a"])
    assert not denied


def test_a_subject_with_numbers_of_its_own(door: Door, any_store: str) -> None:
    partner = (FixedWindow(3, HOUR),)
    door.opened(
        any_store,
        (
            "keys",
            FixedWindow(1, HOUR),
            {
                "identity": identity("api-key"),
                "overrides": dict.fromkeys(meant("p", "api-key"), partner),
            },
        ),
    )
    assert door.statuses(2, request(x_api_key="other")) == [200, 429]
    assert door.statuses(4, request(x_api_key="p")) == [200, 200, 200, 429]
    assert "q=3" in fields(door.enter(request(x_api_key="p")))["RateLimit-Policy"]


def test_a_queue_tells_its_delay(door: Door, any_store: str) -> None:
    door.opened(any_store, ("q", LeakyBucket(10, 10), {}), ("w", FixedWindow(99, HOUR), {}))
    assert door.enter().delay == 0
    assert 0.5 < door.enter().delay <= 1


def test_nothing_is_about_the_request(door: Door) -> None:
    """No rule, or none for it: allowed, and nothing to say."""
    assert door.of([]).enter().status == 200
    door.opened(NOWHERE, ("a", "5/s", {"percent": 0.0}))
    verdict = door.enter()
    assert (verdict.status, verdict.results, verdict.fields, verdict.body) == (200, (), [], "")


def test_made_up_identities_make_no_keys(door: Door, store: str, subject: str) -> None:
    """Whoever is denied by address leaves nothing under the keys that it invents, and no secret."""
    door.opened(
        store,
        ("each", FixedWindow(5, HOUR), {}),
        ("keys", FixedWindow(9, HOUR), {"identity": identity("api-key")}),
        timeout=2.0,
    )
    for number in range(200):
        door.enter(request(x_api_key=f"canary-{number}"))
    with redis.Redis.from_url(store) as client:
        made = list(client.scan_iter(f"{subject}:*", count=10_000))
    assert len(made) == 1 + 5
    assert b"canary" not in b"".join(made)


# --- in the shadows ---


def test_the_shadows_count_and_never_deny(door: Door, any_store: str) -> None:
    door.opened(
        any_store,
        ("real", FixedWindow(4, HOUR), {}),
        ("shade", FixedWindow(2, HOUR), {"shadow": True}),
    )
    verdicts = [door.enter() for _ in range(5)]
    assert [one.status for one in verdicts] == [200, 200, 200, 200, 429]
    said = [one.results[1].decision.allowed for one in verdicts]
    assert said == [True, True, False, False, False]
    assert all("shade" not in str(one.fields) + one.body for one in verdicts)
    assert (door.left("real", "203.0.113.9"), door.left("shade", "203.0.113.9")) == (0, 0)


def test_what_the_shadows_cannot_even_ask(door: Door, any_store: str) -> None:
    """They would have refused, and it is said to whoever observes; the request goes on."""
    seen: list[Verdict] = []
    door.opened(
        any_store,
        ("real", FixedWindow(4, HOUR), {}),
        ("who", "5/s", {"shadow": True, "identity": identity("api-key")}),
        ("much", "5/s", {"shadow": True, "cost": lambda *_: 6}),
        observe=lambda *told: seen.append(told[1]),
    )
    verdict = door.enter()
    assert verdict.status == 200
    assert granted(verdict) == {"real": 1}
    assert [(rule.name, type(error)) for rule, error in verdict.shadowed] == [
        ("who", Unidentified),
        ("much", InvalidCost),
    ]
    assert seen == [verdict]


# --- what makes no sense ---


def test_who_cannot_be_told(door: Door, any_store: str) -> None:
    """400, and nothing is charged."""
    door.opened(
        any_store,
        ("all", FixedWindow(5, HOUR), {"identity": GLOBAL}),
        ("keys", "5/s", {"identity": identity("api-key")}),
    )
    verdict = door.enter()
    assert (verdict.status, verdict.fields, verdict.results) == (400, [], ())
    assert json.loads(verdict.body)["status"] == 400
    assert isinstance(verdict.error, Unidentified)
    assert door.left("all", "global") == 5


def test_a_cost_that_can_never_pass(door: Door, any_store: str) -> None:
    """413, without a time to come back; nothing is charged."""
    door.opened(
        any_store,
        ("all", FixedWindow(5, HOUR), {"identity": GLOBAL}),
        ("big", FixedWindow(3, HOUR), {"cost": lambda asked, _: asked.size}),
    )
    verdict = door.enter(request(content_length="4"))
    assert (verdict.status, verdict.fields) == (413, [])
    assert verdict.body == problems.too_large("/")
    assert isinstance(verdict.error, InvalidCost)
    assert door.left("all", "global") == 5
    assert door.enter(request(content_length="3")).status == 200


def test_rules_of_two_stores_are_no_guard() -> None:
    rules = [Rule(Limiter("5/s", store="memory://", name=name)) for name in "ab"]
    with pytest.raises(InvalidSetting, match="store of rule b is not the store of rule a"):
        Guard(rules)


# --- the store does not decide ---


@pytest.mark.parametrize(
    ("on_error", "status"), [("raise", 503), ("deny", 503), ("allow", 200), ("local", 200)]
)
def test_without_a_store(door: Door, on_error: str, status: int) -> None:
    door.opened(NOWHERE, ("a", FixedWindow(5, HOUR), {"on_error": on_error}), timeout=0.05)
    verdict = door.enter()
    assert verdict.status == status
    assert isinstance(verdict.error, StoreUnavailable)
    (result,) = verdict.results
    assert result.decision.degraded
    # Only one that counted has numbers to tell.
    assert bool(verdict.fields) == (on_error == "local")
    assert verdict.body == (problems.reduced_capacity("/") if status == 503 else "")


@pytest.mark.parametrize("shadow", ["raise", "deny", "allow", "local"])
def test_the_shadows_do_not_deny_without_a_store_either(door: Door, shadow: str) -> None:
    door.opened(
        NOWHERE,
        ("a", "5/hour", {"on_error": "allow"}),
        ("b", FixedWindow(1, HOUR), {"on_error": shadow, "shadow": True}),
        timeout=0.05,
    )
    assert door.statuses(3) == [200, 200, 200]


@pytest.mark.parametrize("other", ["raise", "deny"])
def test_each_rule_s_on_error_decides_for_it(door: Door, other: str) -> None:
    """One that denies is enough, and then nothing is charged here."""
    rules = door.rules(
        NOWHERE,
        ("here", FixedWindow(2, HOUR), {"on_error": "local"}),
        ("there", FixedWindow(2, HOUR), {"on_error": other}),
        timeout=0.05,
    )
    assert door.of(rules).statuses(3) == [503, 503, 503]
    assert door.of(rules[:1]).statuses(3) == [200, 200, 429]


def test_fallbacks_in_this_process_charge_all_or_none(door: Door) -> None:
    """With each its share of the quota, and the shadows in the shadows."""
    rules = door.rules(
        NOWHERE,
        ("all", FixedWindow(8, HOUR), {"identity": GLOBAL, "on_error": "local", "local_share": 2}),
        ("each", FixedWindow(2, HOUR), {"on_error": "local"}),
        ("shade", FixedWindow(1, HOUR), {"on_error": "local", "shadow": True}),
        ("free", FixedWindow(1, HOUR), {"on_error": "allow"}),
        timeout=0.05,
    )
    door.of(rules)
    verdicts = [door.enter() for _ in range(4)]
    assert [one.status for one in verdicts] == [200, 200, 429, 429]
    assert [one.results[0].decision.remaining for one in verdicts] == [3, 2, 2, 2]
    assert [one.results[2].decision.allowed for one in verdicts] == [True, False, False, False]
    assert "Retry-After" in fields(verdicts[-1])
    assert door.statuses(3, request(peer="198.51.100.1")) == [200, 200, 429]
    assert door.statuses(1, request(peer="198.51.100.2")) == [429]


def test_a_cost_beyond_the_share(door: Door) -> None:
    """Denied here, though the whole quota would have had room: no limit said so."""
    door.opened(
        NOWHERE,
        ("a", FixedWindow(8, HOUR), {"on_error": "local", "local_share": 8, "cost": two_units}),
        ("b", FixedWindow(8, HOUR), {"on_error": "local", "shadow": True}),
        timeout=0.05,
    )
    assert door.statuses(2) == [503, 503]


def test_a_store_that_refuses(
    door: Door, any_store: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503, whatever on_error says, and somebody is told; in the shadows the request goes on."""
    refused = any_store.replace("redis://", "redis://nobody:wrong@")
    specs = ("a", "5/s", {"on_error": "allow"}), ("b", "5/s", {"on_error": "allow"})
    door.opened(refused, *specs, timeout=2.0)
    verdict = door.enter()
    assert verdict.status == 503
    assert isinstance(verdict.error, StoreRefused)
    assert "StoreRefused" in caplog.text
    door.of([replace(rule, shadow=True) for rule in door.guard.rules])
    assert door.enter().status == 200


def test_the_shortest_time_out_counts(door: Door, store: str) -> None:
    """Of the rules about a request; a rule that is not about it does not count."""
    host, _, port = store.removeprefix("redis://").partition("/")[0].partition(":")
    with proxy.Proxy((host, int(port))) as between:
        door.opened(
            between.url,
            ("slow", "50/s", {"on_error": "allow"}),
            (
                "quick",
                "50/s",
                {"on_error": "allow", "timeout": 0.1, "identity": identity("api-key")},
            ),
            timeout=1.0,
        )
        door.of([replace(rule, unidentified="skip") for rule in door.guard.rules])
        assert door.enter(request(x_api_key="k")).status == 200
        between.replies = proxy.swallow
        for asked, least, most in (request(x_api_key="k"), 0.1, 0.5), (request(), 0.5, 3.0):
            began = monotonic()
            verdict = door.enter(asked)
            assert least <= monotonic() - began < most
            assert verdict.status == 200
            assert isinstance(verdict.error, StoreUnavailable)


# --- leases ---


def test_leases_are_held_until_the_response_is_closed(door: Door, any_store: str) -> None:
    """Beside rates, all or none; leaving twice is leaving once."""
    door.opened(
        any_store,
        ("now", Concurrency(2), {}),
        ("rate", FixedWindow(4, HOUR), {}),
    )
    first, second = door.enter(), door.enter()
    assert (first.status, second.status, door.enter().status) == (200, 200, 429)
    assert door.left("rate", "203.0.113.9") == 2
    door.leave(first)
    door.leave(first)
    third = door.enter()
    assert (third.status, door.enter().status) == (200, 429)
    assert fields(third)["RateLimit-Policy"].startswith('"now";q=2;qu="concurrent-requests"')
    for verdict in (second, third):
        door.leave(verdict)
    assert door.left("now", "203.0.113.9") == 2
    last = door.enter()
    assert last.status == 200
    assert door.enter().status == 429  # by the rate, and no lease stays behind
    door.leave(last)
    assert door.left("now", "203.0.113.9") == 2


def test_leases_in_the_shadows(door: Door, any_store: str) -> None:
    """Held as far as there are any, and never a reason to wait."""
    door.opened(any_store, ("now", Concurrency(1), {"shadow": True}), ("rate", "9/hour", {}))
    first, second = door.enter(), door.enter()
    assert (first.status, second.status) == (200, 200)
    assert (len(first.leases), len(second.leases)) == (1, 0)
    door.leave(second)
    assert door.left("now", "203.0.113.9") == 0
    door.leave(first)
    assert door.left("now", "203.0.113.9") == 1


def test_leases_without_a_store(door: Door) -> None:
    """A share of the places, decided here, and given back here."""
    door.opened(NOWHERE, ("now", Concurrency(1), {"on_error": "local"}), timeout=0.05)
    first = door.enter()
    assert (first.status, door.enter().status) == (200, 429)
    door.leave(first)
    assert door.enter().status == 200


def test_leases_that_nobody_can_renew_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, any_store: str, subject: str
) -> None:
    """The process gets no more threads: a refusal, and what was taken before is given back."""
    add, calls = RenewalThreads.add, []

    def once(self: RenewalThreads, flow: Any) -> None:
        calls.append(flow)
        if len(calls) == 2:
            raise StoreUnavailable("no more threads")
        add(self, flow)

    monkeypatch.setattr(RenewalThreads, "add", once)
    door = Door("threads", subject)
    more = {"timeout": 1.0}  # after which what was perhaps taken is released
    door.opened(any_store, ("a", Concurrency(1), {}), ("b", Concurrency(1), {}), **more)
    verdict = door.enter()
    assert verdict.status == 503
    deadline = monotonic() + 10
    while [door.left(name, "203.0.113.9") for name in "ab"] != [1, 1]:
        assert monotonic() < deadline
        sleep(0.02)  # one of them is given back beside us, and nobody tells when
    door.close()


# --- whoever looks on ---


def test_an_observer_that_fails_harms_nobody(
    door: Door, any_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(asked: Request, verdict: Verdict) -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "limiter.web"):
        assert door.opened(any_store, ("a", "5/s", {}), observe=fail).enter().status == 200
    assert "an observer failed" in caplog.text


@pytest.mark.parametrize("status", [200, 429, 413, 400, 503])
def test_an_observer_is_told_of_everything(door: Door, any_store: str, status: int) -> None:
    seen: list[tuple[Request, Verdict]] = []
    asked = request(
        content_length="6" if status == 413 else "1", peer=None if status == 400 else "1.1.1.1"
    )
    door.opened(
        NOWHERE if status == 503 else any_store,
        ("a", FixedWindow(5, HOUR), {"cost": lambda asked, _: asked.size}),
        observe=lambda *told: seen.append(told),
        timeout=0.05 if status == 503 else 2.0,
    )
    for _ in range(5 if status == 429 else 0):
        door.enter(asked)
    seen.clear()
    verdict = door.enter(asked)
    assert verdict.status == status
    assert seen == [(asked, verdict)]


# --- logs ---


def test_a_flood_of_refused_requests_writes_one_line_of_a_kind(
    door: Door, store: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one for each: any client could fill a disk. The next line, seconds later, says how many."""

    def fails(*_: Any) -> None:
        raise RuntimeError("mine")

    client = redis.Redis.from_url(store)
    client.set(f"{subject}:{{203.0.113.9}}:api:v1", "something else", ex=60)
    door.opened(store, ("api", FixedWindow(5, HOUR), {}), observe=fails)
    assert door.statuses(20) == [503] * 20
    ours = [record for record in caplog.records if record.name == "limiter.web"]
    assert [record.getMessage().partition(":")[0] for record in ours] == [
        "StoreRefused",
        "an observer failed",
    ]
    client.close()

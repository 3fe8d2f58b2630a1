"""One request against every rule that applies to it, for threads and for coroutines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
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
from limiter.web.new_subjects import NewSubjects
from limiter.web.plans import CustomerPlan, Plans
from limiter.web.request import Request
from limiter.web.rules import Rule
from limiter.web.subjects import identity, meant
from limiter.web.verdict import Verdict
from service.demo.servers import Cluster
from tests import proxy
from tests.transport.support import scripts_run

NOWHERE = "redis://127.0.0.1:1/0"
ADDRESS = identity("address")
GLOBAL = identity("global")
HOUR = 3_600


def request(path: str = "/", peer: str | None = "203.0.113.9", **headers: str) -> Request:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "h.example", path, fields, peer)


def two_units(*_: Any) -> int:
    return 2


class AnyGuard:
    """A guard of either kind with the same calls; its rules share one store."""

    def __init__(self, kind: str, prefix: str) -> None:
        self.is_async = kind == "coroutines"
        self._prefix = prefix
        self._loop = asyncio.new_event_loop() if self.is_async else None
        self._root: Any = None
        self.current: Any = None

    def rules(
        self, store: object, *specs: tuple[str, Any, dict[str, Any]], **root: Any
    ) -> list[Rule]:
        """Make a rule for each name, limits, and settings of the limiter or the rule."""
        made = AsyncLimiter if self.is_async else Limiter
        root.setdefault("timeout", 5.0)  # a busy machine must not turn decisions into fallbacks
        self._root = made("1/s", store=store, prefix=self._prefix, **root)
        rules = []
        for name, limits, more in specs:
            names = ("on_error", "local_share", "timeout", "prepaid", "prepaid_hold")
            own = {key: more.pop(key) for key in names if key in more}
            limiter = made(
                limits, store=self._root, prefix=self._prefix, name=name, **{**root, **own}
            )
            rules.append(Rule(limiter, **more))
        return rules

    def opened(self, *args: Any, observe: Any = None, **root: Any) -> AnyGuard:
        """Make a guard of such rules."""
        return self.of(self.rules(*args, **root), observe)

    def of(self, rules: list[Rule], observe: Any = None) -> AnyGuard:
        """Make a guard of these rules, in place of the last one."""
        self.current = (AsyncGuard if self.is_async else Guard)(rules, (), observe)
        return self

    def enter(self, incoming: Request | None = None) -> Verdict:
        """Check a request."""
        return self._run(self.current.enter(incoming or request()))

    def leave(self, verdict: Verdict) -> None:
        """Close the response of a request."""
        self._run(self.current.leave(verdict))

    def statuses(self, count: int, incoming: Request | None = None) -> list[int]:
        """Return the statuses of ``count`` requests."""
        return [self.enter(incoming).status for _ in range(count)]

    def left(self, name: str, key: str) -> int:
        """Return what a rule's subject has left."""
        (limiter,) = (rule.limiter for rule in self.current.rules if rule.name == name)
        return int(self._run(limiter.peek(key)).remaining)

    def _run(self, answer: Any) -> Any:
        return self._loop.run_until_complete(answer) if self._loop else answer

    def close(self) -> None:
        """Close the limiters and the event loop."""
        if self._root is not None:
            self._run(self._root.close())
        if self._loop:
            left = asyncio.all_tasks(self._loop)  # they renew leases
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
            self._loop.close()


@pytest.fixture(params=["threads", "coroutines"])
def guard(request: pytest.FixtureRequest, subject: str) -> Iterator[AnyGuard]:
    """A guard of each kind, with keys of its own."""
    harness = AnyGuard(request.param, subject)
    yield harness
    harness.close()


def granted(verdict: Verdict) -> dict[str, int]:
    return {result.rule.name: result.decision.granted for result in verdict.results}


def fields(verdict: Verdict) -> dict[str, str]:
    assert len(dict(verdict.fields)) == len(verdict.fields)
    return dict(verdict.fields)


# --- all or none ---


def test_all_are_charged_or_none(guard: AnyGuard, any_store: str) -> None:
    """A denial by the global limit, or by the caller's, takes nothing from the other."""
    guard.opened(
        any_store,
        ("all", FixedWindow(5, HOUR), {"identity": GLOBAL}),
        ("each", FixedWindow(2, HOUR), {"identity": ADDRESS}),
    )
    assert guard.statuses(4) == [200, 200, 429, 429]
    assert guard.left("all", "global") == 3
    other = request(peer="198.51.100.1")
    assert guard.statuses(2, other) == [200, 200]
    third = request(peer="198.51.100.2")
    assert guard.statuses(2, third) == [200, 429]
    assert guard.left("each", "198.51.100.2") == 1
    assert guard.left("all", "global") == 0


def test_rules_of_one_subject_and_several_limits(guard: AnyGuard, any_store: str) -> None:
    """Two rules for one caller, with two limits and one, make one decision."""
    guard.opened(
        any_store,
        ("one", "3/hour; 100/day", {}),
        ("two", [FixedWindow(2, HOUR), FixedWindow(9, "day")], {"cost": two_units}),
    )
    first = guard.enter()
    assert granted(first) == {"one": 1, "two": 2}
    assert guard.enter().status == 429
    assert (guard.left("one", "203.0.113.9"), guard.left("two", "203.0.113.9")) == (2, 0)
    assert fields(first)["RateLimit-Policy"] == (
        '"one.1";q=3;w=3600, "one.2";q=100;w=86400, "two.1";q=2;w=3600, "two.2";q=9;w=86400'
    )


def test_subjects_of_different_slots(guard: AnyGuard, cluster: Cluster) -> None:
    """On a cluster a sequential hit decides, and refunds after a denial: nothing is lost."""
    guard.opened(
        cluster.url,
        ("all", FixedWindow(50, HOUR), {"identity": GLOBAL}),
        ("shade", FixedWindow(2, HOUR), {"identity": identity("path:p"), "shadow": True}),
        ("each", FixedWindow(1, HOUR), {"identity": ADDRESS}),
        timeout=5.0,
    )
    for number in range(6):
        incoming = replace(request(peer=f"198.51.100.{number}"), parts={"p": "same"})
        assert guard.statuses(3, incoming) == [200, 429, 429]
    assert guard.left("all", "global") == 44
    # Full after two requests; denials refunded their own charges, and no others.
    shade = str(identity("path:p")(replace(request(), parts={"p": "same"}), ()))
    assert guard.left("shade", shade) == 0


def test_header_fields_of_several_rules(guard: AnyGuard, any_store: str) -> None:
    """Each rule has its own form; a rule in shadow mode, or with the form `none`, writes no field."""
    guard.opened(
        any_store,
        ("a", FixedWindow(2, HOUR), {"identity": GLOBAL}),
        ("b", FixedWindow(9, HOUR), {}),
        ("c", FixedWindow(7, HOUR), {"form": "x-ratelimit"}),
        ("d", FixedWindow(6, HOUR), {"form": "draft-06"}),
        ("e", FixedWindow(1, HOUR), {"shadow": True}),
        ("f", FixedWindow(8, HOUR), {"form": "none"}),
    )
    found = fields(guard.enter())
    assert found["RateLimit-Policy"] == '"a";q=2;w=3600, "b";q=9;w=3600'
    assert found["RateLimit"] == '"a";r=1;t=3600, "b";r=8;t=3600'
    assert (found["X-RateLimit-Limit"], found["X-RateLimit-Remaining"]) == ("7", "6")
    assert (found["RateLimit-Limit"], found["RateLimit-Remaining"]) == ("6", "5")
    assert "Retry-After" not in found
    guard.enter()
    denied = guard.enter()
    assert denied.status == 429
    found = fields(denied)
    assert found["RateLimit"].startswith('"a";r=0;t=')
    assert 0 < int(found["Retry-After"]) <= HOUR
    said = json.loads(denied.body)
    assert (said["status"], said["violated-policies"]) == (429, ["a"])
    assert not denied


def test_a_subject_with_numbers_of_its_own(guard: AnyGuard, any_store: str) -> None:
    partner = CustomerPlan((FixedWindow(3, HOUR),))
    guard.opened(
        any_store,
        (
            "keys",
            FixedWindow(1, HOUR),
            {
                "identity": identity("api-key"),
                "plans": Plans(dict.fromkeys(meant("p", "api-key"), partner)),
            },
        ),
    )
    assert guard.statuses(2, request(x_api_key="other")) == [200, 429]
    assert guard.statuses(4, request(x_api_key="p")) == [200, 200, 200, 429]
    assert "q=3" in fields(guard.enter(request(x_api_key="p")))["RateLimit-Policy"]


def test_a_leaky_bucket_has_a_delay(guard: AnyGuard, any_store: str) -> None:
    guard.opened(any_store, ("q", LeakyBucket(10, 10), {}), ("w", FixedWindow(99, HOUR), {}))
    assert guard.enter().delay == 0
    assert 0.5 < guard.enter().delay <= 1


def test_a_request_without_rules_is_allowed(guard: AnyGuard) -> None:
    """The guard has no rule, or none applies: there are no header fields."""
    assert guard.of([]).enter().status == 200
    guard.opened(NOWHERE, ("a", "5/s", {"percent": 0.0}))
    verdict = guard.enter()
    assert (verdict.status, verdict.results, verdict.fields, verdict.body) == (200, (), [], "")


def test_made_up_identities_make_no_keys(guard: AnyGuard, store: str, subject: str) -> None:
    """A client that is denied by address leaves no key that it invents in the store, and no secret."""
    guard.opened(
        store,
        ("each", FixedWindow(5, HOUR), {}),
        ("keys", FixedWindow(9, HOUR), {"identity": identity("api-key")}),
        timeout=2.0,
    )
    for number in range(200):
        guard.enter(request(x_api_key=f"canary-{number}"))
    with redis.Redis.from_url(store) as client:
        made = list(client.scan_iter(f"{subject}:*", count=10_000))
    assert len(made) == 1 + 5
    assert b"canary" not in b"".join(made)


# --- shadow mode ---


def test_shadow_mode_counts_and_never_denies(guard: AnyGuard, any_store: str) -> None:
    guard.opened(
        any_store,
        ("real", FixedWindow(4, HOUR), {}),
        ("shade", FixedWindow(2, HOUR), {"shadow": True}),
    )
    verdicts = [guard.enter() for _ in range(5)]
    assert [one.status for one in verdicts] == [200, 200, 200, 200, 429]
    said = [one.results[1].decision.allowed for one in verdicts]
    assert said == [True, True, False, False, False]
    assert all("shade" not in str(one.fields) + one.body for one in verdicts)
    assert (guard.left("real", "203.0.113.9"), guard.left("shade", "203.0.113.9")) == (0, 0)


def test_shadow_rules_that_cannot_be_evaluated(guard: AnyGuard, any_store: str) -> None:
    """The observer learns that they would have refused; the request is allowed."""
    seen: list[Verdict] = []
    guard.opened(
        any_store,
        ("real", FixedWindow(4, HOUR), {}),
        ("who", "5/s", {"shadow": True, "identity": identity("api-key")}),
        ("much", "5/s", {"shadow": True, "cost": lambda *_: 6}),
        observe=lambda *arguments: seen.append(arguments[1]),
    )
    verdict = guard.enter()
    assert verdict.status == 200
    assert granted(verdict) == {"real": 1}
    assert [(rule.name, type(error)) for rule, error in verdict.shadowed] == [
        ("who", Unidentified),
        ("much", InvalidCost),
    ]
    assert seen == [verdict]


# --- invalid requests ---


def test_an_unidentified_caller(guard: AnyGuard, any_store: str) -> None:
    """The status is 400, and nothing is charged."""
    guard.opened(
        any_store,
        ("all", FixedWindow(5, HOUR), {"identity": GLOBAL}),
        ("keys", "5/s", {"identity": identity("api-key")}),
    )
    verdict = guard.enter()
    assert (verdict.status, verdict.fields, verdict.results) == (400, [], ())
    assert json.loads(verdict.body)["status"] == 400
    assert isinstance(verdict.error, Unidentified)
    assert guard.left("all", "global") == 5


def test_a_cost_that_can_never_pass(guard: AnyGuard, any_store: str) -> None:
    """The status is 413, without Retry-After; nothing is charged."""
    guard.opened(
        any_store,
        ("all", FixedWindow(5, HOUR), {"identity": GLOBAL}),
        ("big", FixedWindow(3, HOUR), {"cost": lambda incoming, _: incoming.size}),
    )
    verdict = guard.enter(request(content_length="4"))
    assert (verdict.status, verdict.fields) == (413, [])
    assert verdict.body == problems.too_large("/")
    assert isinstance(verdict.error, InvalidCost)
    assert guard.left("all", "global") == 5
    assert guard.enter(request(content_length="3")).status == 200


def test_rules_of_two_stores_are_no_guard() -> None:
    rules = [Rule(Limiter("5/s", store="memory://", name=name)) for name in "ab"]
    with pytest.raises(InvalidSetting, match="store of rule b is not the store of rule a"):
        Guard(rules)


# --- the store does not decide ---


@pytest.mark.parametrize(
    ("on_error", "status"), [("raise", 503), ("deny", 503), ("allow", 200), ("local", 200)]
)
def test_without_a_store(guard: AnyGuard, on_error: str, status: int) -> None:
    guard.opened(NOWHERE, ("a", FixedWindow(5, HOUR), {"on_error": on_error}), timeout=0.05)
    verdict = guard.enter()
    assert verdict.status == status
    assert isinstance(verdict.error, StoreUnavailable)
    (result,) = verdict.results
    assert result.decision.degraded
    # Only a fallback that counts has numbers for the header fields.
    assert bool(verdict.fields) == (on_error == "local")
    assert verdict.body == (problems.reduced_capacity("/") if status == 503 else "")


@pytest.mark.parametrize("shadow", ["raise", "deny", "allow", "local"])
def test_shadow_mode_does_not_deny_without_a_store(guard: AnyGuard, shadow: str) -> None:
    guard.opened(
        NOWHERE,
        ("a", "5/hour", {"on_error": "allow"}),
        ("b", FixedWindow(1, HOUR), {"on_error": shadow, "shadow": True}),
        timeout=0.05,
    )
    assert guard.statuses(3) == [200, 200, 200]


@pytest.mark.parametrize("other", ["raise", "deny"])
def test_each_rule_s_on_error_decides_for_it(guard: AnyGuard, other: str) -> None:
    """If one denies, the request is denied, and no local share is charged."""
    rules = guard.rules(
        NOWHERE,
        ("here", FixedWindow(2, HOUR), {"on_error": "local"}),
        ("there", FixedWindow(2, HOUR), {"on_error": other}),
        timeout=0.05,
    )
    assert guard.of(rules).statuses(3) == [503, 503, 503]
    assert guard.of(rules[:1]).statuses(3) == [200, 200, 429]


def test_fallbacks_in_this_process_charge_all_or_none(guard: AnyGuard) -> None:
    """Each has its local share, and shadow mode stays shadow mode."""
    rules = guard.rules(
        NOWHERE,
        ("all", FixedWindow(8, HOUR), {"identity": GLOBAL, "on_error": "local", "local_share": 2}),
        ("each", FixedWindow(2, HOUR), {"on_error": "local"}),
        ("shade", FixedWindow(1, HOUR), {"on_error": "local", "shadow": True}),
        ("free", FixedWindow(1, HOUR), {"on_error": "allow"}),
        timeout=0.05,
    )
    guard.of(rules)
    verdicts = [guard.enter() for _ in range(4)]
    assert [one.status for one in verdicts] == [200, 200, 429, 429]
    assert [one.results[0].decision.remaining for one in verdicts] == [3, 2, 2, 2]
    assert [one.results[2].decision.allowed for one in verdicts] == [True, False, False, False]
    assert "Retry-After" in fields(verdicts[-1])
    assert guard.statuses(3, request(peer="198.51.100.1")) == [200, 200, 429]
    assert guard.statuses(1, request(peer="198.51.100.2")) == [429]


def test_a_cost_beyond_the_share(guard: AnyGuard) -> None:
    """The fallback denies a cost above its share, which the whole limit would admit."""
    guard.opened(
        NOWHERE,
        ("a", FixedWindow(8, HOUR), {"on_error": "local", "local_share": 8, "cost": two_units}),
        ("b", FixedWindow(8, HOUR), {"on_error": "local", "shadow": True}),
        timeout=0.05,
    )
    assert guard.statuses(2) == [503, 503]


def test_a_store_that_refuses(
    guard: AnyGuard, any_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The status is 503 for each on_error, and an error is logged; shadow mode allows the request."""
    refused = any_store.replace("redis://", "redis://nobody:wrong@")
    specs = ("a", "5/s", {"on_error": "allow"}), ("b", "5/s", {"on_error": "allow"})
    guard.opened(refused, *specs, timeout=2.0)
    verdict = guard.enter()
    assert verdict.status == 503
    assert isinstance(verdict.error, StoreRefused)
    assert "StoreRefused" in caplog.text
    guard.of([replace(rule, shadow=True) for rule in guard.current.rules])
    assert guard.enter().status == 200


def test_the_shortest_time_out_counts(guard: AnyGuard, store: str) -> None:
    """The timeouts of rules that apply to the request count, and no others."""
    host, _, port = store.removeprefix("redis://").partition("/")[0].partition(":")
    with proxy.Proxy((host, int(port))) as between:
        guard.opened(
            between.url,
            ("slow", "50/s", {"on_error": "allow"}),
            (
                "quick",
                "50/s",
                {"on_error": "allow", "timeout": 0.1, "identity": identity("api-key")},
            ),
            timeout=1.8,
        )
        guard.of([replace(rule, unidentified="skip") for rule in guard.current.rules])
        assert guard.enter(request(x_api_key="k")).status == 200
        between.replies = proxy.swallow
        for incoming, least, most in (request(x_api_key="k"), 0.1, 1.0), (request(), 1.0, 20.0):
            took = [30.0]
            while min(took) >= most and len(took) < 9:  # a busy machine may take longer
                began = monotonic()
                verdict = guard.enter(incoming)
                took.append(monotonic() - began)
                assert verdict.status == 200
                assert isinstance(verdict.error, StoreUnavailable)
            assert least <= min(took) < most


class Cost(int, Enum):
    """A cost whose text is its name."""

    BIG = 5


def test_a_cost_may_be_any_int(guard: AnyGuard, any_store: str) -> None:
    """It is sent as its number; a plain int of the same value is the same cost."""
    costs = [Cost.BIG, 5]
    guard.opened(any_store, ("a", FixedWindow(10, HOUR), {"cost": lambda *_: costs.pop(0)}))
    assert guard.statuses(2) == [200, 200]
    assert guard.left("a", "203.0.113.9") == 0


# --- leases ---


def test_leases_are_held_until_the_response_is_closed(guard: AnyGuard, any_store: str) -> None:
    """Leases and rates are taken all or none; a second ``leave`` does nothing."""
    guard.opened(any_store, ("now", Concurrency(2), {}), ("rate", FixedWindow(4, HOUR), {}))
    first, second = guard.enter(), guard.enter()
    assert (first.status, second.status, guard.enter().status) == (200, 200, 429)
    assert guard.left("rate", "203.0.113.9") == 2
    guard.leave(first)
    guard.leave(first)
    third = guard.enter()
    assert (third.status, guard.enter().status) == (200, 429)
    assert fields(third)["RateLimit-Policy"].startswith('"now";q=2;qu="concurrent-requests"')
    for verdict in (second, third):
        guard.leave(verdict)
    assert guard.left("now", "203.0.113.9") == 2
    last = guard.enter()
    assert last.status == 200
    assert guard.enter().status == 429  # the rate denies, and no lease stays held
    guard.leave(last)
    assert guard.left("now", "203.0.113.9") == 2


def test_leases_in_shadow_mode(guard: AnyGuard, any_store: str) -> None:
    """A free lease is held; a missing one denies nothing."""
    guard.opened(any_store, ("now", Concurrency(1), {"shadow": True}), ("rate", "9/hour", {}))
    first, second = guard.enter(), guard.enter()
    assert (first.status, second.status) == (200, 200)
    assert (len(first.leases), len(second.leases)) == (1, 0)
    guard.leave(second)
    assert guard.left("now", "203.0.113.9") == 0
    guard.leave(first)
    assert guard.left("now", "203.0.113.9") == 1


def test_leases_without_a_store(guard: AnyGuard) -> None:
    """The process takes leases of its local share, and releases them."""
    guard.opened(NOWHERE, ("now", Concurrency(1), {"on_error": "local"}), timeout=0.05)
    first = guard.enter()
    assert (first.status, guard.enter().status) == (200, 429)
    guard.leave(first)
    assert guard.enter().status == 200


def test_leases_that_cannot_be_renewed_are_released(
    monkeypatch: pytest.MonkeyPatch, any_store: str, subject: str
) -> None:
    """The process can start no more threads: the request is refused, and its leases are released."""
    add, calls = RenewalThreads.add, []

    def once(self: RenewalThreads, flow: Any) -> None:
        calls.append(flow)
        if len(calls) == 2:
            raise StoreUnavailable("no more threads")
        add(self, flow)

    monkeypatch.setattr(RenewalThreads, "add", once)
    guard = AnyGuard("threads", subject)
    # After the timeout, leases that may have been taken are released.
    guard.opened(any_store, ("a", Concurrency(1), {}), ("b", Concurrency(1), {}), timeout=1.0)
    verdict = guard.enter()
    assert verdict.status == 503
    deadline = monotonic() + 10
    while [guard.left(name, "203.0.113.9") for name in "ab"] != [1, 1]:
        assert monotonic() < deadline
        sleep(0.02)  # another thread releases one lease, without a signal
    guard.close()


# --- observers ---


@pytest.mark.parametrize("status", [200, 429, 413, 400, 503])
def test_an_observer_gets_every_verdict(guard: AnyGuard, any_store: str, status: int) -> None:
    seen: list[tuple[Request, Verdict]] = []
    incoming = request(
        content_length="6" if status == 413 else "1", peer=None if status == 400 else "1.1.1.1"
    )
    guard.opened(
        NOWHERE if status == 503 else any_store,
        ("a", FixedWindow(5, HOUR), {"cost": lambda incoming, _: incoming.size}),
        observe=lambda *arguments: seen.append(arguments),
        timeout=0.05 if status == 503 else 2.0,
    )
    for _ in range(5 if status == 429 else 0):
        guard.enter(incoming)
    seen.clear()
    verdict = guard.enter(incoming)
    assert verdict.status == status
    assert seen == [(incoming, verdict)]


# --- logs ---


def test_a_flood_of_refused_requests_writes_one_line_of_a_kind(
    guard: AnyGuard, store: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A line for each request would let any client fill the disk. The next line has their number."""

    def fails(*_: Any) -> None:
        raise RuntimeError("mine")

    client = redis.Redis.from_url(store)
    client.set(f"{subject}:{{203.0.113.9}}:api:v1", "something else", ex=60)
    guard.opened(store, ("api", FixedWindow(5, HOUR), {}), observe=fails)
    assert guard.statuses(20) == [503] * 20
    ours = [record for record in caplog.records if record.name == "limiter.web"]
    assert [record.getMessage().partition(":")[0] for record in ours] == [
        "StoreRefused",
        "an observer failed",
    ]
    client.close()


@pytest.mark.parametrize("bound", [None, "10/hour"])
def test_a_single_rule_spends_prepaid_units(guard: AnyGuard, store: str, bound: str | None) -> None:
    """Also one that bounds new subjects; 300 requests take few script calls, and each says what is left."""
    more: dict[str, Any] = {"prepaid": 100, "prepaid_hold": 50}
    if bound is not None:
        more |= {"new_subjects": NewSubjects(bound), "identity": GLOBAL}
    guard.opened(store, ("p", FixedWindow(1_000, 86_400), more))
    client = redis.Redis.from_url(store)
    before = scripts_run(client)
    verdicts = [guard.enter() for _ in range(300)]

    assert [each.results[0].decision.remaining for each in verdicts] == list(range(999, 699, -1))
    assert [fields(each)["RateLimit"] for each in verdicts[::100]] == [
        f'"p";r={left};t=86400' for left in (999, 899, 799)
    ]
    assert scripts_run(client) - before <= 30


def test_a_single_rule_answers_denials_from_the_cache(guard: AnyGuard, store: str) -> None:
    guard.opened(store, ("p", FixedWindow(1, 86_400), {}), denial_cache=60)
    client = redis.Redis.from_url(store)
    assert guard.statuses(2) == [200, 429]
    before = scripts_run(client)
    verdicts = [guard.enter() for _ in range(100)]

    assert {each.status for each in verdicts} == {429}
    assert all(each.results[0].decision.cached for each in verdicts)
    assert {each.body for each in verdicts} == {verdicts[0].body}
    assert 'Policy p allows 1 request per 86400 s."' in verdicts[0].body
    assert scripts_run(client) == before


def test_equal_requests_of_one_turn_are_one_call(store: str, subject: str) -> None:
    """Each coroutine gets the verdict that it would get alone."""

    async def enter_all() -> list[Verdict]:
        async with AsyncLimiter("30/day", store=store, name=subject, timeout=5) as limiter:
            own = AsyncGuard([Rule(limiter)])
            await own.enter(request())
            before = scripts_run(client)
            verdicts = await asyncio.gather(*[own.enter(request()) for _ in range(50)])
            assert scripts_run(client) - before <= 2
            return verdicts

    client = redis.Redis.from_url(store)
    verdicts = asyncio.run(enter_all())
    assert [each.status for each in verdicts] == [200] * 29 + [429] * 21
    assert [each.results[0].decision.remaining for each in verdicts[:29]] == list(range(28, -1, -1))
    assert {fields(each)["RateLimit"].partition(";t=")[0] for each in verdicts[29:]} == {
        f'"{subject}";r=0'
    }

"""Plans, overrides and classes of priority: other numbers for a policy's limits, over the same state."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis

from limiter import Concurrency, InvalidCost, Limiter, SlidingLog, TokenBucket
from limiter.policies import Policy
from limiter.policyfile.reading import read
from limiter.testing import set_time
from limiter.web import limiter_calls
from limiter.web.by_response import Head
from limiter.web.guard import Guard
from limiter.web.match import SkipReason
from limiter.web.plans import Classes
from limiter.web.rules import Check, Rule
from limiter.web.settling import settle
from limiter.web.subjects import hashed, identity
from limiter.web.trusted_field import TrustedField
from tests.calls.support import NOW_US, RATES, by_algorithm
from tests.policyfile.test_reading import TRUSTED, about, file, request, rule_of

PROXY = "127.0.0.1"
PLANS = (
    "limits = '10/hour'\nkey = 'api-key'\nunidentified = 'address'\nplan = { header = 'X-Plan' }\n"
    "overrides = { own = '1/hour', gold-own = '2/hour' }\n"
    f"[policies.p.plans.gold]\nlimits = '100/hour'\nkeys = ['{hashed('api-key', 'hidden')}', 'own']\n"
    "key_prefix = 'gold-'\n"
    "[policies.p.plans.test]\nlimits = '50/hour'\nkeys = ['known']\nkey_prefix = 'gold-test-'\n"
)
CLASSES = "class = { header = 'X-Class', low = 0.57, high = 1, normal = 0.99 }\n"


def limit_of(rule: Rule, peer: str = PROXY, **fields: str) -> int:
    """The first limit that holds for a request of a proxy, or of another peer."""
    check = about(rule, request(peer=peer, x_forwarded_for="203.0.113.9", **fields))
    assert isinstance(check, Check)
    return check.part().plan.policies[0].capacity


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"x_api_key": "other"}, 10),
        # A name of the subject in the file counts first, and an override first of all.
        ({"x_api_key": "hidden"}, 100),
        ({"x_api_key": "known", "x_plan": "gold"}, 50),
        ({"x_api_key": "own", "x_plan": "test"}, 1),
        ({"x_api_key": "gold-own"}, 2),
        # Then what the request says, but no client may.
        ({"x_api_key": "other", "x_plan": "gold"}, 100),
        ({"x_api_key": "gold-7", "x_plan": "test"}, 50),
        ({"x_api_key": "other", "x_plan": "gold", "peer": "203.0.113.9"}, 10),
        ({"x_api_key": "other", "x_plan": "none"}, 10),
        ({"x_api_key": "other", "x_plan": "gold, gold"}, 10),
        ({"x_api_key": "gold-7", "x_plan": "none"}, 100),
        # At last the longest prefix.
        ({"x_api_key": "gold-7"}, 100),
        ({"x_api_key": "gold-test-7"}, 50),
        ({"x_api_key": "Gold-7"}, 10),
        # Without a key the subject is the address.
        ({"x_plan": "test"}, 50),
        ({}, 10),
    ],
)
def test_who_is_on_a_plan(fields: dict[str, Any], limit: int) -> None:
    assert limit_of(rule_of(PLANS), **fields) == limit


def test_the_prefix_of_a_list_of_keys() -> None:
    """It is one of the subject as `overrides` write it."""
    rule = rule_of(
        "limits = '10/hour'\nkey = ['address', 'header:X-Team']\n"
        "[policies.p.plans.gold]\nlimits = '100/hour'\nkey_prefix = '203.0.113.9,gold'\n"
    )
    assert limit_of(rule, x_team="gold-7") == 100
    assert limit_of(rule, x_team="iron") == 10


def test_a_caller_that_names_subjects_names_their_plans_and_classes() -> None:
    rule = rule_of(
        "limits = '10/hour'\nexempt.keys = ['free']\n"
        f"{CLASSES}[policies.p.plans.gold]\nlimits = '100/hour'\nkey_prefix = 'org:'\nkeys = ['k']\n"
    )
    for (subject, plan, class_), limit in {
        ("u", None, None): 5,
        ("u", "gold", None): 57,
        ("u", "gold", "high"): 100,
        ("u", "none", "none"): 5,
        ("k", None, "high"): 100,
        ("org:7", None, "normal"): 99,
    }.items():
        check = rule.consider_subject(subject, 3, plan, class_)
        assert isinstance(check, Check)
        assert (check.cost, check.part().plan.policies) == (3, (SlidingLog(limit, 3600),))
    # A refund is of what the subject has used, whatever the class was.
    for plan, limit in ((None, 10), ("gold", 100)):
        check = rule.consider_refund("u", 10, plan)
        assert isinstance(check, Check)
        assert check.part().plan.policies == (SlidingLog(limit, 3600),)
    assert rule.consider_refund("free", 1) is SkipReason.EXEMPT_KEY


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"x_class": "high"}, 100),
        ({"x_class": " normal "}, 99),
        ({"x_class": "low"}, 57),  # 100 * 0.57 is less in floats
        ({}, 57),
        ({"x_class": "High"}, 57),
        ({"x_class": "high, low"}, 57),
        ({"x_class": "high", "peer": "203.0.113.9"}, 57),
        ({"x_class": "header"}, 57),
    ],
)
def test_the_class_of_a_request(fields: dict[str, Any], limit: int) -> None:
    assert limit_of(rule_of(f"limits = '100/hour'\n{CLASSES}"), **fields) == limit


@pytest.mark.parametrize("policy", [*RATES, Concurrency(10)], ids=by_algorithm)
def test_a_share_of_each_algorithm(policy: Policy) -> None:
    """A bucket keeps its rate; no share is less than 1."""
    for share, capacity in ((0.8, 8), (0.89, 8), (0.05, 1)):
        scaled = policy.scaled(share)
        assert (type(scaled), scaled.field) == (type(policy), policy.field)
        assert scaled.capacity == scaled.most_cost == capacity
    numbers = TokenBucket(60, 60, burst=10).scaled(0.5)
    assert numbers == TokenBucket(60, 60, burst=5)


def test_what_else_a_policy_has_holds_with_plans_and_classes() -> None:
    """Exemptions, percentages, preflights, unknown costs and bounds on new subjects."""
    rule = rule_of(
        f"limits = '10/hour'\nkey = 'api-key'\nexempt.keys = ['free']\nnew_subjects = '5/hour'\n{CLASSES}"
        "cost = { header = 'X-Cost' }\nplan = { header = 'X-Plan' }\n"
        "[policies.p.plans.gold]\nlimits = '100/hour'\n"
    )
    gold = {"x_plan": "gold", "x_class": "high", "x_forwarded_for": "203.0.113.9"}
    assert about(rule, request(x_api_key="free", peer=PROXY, **gold)) is SkipReason.EXEMPT_KEY
    check = about(rule, request(x_api_key="k", x_cost="?", peer=PROXY, **gold))
    assert isinstance(check, Check)
    assert (check.cost, check.address, check.class_) == (100, "203.0.113.9", "high")
    preflight = {"origin": "http://a.example", "access_control_request_method": "GET"}
    check = about(rule, request(method="OPTIONS", peer=PROXY, **preflight, **gold))
    assert check == Check(rule, ("preflight", "203.0.113.9"), 1, None)
    none = rule_of(f"limits = '10/hour'\npercent = 0\n{CLASSES}")
    assert about(none, request(x_class="high")) is SkipReason.PERCENT
    # Only policies without plans and classes are decided by the subject alone.
    assert rule_of("limits = '10/hour'").is_plain
    assert not rule_of(f"limits = '10/hour'\n{CLASSES}").is_plain


def test_a_cost_above_the_numbers_of_a_class() -> None:
    text = f"limits = '10/hour'\ncost = {{ header = 'X-Cost' }}\n{CLASSES}"
    check = about(rule_of(text), request(x_cost="6", peer=PROXY, x_forwarded_for="203.0.113.9"))
    assert isinstance(check, Check)
    with pytest.raises(InvalidCost, match="from 0 to 5, the most that these limits ever admit"):
        check.part()
    capped = rule_of(f"{text}cap = true\n")
    check = about(capped, request(x_cost="6", peer=PROXY, x_forwarded_for="203.0.113.9"))
    assert isinstance(check, Check)
    assert check.part().cost == 5


def test_the_response_shows_the_numbers_of_the_class() -> None:
    rules = [
        named.rule
        for named in file(f"[policies.p]\nlimits = '10/hour'\n{CLASSES}").policies.values()
    ]
    guard = Guard(rules, TRUSTED)
    fields = {"peer": PROXY, "x_forwarded_for": "203.0.113.9"}
    verdicts = [guard.enter(request(x_class="low", **fields)) for _ in range(6)]
    assert [verdict.status for verdict in verdicts] == [200] * 5 + [429]
    assert dict(verdicts[4].fields)["RateLimit"].startswith('"p";r=0;')
    assert dict(verdicts[5].fields)["RateLimit-Policy"] == '"p";q=5;w=3600'
    assert "allows 5 requests" in verdicts[5].body
    verdict = guard.enter(request(x_class="high", **fields))
    assert dict(verdict.fields)["RateLimit"].startswith('"p";r=4;')


def test_without_the_store_a_class_has_its_part_of_the_local_share() -> None:
    limiter = Limiter(
        SlidingLog(20, 3600), store="redis://127.0.0.1:1/0", on_error="local", local_share=2
    )
    classes = Classes({"low": 0.5, "high": 1}, TrustedField("X-Class", ""))
    guard = Guard([Rule(limiter, classes=classes)], TRUSTED)
    fields = {"peer": PROXY, "x_forwarded_for": "203.0.113.9"}
    for name, admitted in (("low", 5), ("high", 5)):
        statuses = [
            guard.enter(request(x_class=name, **fields)).status for _ in range(admitted + 1)
        ]
        assert statuses == [200] * admitted + [429]


def test_the_true_cost_of_a_low_call_is_charged_beside_high_ones() -> None:
    """It may be a debt of a whole limit; by the numbers of the class alone, it would be free here."""
    limiter = Limiter(SlidingLog(100, 3600), store="memory://")
    rule = Rule(
        limiter,
        identity=identity("global"),
        cost=lambda of, _: int(of.headers["x-cost"]),
        classes=Classes({"low": 0.2, "high": 1}, TrustedField("X-Class", "")),
        by_response=lambda head: int(dict(head.fields)["used"]),
    )
    guard = Guard([rule], TRUSTED)
    low = guard.enter(request(peer=PROXY, x_class="low", x_cost="5"))
    assert guard.enter(request(peer=PROXY, x_class="high", x_cost="60"))
    settle(low, Head(200, [("used", "30")]))
    assert limiter.peek("global").remaining == 10


def state_of(client: Any, keys: tuple[bytes, ...]) -> list[Any]:
    """The whole state of a subject: of leases only their ends, since each has its own id."""
    read = {
        b"none": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: sorted(end for _, end in client.zrange(key, 0, -1, withscores=True)),
    }
    return [read[client.type(key)](key) for key in keys]


def without_reach(state: list[Any], policy: Policy) -> list[Any]:
    """The state without four bytes of a bucket: the largest debt that the last charge may have left."""
    if not policy.has_burst:
        return state
    return [
        None if part is None else {name: each[:8] + each[12:] for name, each in part.items()}
        for part in state
    ]


@pytest.mark.parametrize("policy", [*RATES, Concurrency(10, 600)], ids=by_algorithm)
def test_a_low_call_changes_the_state_by_its_own_charge_alone(
    any_store: str, new_subject: Any, policy: Policy
) -> None:
    """Beside each subject, another one gets the same charges, all of them in the highest class."""
    draw = random.Random(16)
    both, high = new_subject(), new_subject()
    limiter = Limiter(policy, store=any_store, timeout=10.0)
    rule = Rule(
        limiter,
        identity=identity("header:X-Id"),
        cost=lambda of, _: int(of.headers["x-cost"]),
        classes=Classes({"low": 0.5, "high": 1}, TrustedField("X-Class", "")),
    )
    guard, verdicts = Guard([rule], TRUSTED), []
    client = redis.Redis.from_url(any_store)
    keys = [
        limiter_calls.plan(limiter).call("peek", hashed("header", name)).keys
        for name in (both, high)
    ]
    now_us, denied, admitted = NOW_US, {"low": 0, "high": 0}, {"low": 0, "high": 0}
    for _ in range(60):
        now_us += draw.choice([0, 1, 999_999, 9_000_000, 30_000_000])
        set_time(limiter, now_us)
        class_, cost = draw.choice(["low", "low", "high"]), draw.choice([1, 2, 4])
        fields = {"x_cost": str(cost), "peer": PROXY, "x_forwarded_for": "203.0.113.9"}
        while verdicts and draw.random() < 0.25:  # a lease
            guard.leave(verdicts.pop())
            guard.leave(verdicts.pop())
        before = state_of(client, keys[0])
        verdict = guard.enter(request(x_id=both, x_class=class_, **fields))
        if not verdict.allowed:
            denied[class_] += 1
            assert state_of(client, keys[0]) == before
            continue
        admitted[class_] += 1
        other = guard.enter(request(x_id=high, x_class="high", **fields))
        verdicts += [verdict, other]
        assert other.allowed
        ours, theirs = (state_of(client, each) for each in keys)
        if class_ == "low":
            ours, theirs = (without_reach(state, policy) for state in (ours, theirs))
        assert ours == theirs
        lives = [client.pttl(each) for each in (*keys[0], *keys[1])]
        assert max(lives) - min(lives) < 10_000
    for verdict in verdicts:
        guard.leave(verdict)
    assert min(denied["low"], *admitted.values()) > 1
    limiter.close()


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
def test_a_subject_that_changes_its_plan_keeps_its_state(
    any_store: str, new_subject: Any, policy: Policy
) -> None:
    name = new_subject()
    numbers = f"limits = {{ algorithm = '{policy.algorithm}', per = 60, limit ="
    root = Limiter("1/s", store=any_store, timeout=10.0)
    policies = read(
        f"[policies.{name}]\n{numbers} 10 }}\nkey = 'header:X-Id'\nplan = {{ header = 'X-Plan' }}\n"
        f"[policies.{name}.plans.gold]\n{numbers} 20 }}\n",
        "policies.toml",
        lambda limits, **more: Limiter(limits, store=root, **more),
    )
    rule = policies.policies[name].rule
    set_time(rule.limiter, NOW_US)
    guard = Guard([rule], TRUSTED)
    fields = {"x_id": "1", "peer": PROXY, "x_forwarded_for": "203.0.113.9"}
    assert all(guard.enter(request(**fields)) for _ in range(4))
    # A bucket keeps the part that is used, the others keep their count.
    for plan, left in (("gold", 11 if policy.has_burst else 15), ("none", 4)):
        (result,) = guard.enter(request(x_plan=plan, **fields)).results
        assert result.decision.remaining == left
    root.close()

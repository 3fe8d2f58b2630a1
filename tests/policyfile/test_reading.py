"""The effect of each key of a policy file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    LeakyBucket,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.policies import Policy
from limiter.policyfile.reading import PolicyFile, in_memory, read
from limiter.web.guard import Guard
from limiter.web.identity import Unidentified
from limiter.web.match import SkipReason
from limiter.web.request import Request, joined
from limiter.web.rules import Check, Rule
from limiter.web.subjects import hashed

EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "policies.example.toml"
TRUSTED = (ip_network("127.0.0.0/8"),)


def file(text: str) -> PolicyFile:
    """A file of one policy ``p``, unless the text has policies of its own."""
    whole = text.startswith(("[", "default", "address_from"))
    return read(text if whole else f"[policies.p]\n{text}", "policies.toml")


def rule_of(text: str) -> Rule:
    """The rule of a file with one policy."""
    return next(iter(file(text).policies.values())).rule


def request(
    path: str = "/",
    method: str = "GET",
    host: str = "localhost",
    peer: str | None = "203.0.113.9",
    **headers: str,
) -> Request:
    fields = joined((name.replace("_", "-"), value) for name, value in headers.items())
    return Request(method, host, path, fields, peer)


def about(rule: Rule, web_request: Request) -> Check | SkipReason:
    return rule.consider(web_request, TRUSTED)


def cost(rule: Rule, web_request: Request) -> int:
    check = about(rule, web_request)
    assert isinstance(check, Check)
    return check.cost


def guard_checks(guard: Guard, web_request: Request) -> list[Check]:
    """The checks of a request; a rule in shadow mode refuses none."""
    checks = []
    for rule in guard.rules:
        with suppress(*[Unidentified] * rule.shadow):
            outcome = guard.consider(web_request, rule)
            checks += [outcome] if isinstance(outcome, Check) else []
    return checks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limits = '5/minute'", (SlidingLog(5, 60),)),
        ("limits = '5/minute; 9/hour burst 3'", (SlidingLog(5, 60), TokenBucket(9, 3600, burst=3))),
        ("limits = '5/minute'\nalgorithm = 'gcra'", (GCRA(5, 60),)),
        (
            "limits = { algorithm = 'token_bucket', limit = 100, per = 'minute', burst = 20 }",
            (TokenBucket(100, 60, burst=20),),
        ),
        ("limits = { limit = 5, per = 1.5 }\nalgorithm = 'fixed_window'", (FixedWindow(5, 1.5),)),
        (
            "limits = { algorithm = 'fixed_window', limit = 5, per = 'day', align = true }",
            (FixedWindow(5, "day", align=True),),
        ),
        (
            "limits = [{ algorithm = 'sliding_window', limit = 5, per = 60, name = 'n' }, '7/hour']",
            (SlidingWindow(5, 60, name="n"), SlidingLog(7, 3600)),
        ),
        ("limits = ['7/hour', '3/s']", (SlidingLog(7, 3600), SlidingLog(3, 1))),
        (
            "[[policies.p.limits]]\nalgorithm = 'leaky_bucket'\nlimit = 5\nper = '30s'\n"
            "[[policies.p.limits]]\nalgorithm = 'concurrency'\nlimit = 20\nlease = 10",
            (LeakyBucket(5, 30), Concurrency(20, lease=10)),
        ),
        ("limits = { algorithm = 'concurrency', limit = 20 }", (Concurrency(20),)),
    ],
)
def test_limits(text: str, expected: tuple[Policy, ...]) -> None:
    assert rule_of(text).limiter.policies == expected


@pytest.mark.parametrize(
    ("spec", "web_request", "key"),
    [
        ("'address'", request(), "203.0.113.9"),
        ("'address/56'", request(peer="2001:db8:1:2ff::5"), "2001:db8:1:200::/56"),
        ("'api-key:X-Mine'", request(x_mine="k"), hashed("api-key", "k")),
        ("['address', 'header:X-Org']", request(x_org="a"), ("203.0.113.9", hashed("header", "a"))),
        (
            "'path:org'\nmatch.paths = ['/orgs/{org}/**']",
            request("/orgs/acme/x"),
            hashed("path", "acme"),
        ),
    ],
)
def test_key(spec: str, web_request: Request, key: Any) -> None:
    check = about(rule_of(f"limits = '5/s'\nkey = {spec}"), web_request)
    assert isinstance(check, Check)
    assert check.key == key


@pytest.mark.parametrize(
    ("match", "web_request", "expected"),
    [
        ("paths = ['/a/**', '/c']", request("/c"), True),
        ("methods = ['get', 'POST']", request(method="POST"), True),
        ("methods = ['get', 'POST']", request(method="PUT"), False),
        ("hosts = ['API.example.com']", request(host="api.example.com"), True),
        ("hosts = ['api.example.com']", request(host="x.api.example.com"), False),
        ("hosts = ['*.example.com']", request(host="a.b.example.com"), True),
        ("hosts = ['*.example.com']", request(host="example.com"), False),
        ("hosts = ['*.example.com']", request(host="badexample.com"), False),
        ("hosts = ['[::1]']", request(host="[::1]"), True),
        ("paths = ['/a']\nmatch.methods = ['GET']", request("/a", "POST"), False),
        ("paths = ['/a']\nmatch.methods = ['GET']", request("/b", "GET"), False),
    ],
)
def test_match(match: str, web_request: Request, expected: bool) -> None:
    check = about(rule_of(f"limits = '5/s'\nmatch.{match}"), web_request)
    assert isinstance(check, Check) == expected


@pytest.mark.parametrize(
    ("setting", "web_request", "expected"),
    [
        ("3", request(), 3),
        ("{ header = 'X-Cost' }", request(x_cost="7"), 1),  # not from a trusted proxy
        ("{ header = 'X-Cost' }", request(peer="127.0.0.1", x_cost="7"), 7),
        ("{ header = 'X-Cost' }", request(peer="127.0.0.1", x_cost=" 1, 7 "), 7),
        ("{ header = 'X-Cost' }", request(peer="127.0.0.1", x_cost="0"), 1),
        ("{ header = 'X-Cost' }", request(peer="127.0.0.1", x_cost="0007"), 7),
        ("{ header = 'X-Cost' }", request(peer="127.0.0.1", x_cost="9" * 5_000), 10**18 - 1),
        # A header that cannot be read costs as much as the limit ever admits.
        *(
            ("{ header = 'X-Cost' }", request(peer="127.0.0.1", x_cost=wrong), 100)
            for wrong in ("-5", "+5", "٣", "1e3", "5.0", "", "5, x", "5,")
        ),
        ("{ header = 'X-Cost' }", request(peer="127.0.0.1"), 1),
        ("{ header = 'X-Cost' }", request(peer=None, x_cost="7"), 1),
        ("{ body = '1KiB' }", request(), 1),
        ("{ body = '1KiB' }", request(content_length="1024"), 1),
        ("{ body = '1KiB' }", request(content_length="1025"), 2),
        ("{ body = '2KB' }", request(content_length="4001"), 3),
        ("{ body = 10 }", request(content_length="95"), 10),
        ("{ body = '1 MiB' }", request(content_length=str(2**21)), 2),
        ("{ body = 10 }", request(content_length="00000000000000000095"), 10),
        # A body of unknown length costs as much as the limit ever admits.
        ("{ body = 10 }", request(content_length="nonsense"), 100),
        ("{ body = 10 }", request(transfer_encoding="chunked"), 100),
        ("{ body = 10 }", request(), 1),
    ],
)
def test_cost(setting: str, web_request: Request, expected: int) -> None:
    assert (
        cost(rule_of(f"limits = '100/s'\nkey = 'global'\ncost = {setting}"), web_request)
        == expected
    )


def test_settings_reach_the_limiter() -> None:
    """Settings that the file does not have are those of the other limiters."""
    given: list[dict[str, Any]] = []
    make = in_memory()

    def note(limits: Any, **settings: Any) -> Any:
        given.append(settings)
        return make(limits, **settings)

    read(
        "[policies.a]\nlimits = '5/s'\non_error = 'allow'\ntimeout = 0.25\nlocal_share = 4\n"
        "[policies.b]\nlimits = '5/s'\n[policies.c]\nlimits = '5/s'\ndenial_cache = 0\n"
        "prepaid = 0\nprepaid_hold = 0.1",
        "f",
        note,
    )
    assert given == [
        {"name": "a", "on_error": "allow", "timeout": 0.25, "local_share": 4},
        {"name": "b"},
        {"name": "c", "denial_cache": 0.0, "prepaid": 0, "prepaid_hold": 0.1},
    ]


def test_simple_keys_of_a_policy() -> None:
    rule = rule_of(
        "limits = '5/s'\nheaders = 'x-ratelimit'\nshadow = true\npercent = 12.5\n"
        "unidentified = 'skip'\npreflights = true"
    )
    assert (rule.form, rule.shadow, rule.percent) == ("x-ratelimit", True, 12.5)
    assert (rule.unidentified, rule.preflights) == ("skip", True)


def test_default_values() -> None:
    rule = rule_of("limits = '5/s'")
    assert (rule.name, rule.form, rule.shadow, rule.percent) == ("p", "draft-11", False, 100)
    assert (rule.unidentified, rule.preflights) == ("refuse", "apart")
    assert about(rule, request()) == Check(rule, "203.0.113.9", 1, None)


def test_exemptions() -> None:
    rule = rule_of(
        "limits = '5/s'\nkey = 'header:X-Org'\n"
        "exempt = { networks = ['10.0.0.0/8', '2001:db8::/32', '192.0.2.1'], "
        f"keys = ['acme', '{hashed('header', 'secret')}'], paths = ['/healthz', '/static/**'] }}"
    )
    assert about(rule, request("/healthz", x_org="x")) is SkipReason.EXEMPT_PATH
    assert about(rule, request("/static/a/b", x_org="x")) is SkipReason.EXEMPT_PATH
    assert about(rule, request(peer="10.1.1.1", x_org="x")) is SkipReason.EXEMPT_NETWORK
    assert about(rule, request(peer="::ffff:10.1.1.1", x_org="x")) is SkipReason.EXEMPT_NETWORK
    assert about(rule, request(peer="2001:db8::1", x_org="x")) is SkipReason.EXEMPT_NETWORK
    assert about(rule, request(peer="192.0.2.1", x_org="x")) is SkipReason.EXEMPT_NETWORK
    assert about(rule, request(x_org="acme")) is SkipReason.EXEMPT_KEY
    assert about(rule, request(x_org="secret")) is SkipReason.EXEMPT_KEY  # named by its hash
    assert isinstance(about(rule, request(x_org="other")), Check)
    # No client is exempt because of a header that it sends.
    forged = request(x_org="other", x_forwarded_for="10.1.1.1")
    assert isinstance(about(rule, forged), Check)


def test_overrides() -> None:
    rule = rule_of(
        "limits = '5/s; 100/hour'\nkey = 'api-key'\n"
        "[policies.p.overrides]\n'partner' = '50/s; 1000/hour'\n"
        f"'{hashed('api-key', 'hidden')}' = ['7/s', '8/hour']"
    )
    ten_times = (SlidingLog(50, 1), SlidingLog(1000, 3600))
    for key, limits in (
        ("partner", ten_times),
        ("hidden", (SlidingLog(7, 1), SlidingLog(8, 3600))),
        ("other", None),
    ):
        check = about(rule, request(x_api_key=key))
        assert isinstance(check, Check)
        assert check.limits == limits


def test_without_a_key_a_policy_may_name_any_subject() -> None:
    """Callers of /v1/check may use it by its name, for subjects of their own."""
    rule = rule_of("limits = '5/s'\nexempt.keys = ['10.0.0.0/8']\noverrides = { 'org,7' = '9/s' }")

    assert rule.consider_subject("10.0.0.0/8", 1) is SkipReason.EXEMPT_KEY
    check = rule.consider_subject(("org", 7), 1)
    assert isinstance(check, Check)
    assert check.limits == (SlidingLog(9, 1),)


def test_defaults() -> None:
    """A policy overrides them key by key, and exemptions kind by kind."""
    policy_file = file(
        "[defaults]\nkey = 'global'\nalgorithm = 'gcra'\nshadow = true\n"
        "exempt = { paths = ['/healthz'], keys = ['a'] }\n"
        "[policies.a]\nlimits = '5/s'\n"
        "[policies.b]\nlimits = '5/s'\nkey = 'address'\nshadow = false\nexempt.keys = ['192.0.2.1']"
    ).policies
    a, b = policy_file["a"].rule, policy_file["b"].rule
    assert a.limiter.policies == b.limiter.policies == (GCRA(5, 1),)
    assert (a.shadow, b.shadow) == (True, False)
    assert (a.exempt_keys, b.exempt_keys) == ({"a"}, {"192.0.2.1"})
    for policy in (a, b):
        assert about(policy, request("/healthz")) is SkipReason.EXEMPT_PATH


TWO = "[policies.default]\nlimits = '5/s'\n[policies.api]\nlimits = '9/s'\nmatch.paths = ['/api/**']\n"


@pytest.mark.parametrize(
    ("text", "default"),
    [(TWO, "default"), ("default = 'api'\n" + TWO, "api"), ("[policies.a]\nlimits = '5/s'", None)],
)
def test_default(text: str, default: str | None) -> None:
    policy_file = file(text)
    assert policy_file.default == default
    marked = [name for name, named in policy_file.policies.items() if named.rule.is_default]
    assert marked == ([default] if default else [])


def test_the_default_does_not_apply_beside_a_policy_with_a_match() -> None:
    """Also if that policy exempts the request; but not for a policy that matches every request."""
    policy_file = file(
        TWO + "exempt.networks = ['10.0.0.0/8']\n[policies.all]\nlimits = '99/s'\nkey = 'global'"
    )
    guard = Guard([named.rule for named in policy_file.policies.values()])

    def names(web_request: Request) -> list[str]:
        return [check.rule.name for check in guard_checks(guard, web_request)]

    assert names(request("/")) == ["default", "all"]
    assert names(request("/api/x")) == ["api", "all"]
    assert names(request("/api/x", peer="10.0.0.1")) == ["all"]


@pytest.mark.parametrize(
    ("other", "decides"),
    [
        ("", True),
        ("exempt.paths = ['/api/x']", True),
        ("exempt.keys = ['me']\nkey = 'header:X-Me'", True),
        ("methods", True),
        # No setting exempts such requests.
        ("shadow = true", False),
        ("percent = 0", False),
        ("key = 'api-key'\nunidentified = 'skip'", False),
        ("key = 'api-key'\nshadow = true", False),
    ],
)
def test_the_default_applies_unless_another_policy_decides(other: str, decides: bool) -> None:
    """If the other policy is in shadow mode, or does not apply to the caller, the default limits it."""
    if other == "methods":
        other = "match.methods = ['GET']"
    policy_file = file(TWO + other)
    guard = Guard([named.rule for named in policy_file.policies.values()])
    checks = guard_checks(guard, request("/api/x", x_me="me"))
    assert ("default" in [check.rule.name for check in checks]) != decides


def test_a_request_with_two_keys_is_refused_for_each_setting() -> None:
    """Else the client could choose how it is treated."""
    for how in ("skip", "address", "refuse"):
        rule = rule_of(f"limits = '5/s'\nkey = 'cookie:sid'\nunidentified = '{how}'")
        with pytest.raises(Unidentified, match="several cookies"):
            rule.check(request(cookie="sid=a; sid=b"), ())


def test_a_default_that_does_not_apply_refuses_no_request() -> None:
    """The policy that applies decides about requests without a usable key."""
    policy_file = file(
        "[policies.default]\nlimits = '5/s'\nkey = 'api-key'\n"
        "[policies.api]\nlimits = '9/s'\nmatch.paths = ['/api/**']\n"
    )
    guard = Guard([named.rule for named in policy_file.policies.values()])
    assert [check.rule.name for check in guard_checks(guard, request("/api/x"))] == ["api"]
    with pytest.raises(Unidentified):
        guard_checks(guard, request("/"))


@pytest.mark.parametrize(
    ("address_from", "expected"),
    [
        ("", "1.1.1.1"),
        ("address_from = 'x-forwarded-for'\n", "1.1.1.1"),
        ("address_from = 'forwarded'\n", "2.2.2.2"),
        ("address_from = 'x-real-ip'\n", "3.3.3.3"),
    ],
)
def test_address_from(address_from: str, expected: str) -> None:
    """Only this header is read, and only from a trusted proxy."""
    policy_file = file(address_from + "[policies.p]\nlimits = '5/s'")
    guard = Guard([policy_file.policies["p"].rule], TRUSTED, address_from=policy_file.address_from)
    headers = {
        "x_forwarded_for": "9.9.9.9, 1.1.1.1",
        "forwarded": "for=9.9.9.9, for=2.2.2.2;proto=https",
        "x_real_ip": "3.3.3.3",
    }
    assert [check.key for check in guard_checks(guard, request(peer="127.0.0.1", **headers))] == [
        expected
    ]
    assert [check.key for check in guard_checks(guard, request(peer="8.8.8.8", **headers))] == [
        "8.8.8.8"
    ]


PREFLIGHT = request(
    method="OPTIONS", origin="https://a.example", access_control_request_method="PUT"
)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("", ("preflight", "203.0.113.9")),
        ("preflights = 'apart'", ("preflight", "203.0.113.9")),
        ("preflights = true", "203.0.113.9"),
    ],
)
def test_the_subject_of_a_preflight(setting: str, key: object) -> None:
    """An OPTIONS request that is not a preflight counts as any other."""
    rule = rule_of(f"limits = '5/s'\n{setting}")
    keys = [check.key for check in checks_of(rule, PREFLIGHT, request(method="OPTIONS"))]
    assert keys == [key, "203.0.113.9"]
    free = rule_of("limits = '5/s'\npreflights = false")
    assert about(free, PREFLIGHT) is SkipReason.PREFLIGHT
    assert isinstance(about(free, request(method="OPTIONS")), Check)


def checks_of(rule: Rule, *requests: Request) -> list[Check]:
    """What a rule checks for the requests to which it applies."""
    checks = [about(rule, each) for each in requests]
    assert all(isinstance(each, Check) for each in checks)
    return checks  # type: ignore[return-value]


def test_a_preflight_needs_no_credentials_and_costs_1() -> None:
    """Browsers send it without credentials; it has no body, and no cost of the application's."""
    rule = rule_of("limits = '5/s'\nkey = 'api-key'\ncost = { body = '1KiB' }")
    (check,) = checks_of(rule, replace(PREFLIGHT, announces_body=False))
    assert (check.key, check.cost) == (("preflight", "203.0.113.9"), 1)
    with pytest.raises(Unidentified):
        rule.check(replace(PREFLIGHT, peer=None), ())


def test_the_example() -> None:
    """It is valid, and does what its comments say."""
    policy_file = read(EXAMPLE.read_text(), str(EXAMPLE))
    assert policy_file.default == "everyone"
    rules = [named.rule for named in policy_file.policies.values()]
    guard = Guard(rules, TRUSTED)

    def checks(*args: Any, **headers: Any) -> dict[str, Check]:
        return {check.rule.name: check for check in guard_checks(guard, request(*args, **headers))}

    assert policy_file.warnings == ()
    both = {"everything", "every-address"}
    assert set(checks("/")) == {*both, "everyone"}
    assert not checks("/healthz")
    partner = checks("/api/x", host="api.example.com", x_api_key="the-key-of-a-partner")
    assert set(partner) == {*both, "api"}
    assert partner["api"].address == "203.0.113.9"
    assert partner["api"].limits is not None
    assert checks("/api/x", host="api.example.com")["api"].key == "203.0.113.9"
    upload = checks("/orgs/a/uploads/1", method="PUT", content_length="5000")
    assert {name: check.cost for name, check in upload.items()} == {
        "everything": 1,
        "every-address": 1,
        "uploads": 5,
        "uploads-at-once": 1,
    }
    assert checks("/reports/1", peer="127.0.0.1", x_cost="9")["reports"].cost == 9


def test_the_description_of_a_policy_has_no_subject() -> None:
    """The service may show it to operators."""
    named = read(EXAMPLE.read_text(), "f").policies["api"]
    assert {"limits", "key", "match", "cost", "exempt", "overrides"} <= {*named.description}
    assert "monitoring" not in repr(named.description)
    assert named.description["exempt"]["keys"] == 1
    assert named.description["overrides"] == 1

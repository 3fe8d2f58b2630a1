"""Warnings about valid files: policies that do not do what they seem to."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from limiter.policyfile import AsyncPolicies, Policies
from limiter.policyfile.reading import read
from limiter.web.request import Request
from tests.policyfile.test_commands import run

API = "[policies.api]\nlimits = '5/minute'\nkey = 'api-key'\n"
ADDRESS = "[policies.each]\nlimits = '5/minute'\n"
NARROW = "match = { paths = ['/a', '/b'], methods = ['get'], hosts = ['x.example'] }\n"


def warned(text: str) -> list[str]:
    """The policies of a file about which a warning is given."""
    return [warning.key.split(".")[1] for warning in read(text, "policies.toml").warnings]


@pytest.mark.parametrize(
    "key",
    [
        "'api-key'",
        "'api-key:X-Mine'",
        "'cookie:id'",
        "'host'",
        "'header:X-Org'",
        "'path:org'",
        "['address', 'cookie:id']",
    ],
)
@pytest.mark.parametrize("more", ["", "shadow = true\n", "percent = 5\n"])
def test_a_key_that_clients_choose(key: str, more: str) -> None:
    text = f"[policies.p]\nlimits = '5/minute'\nmatch.paths = ['/{{org}}']\nkey = {key}\n{more}"
    (warning,) = read(text, "policies.toml").warnings
    assert str(warning) == (
        "policies.toml:4: policies.p.key: clients choose it, so each made-up key gets the whole "
        "limit, and takes memory in the store: add new_subjects = '20/hour' to the policy, or another "
        "policy that is not the default one, with key = 'address' and the same match"
    )
    assert warned(f"{text}new_subjects = '20/hour'\n") == []
    assert warned(f"[defaults]\nnew_subjects = '9/day'\n{text}") == []
    assert warned(f"{text}{ADDRESS}") == []


@pytest.mark.parametrize("key", ["'address'", "'address/56'", "'global'", "['address', 'global']"])
def test_a_key_that_clients_do_not_choose(key: str) -> None:
    assert warned(f"[policies.p]\nlimits = '5/minute'\nkey = {key}\n") == []


@pytest.mark.parametrize(
    "beside",
    [
        ADDRESS,
        ADDRESS + NARROW,
        ADDRESS + "match.paths = ['/b', '/c', '/a']\n",
        ADDRESS + "match.methods = ['POST', 'GET']\n",
        ADDRESS + "match.hosts = ['X.example']\n",
        ADDRESS + "key = 'address/48'\nexempt.networks = ['10.0.0.0/8']\n",
        "[policies.each]\nlimits = ['5/minute', { algorithm = 'concurrency', limit = 2 }]\n",
    ],
)
def test_what_bounds_chosen_keys(beside: str) -> None:
    assert warned(API + NARROW + beside) == []


@pytest.mark.parametrize(
    "beside",
    [
        "",
        ADDRESS + "shadow = true\n",
        ADDRESS + "percent = 99\n",
        ADDRESS + "key = 'global'\n",
        ADDRESS + "key = ['address', 'global']\n",
        ADDRESS + "match.paths = ['/a']\n",
        ADDRESS + "match.methods = ['POST']\n",
        ADDRESS + "match.hosts = ['y.example']\n",
        ADDRESS + "exempt.paths = ['/a']\n",
        ADDRESS.replace("each", "default"),
        "[policies.each]\nlimits = { algorithm = 'concurrency', limit = 2 }\n",
    ],
)
def test_what_does_not_bound_chosen_keys(beside: str) -> None:
    assert warned(API + NARROW + beside) == ["api"]


def test_a_narrow_policy_beside_a_wide_one() -> None:
    assert warned(API + ADDRESS + NARROW) == ["api"]


def test_the_command_warns_and_exits_with_0(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(API)
    result = run("check", str(path))
    assert result.exit_code == 0
    assert result.stdout.endswith("is right: 1 policy\n")
    assert result.stderr.startswith(f"warning: {path}:3: policies.api.key: clients choose it")
    printed = json.loads(run("check", str(path), "--json").stdout)
    assert [(warning["line"], warning["key"]) for warning in printed["warnings"]] == [
        (3, "policies.api.key")
    ]
    path.write_text(ADDRESS)
    assert run("check", str(path)).stderr == ""
    assert json.loads(run("check", str(path), "--json").stdout)["warnings"] == []


@pytest.mark.parametrize("kind", [Policies, AsyncPolicies])
def test_the_start_and_a_new_text_warn(
    kind: type[Policies], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(API + ADDRESS)
    caplog.set_level(logging.WARNING)
    policies = kind(path, store="memory://")
    assert caplog.text == ""
    path.write_text(API)
    assert policies.reload()
    assert policies.reload()  # as it was
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "policies.api.key: clients choose it" in caplog.text
    caplog.clear()
    kind(path, store="memory://")
    assert caplog.text.count("policies.api.key: clients choose it") == 1


def test_new_subjects_are_still_counted_after_a_change(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"

    def put(more: str) -> None:
        path.write_text(f"{API}{more}")

    def status(key: str) -> int:
        asked = Request("GET", "h.example", "/", {"x-api-key": key}, "203.0.113.9")
        return policies.guard.enter(asked).status

    put("new_subjects = '2/hour'\n")
    policies = Policies(path, store="memory://")
    assert [status(key) for key in "abc"] == [200, 200, 429]
    put("new_subjects = '3/hour'\n")
    policies.reload()
    assert [status(key) for key in "cd"] == [200, 429]
    put("")
    policies.reload()
    assert status("e") == 200
    put("new_subjects = '3/hour'\n")
    policies.reload()
    assert status("f") == 429


PREPAID = "[policies.p]\nlimits = '5000/second'\nprepaid = 100\n"
OTHER = "[policies.other]\nlimits = '5/minute'\n"


def prepaid_warnings(text: str) -> list[str]:
    """The texts of the warnings about prepaid units."""
    found = read(text, "policies.toml").warnings
    return [warning.message for warning in found if warning.key.endswith(".prepaid")]


def test_prepaid_units_that_are_never_spent() -> None:
    (shadow,) = read(PREPAID + "shadow = true\n", "policies.toml").warnings
    assert str(shadow) == (
        "policies.toml:3: policies.p.prepaid: has no effect in shadow mode, where every request is a call "
        "to the store: remove it as long as shadow is true"
    )
    (several,) = prepaid_warnings(PREPAID + "key = ['address', 'global']\n")
    assert several.startswith("has no effect if the key is a list")
    (beside,) = read(PREPAID + OTHER, "policies.toml").warnings
    assert str(beside) == (
        "policies.toml:3: policies.p.prepaid: has no effect on requests to which policy other applies, "
        "too, since one call to the store charges both: remove it, or give the two policies matches that "
        "have no request in common"
    )


CLASSES = "class = { header = 'X-Class', low = 0.5, high = 1.0 }\n"


def test_classes_that_spend_no_prepaid_units() -> None:
    (classes,) = prepaid_warnings(PREPAID + CLASSES.replace("1.0", "0.9"))
    assert classes.startswith("has no effect if no class has all of the limits")
    assert prepaid_warnings(PREPAID + CLASSES) == []


def test_classes_that_do_not_differ() -> None:
    limits = "[policies.p]\nlimits = ['1/minute', '3/hour', '9/day']\n"
    found = read(limits + CLASSES.replace("1.0", "0.6"), "policies.toml").warnings
    assert [str(warning) for warning in found] == [
        f"policies.toml:3: policies.p.class: has no effect on the limit of {limit}, of which each "
        "class has 1: use a larger limit, or a smaller share"
        for limit in (1, 3)
    ]
    bucket = "limits = { algorithm = 'gcra', limit = 100, per = 'hour', burst = 1 }\n"
    (burst,) = read(f"[policies.p]\n{bucket}{CLASSES}", "policies.toml").warnings
    assert "the limit of 1," in burst.message
    assert (
        read(f"[policies.p]\nlimits = '1/day'\n{CLASSES.replace('0.5', '1')}", "f").warnings == ()
    )


def test_a_cap_of_leases() -> None:
    leases = "[policies.p]\nlimits = { algorithm = 'concurrency', limit = 2 }\ncap = true\n"
    (warning,) = read(leases, "policies.toml").warnings
    assert str(warning) == (
        "policies.toml:3: policies.p.cap: has no effect on a policy that counts leases: remove it"
    )


GOLD = "[policies.p.plans.gold]\nlimits = '9/minute'\nkeys = ['a']\n"


@pytest.mark.parametrize(
    ("key", "is_chosen"), [("api-key", True), ("header:X-A", False), ("host", True)]
)
def test_a_plan_that_clients_choose(key: str, is_chosen: bool) -> None:
    text = f"[policies.p]\nlimits = '5/minute'\nkey = '{key}'\nnew_subjects = '9/hour'\n{GOLD}"
    assert read(text, "policies.toml").warnings == ()
    warnings = read(f"{text}key_prefix = 'gold_'\n", "policies.toml").warnings
    assert [str(warning) for warning in warnings] == is_chosen * [
        "policies.toml:8: policies.p.plans.gold.key_prefix: clients choose the key, so each client can "
        "choose this plan by the beginning of a made-up key: name the subjects in keys, or let a "
        "trusted proxy name the plan with plan = {header = 'X-Plan'}"
    ]


@pytest.mark.parametrize(
    "text",
    [
        PREPAID,
        PREPAID.replace("100", "0") + OTHER,
        f"[defaults]\nprepaid = 0\n{OTHER}" + OTHER.replace("other", "more"),
        PREPAID + "key = ['address']\n",
    ],
)
def test_prepaid_units_that_are_spent(text: str) -> None:
    assert prepaid_warnings(text) == []


@pytest.mark.parametrize(
    ("own", "other", "meet"),
    [
        ("methods = ['get']", "methods = ['GET', 'POST']", True),
        ("methods = ['GET']", "methods = ['HEAD']", True),
        ("methods = ['GET']", "methods = ['POST']", False),
        ("hosts = ['a.example']", "hosts = ['A.example']", True),
        ("hosts = ['a.example']", "hosts = ['*.example']", True),
        ("hosts = ['*.example']", "hosts = ['*.a.example']", True),
        ("hosts = ['*.a.example']", "hosts = ['*.b.example', 'a.example']", False),
        ("paths = ['/a/**']", "paths = ['/b', '/a/x']", True),
        ("paths = ['/a/x']", "paths = ['/a/{name}']", True),
        ("paths = ['/A/x']", "paths = ['/a/*']", True),
        ("paths = ['/a/*/x']", "paths = ['/a/**']", True),
        ("paths = ['/a/**']", "paths = ['/a', '/b/**']", False),
        ("paths = ['/a']", "paths = ['/ab']", False),
        ("paths = ['/a']", "methods = ['GET']", True),
        (
            "paths = ['/a']\nmatch.methods = ['GET']",
            "paths = ['/a']\nmatch.methods = ['PUT']",
            False,
        ),
    ],
)
def test_which_policies_may_meet(own: str, other: str, meet: bool) -> None:
    text = f"{PREPAID}match.{own}\n{OTHER}match.{other}\n"
    assert bool(prepaid_warnings(text)) is meet
    text = f"{OTHER}match.{other}\n{PREPAID}match.{own}\n"
    assert bool(prepaid_warnings(text)) is meet


@pytest.mark.parametrize(
    ("own", "other", "meet"),
    [
        ("", "match.paths = ['/a']\n", False),
        ("", "match.paths = ['/a']\nshadow = true\n", True),
        ("", "match.paths = ['/a']\npercent = 5\n", True),
        ("", "match.paths = ['/a']\nkey = 'global'\nunidentified = 'skip'\n", True),
        ("", "", True),
        ("match.paths = ['/a']\n", "match.paths = ['/a']\n", False),
    ],
)
def test_the_default_policy_meets_none_with_a_match(own: str, other: str, meet: bool) -> None:
    """Unless that one may leave the decision to it."""
    default = f"default = 'p'\n{PREPAID}{own}{OTHER}{other}"
    assert bool(prepaid_warnings(default)) is meet
    replaced = f"default = 'other'\n{OTHER}{own}{PREPAID}{other.replace('shadow = true', '')}"
    if "shadow" not in other:
        assert bool(prepaid_warnings(replaced)) is meet


def proxied(text: str) -> list[str]:
    """The warnings that hold behind ForwardAuth, without the name of the file."""
    found = read(text, "policies.toml").forward_auth_warnings
    return [str(warning).removeprefix("policies.toml:") for warning in found]


def test_costs_that_a_proxy_does_not_report() -> None:
    (warning,) = proxied(ADDRESS + "cost = { body = '1KiB' }\n")
    assert warning == (
        "3: policies.each.cost: behind ForwardAuth the proxy sends no body, and seldom its length. A "
        "request of unknown length costs the most that the limit ever admits at once, so one upload can "
        "use up the limit: put this policy into a middleware of the application, and not into the decision "
        "service's file"
    )
    (warning,) = proxied(f"[defaults]\ncost = {{ header = 'Content-Length' }}\n{ADDRESS}")
    assert warning.startswith("3: policies.each.cost: behind ForwardAuth")
    assert "costs 1, however long it is" in warning
    for cost in ("1", "5", "{ header = 'X-Cost' }"):
        assert proxied(ADDRESS + f"cost = {cost}\n") == []


def test_fields_that_only_the_proxy_may_set() -> None:
    fields = f"[policies.p]\nlimits = '5/minute'\nplan = {{ header = 'X-Plan' }}\n{CLASSES}{GOLD}"
    assert proxied(fields) == [
        f"{line}: policies.p.{key}: behind ForwardAuth {field} counts also if a client sent it, since it "
        "comes from the proxy: let the proxy set this field, or remove it, before it asks"
        for line, key, field in ((3, "plan", "X-Plan"), (4, "class", "X-Class"))
    ]


SKIPPING = "[policies.org]\nlimits = '5/minute'\nkey = 'header:X-Org'\nunidentified = 'skip'\n"


def test_requests_that_no_policy_limits_without_a_field() -> None:
    (warning,) = proxied(SKIPPING)
    assert warning == (
        "4: policies.org.unidentified: behind ForwardAuth no policy limits a request if the proxy does not "
        "pass on its field X-Org: let the proxy pass it on (Traefik: authRequestHeaders, Envoy: "
        "allowed_headers), or write unidentified = 'address' or 'refuse'"
    )
    for key, field in (
        ("'api-key'", "its API key (X-API-Key or Authorization)"),
        ("'api-key:X-Mine'", "its field X-Mine"),
        ("'cookie:id'", "its field Cookie"),
        ("['address', 'cookie:id']", "its field Cookie"),
    ):
        (warning,) = proxied(SKIPPING.replace("'header:X-Org'", key))
        assert f"does not pass on {field}: " in warning


@pytest.mark.parametrize(
    "text",
    [
        SKIPPING.replace("skip", "refuse"),
        SKIPPING.replace("skip", "address"),
        SKIPPING.replace("header:X-Org", "host"),
        SKIPPING + ADDRESS,
        SKIPPING + ADDRESS.replace("each", "default"),
        SKIPPING + API,
        SKIPPING + "match.paths = ['/a']\n" + ADDRESS + "match.paths = ['/a', '/b']\n",
    ],
)
def test_requests_that_a_policy_limits_without_the_field(text: str) -> None:
    assert proxied(text) == []


@pytest.mark.parametrize(
    "text",
    [
        SKIPPING + ADDRESS + "shadow = true\n",
        SKIPPING + ADDRESS + "percent = 99\n",
        SKIPPING + ADDRESS + "match.paths = ['/a']\n",
        SKIPPING + ADDRESS + "exempt.paths = ['/a']\n",
        SKIPPING + ADDRESS + "key = 'api-key'\nunidentified = 'skip'\n",
    ],
)
def test_requests_that_another_policy_may_leave_out_too(text: str) -> None:
    assert any(warning.startswith("4: policies.org.unidentified") for warning in proxied(text))


def test_leases_that_no_proxy_ends() -> None:
    leases = "[policies.jobs]\nlimits = { algorithm = 'concurrency', limit = 2 }\n"
    (warning,) = proxied(leases)
    assert warning == (
        "2: policies.jobs.limits: behind ForwardAuth a policy that counts leases does not apply, since no "
        "proxy reports the end of a request. /forward-auth leaves it out, and /forward-auth/jobs answers "
        "422: use it by /v1/hold, or in a middleware of the application"
    )
    mixed = leases.replace("{", "['5/minute', {").replace("}", "}]")
    (warning,) = proxied(mixed)
    assert "leaves it out with all of its limits, and" in warning
    assert warning.endswith("application, and put its other limits into a policy of their own")


def test_the_command_prints_all_warnings_by_line(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(ADDRESS + "cost = { body = '1KiB' }\n" + PREPAID)
    printed = json.loads(run("check", str(path), "--json").stdout)["warnings"]
    assert [warning["key"] for warning in printed] == ["policies.each.cost", "policies.p.prepaid"]
    lines = run("check", str(path)).stderr.splitlines()
    assert [line.partition(": policies.")[0] for line in lines] == [
        f"warning: {path}:3",
        f"warning: {path}:6",
    ]


@pytest.mark.parametrize("kind", [Policies, AsyncPolicies])
def test_only_programs_that_proxies_ask_log_warnings_about_them(
    kind: type[Policies], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(ADDRESS)
    policies = [kind(path, store="memory://", for_proxies=answer) for answer in (False, True)]
    assert caplog.text == ""
    path.write_text(ADDRESS + "cost = { body = '1KiB' }\n")
    for each, count in zip(policies, (0, 1), strict=True):
        assert each.reload()
        assert caplog.text.count("policies.each.cost: behind ForwardAuth") == count


def test_hundreds_of_policies_are_compared_quickly() -> None:
    text = "".join(
        f"[policies.a{at}]\nlimits = '5/s'\nprepaid = 9\n"
        f"match = {{ hosts = ['h{at}.example'], paths = ['/{at}/**', '/x{at}'] }}\n"
        for at in range(400)
    )
    began = time.process_time()
    assert prepaid_warnings(text) == []
    assert time.process_time() - began < 3

"""The keys ``refund_unless`` and ``true_cost`` of a policy file: what they mean, and their faults."""

from __future__ import annotations

import pytest

from limiter.policyfile import InvalidPolicyFile
from limiter.policyfile.reading import PolicyFile, read
from limiter.web.by_response import Head
from limiter.web.rules import Rule

LIMITS = "[policies.p]\nlimits = '9/hour'\n"
LEASES = "[policies.p]\nlimits = { algorithm = 'concurrency', limit = 2 }\n"


def rule(text: str) -> Rule:
    file: PolicyFile = read(text, "policies.toml")
    return file.policies["p"].rule


@pytest.mark.parametrize(
    ("keys", "costs"),
    [
        ("refund_unless = ['2xx', 401]", {200: None, 401: None, 404: 0}),
        ("true_cost = { header = 'X-Used' }", {200: 7, 404: 7}),
        ("refund_unless = ['4XX']\ntrue_cost = { header = 'x-used' }", {200: 0, 404: 7}),
    ],
)
def test_a_policy_settles_by_the_response(keys: str, costs: dict[int, int | None]) -> None:
    """[defaults] may have the keys, too."""
    for text in (f"{LIMITS}{keys}\n", f"[defaults]\n{keys}\n{LIMITS}"):
        by_response = rule(text).by_response
        assert by_response is not None
        for status, cost in costs.items():
            assert by_response(Head(status, [("X-Used", "7")])) == cost
    assert rule(LIMITS).by_response is None


def test_a_true_cost_is_counted_in_units() -> None:
    assert rule(LIMITS + "true_cost = { header = 'X-Used' }\n").unit == "units"
    assert rule(LIMITS + "refund_unless = ['2xx']\n").unit == "requests"


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidPolicyFile) as raised:
        read(text, "policies.toml")
    return str(raised.value).splitlines()


STATUS = "expected a status or a class of statuses, as in '401' or '2xx'"


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("refund_unless = '2xx'", "refund_unless is '2xx': expected a list of at least one"),
        ("refund_unless = []", "refund_unless is []: expected a list of at least one"),
        ("refund_unless = ['2xx', '6xx']", f"refund_unless[1] is '6xx': {STATUS}"),
        ("refund_unless = [99]", f"refund_unless[0] is 99: {STATUS}"),
        ("refund_unless = [true]", f"refund_unless[0] is true: {STATUS}"),
        ("true_cost = 5", "true_cost is 5: expected {header = 'X-Tokens-Used'}"),
        ("true_cost = {}", "true_cost is {}: expected {header = 'X-Tokens-Used'}"),
        (
            "true_cost = { header = 'X_Used' }",
            "true_cost.header is 'X_Used': expected the name of a header field (without _)",
        ),
    ],
)
def test_faults(key: str, fault: str) -> None:
    assert faults(f"{LIMITS}{key}\n") == [f"policies.toml:3: policies.p.{fault}"]


def test_leases_have_nothing_to_settle() -> None:
    """Keys of [defaults] are for the other policies."""
    (fault,) = faults(f"{LEASES}refund_unless = ['2xx']\n")
    assert fault.startswith(
        "policies.toml:3: policies.p.refund_unless: refund_unless has no effect"
    )
    defaults = f"[defaults]\nrefund_unless = ['2xx']\n{LEASES}"
    assert rule(defaults).counts_leases
    assert "refund_unless" not in str(read(defaults, "policies.toml").forward_auth_warnings)


def test_the_service_warns_that_it_sees_no_response() -> None:
    text = f"{LIMITS}refund_unless = ['2xx']\ntrue_cost = {{ header = 'X-Used' }}\n"
    file = read(text, "policies.toml")
    assert file.warnings == ()
    assert [str(warning) for warning in file.forward_auth_warnings] == [
        f"policies.toml:{line}: policies.p.{key}: the decision service sees no response, behind "
        "ForwardAuth and at /v1: each request stays charged as it was. Put this policy into a middleware "
        "of the application, or settle by /v1/reserve and /v1/settle"
        for line, key in ((3, "refund_unless"), (4, "true_cost"))
    ]

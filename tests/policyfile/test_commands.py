"""``limiter check`` and ``limiter explain``, as commands of a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from limiter.command import cli
from limiter.web.subjects import disguised, hashed

FILE = """\
default = "rest"
[defaults]
exempt.paths = ["/healthz"]
[policies.all]
limits = { algorithm = "token_bucket", limit = 100, per = "minute", burst = 20 }
key = "global"
preflights = false
[policies.rest]
limits = "10/minute"
[policies.orders]
limits = "5/minute; 90/hour"
key = ["path:org", "address"]
match.paths = ["/orgs/{org}/**"]
match.methods = ["POST"]
match.hosts = ["api.example"]
cost = { body = "1KiB" }
exempt.networks = ["10.0.0.0/8"]
[policies.keys]
limits = { algorithm = "concurrency", limit = 3 }
key = "api-key"
match.paths = ["/keys/**"]
exempt.keys = ["free"]
overrides = { "partner" = { algorithm = "concurrency", limit = 30 } }
[policies.shadow]
limits = "1/minute"
key = "header:X-Org"
shadow = true
percent = 0
match.paths = ["/shadow"]
unidentified = "skip"
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    found = tmp_path / "policies.toml"
    found.write_text(FILE)
    return str(found)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"LIMITER_TRUSTED_PROXIES": "", **environ})


def explain(path: str, *arguments: str, **environ: str) -> dict[str, Any]:
    result = run("explain", path, *arguments, "--json", **environ)
    assert result.exit_code == 0, result.output
    return {one["policy"]: one for one in json.loads(result.stdout)["policies"]}


def test_a_right_file(path: str) -> None:
    result = run("check", path)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "all: 100 per 60 s burst 20, token_bucket",
        "rest (the default): 10 per 60 s, sliding_log",
        "orders: 5 per 60 s, sliding_log; 90 per 3600 s, sliding_log",
        "keys: 3 at once, leases of 30 s",
        "shadow: 1 per 60 s, sliding_log",
        f"{path} is right: 5 policies",
    ]
    Path(path).write_text("[policies.one]\nlimits = '1/minute'\n")
    assert run("check", path).stdout.endswith(f"{path} is right: 1 policy\n")


def test_a_right_file_as_json(path: str) -> None:
    entry = json.loads(run("check", path, "--json").stdout)
    assert (entry["file"], entry["ok"]) == (path, True)
    names = [policy["name"] for policy in entry["policies"]]
    assert names == ["all", "rest", "orders", "keys", "shadow"]


def test_a_wrong_file(path: str) -> None:
    """Every fault on standard error; or as JSON, on standard output."""
    Path(path).write_text("[policies.p]\nlimits = '5/x'\npercent = 101\n")
    for command in (["check", path], ["explain", path, "GET", "/"]):
        result = run(*command)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert [line.partition(" ")[0] for line in result.stderr.splitlines()] == [
            f"{path}:2:",
            f"{path}:3:",
        ]
        result = run(*command, "--json")
        assert result.exit_code == 1
        entry = json.loads(result.stdout)
        assert entry["ok"] is False
        assert [(one["file"], one["line"], one["key"]) for one in entry["errors"]] == [
            (path, 2, "policies.p.limits"),
            (path, 3, "policies.p.percent"),
        ]
    assert run("check", path + ".not").exit_code == 1


def test_which_policies_apply_and_why_others_do_not(path: str) -> None:
    result = run(
        *("explain", path, "post", "/orgs/acme/x?y=1", "--host", "API.example:443"),
        *("--header", "X-Forwarded-For: 6.6.6.6, 203.0.113.9", "--header", "Content-Length: 2049"),
    )
    assert result.exit_code == 0
    acme = hashed("path", "acme")
    assert result.stdout.splitlines() == [
        "all: applies to global: 100 per 60 s burst 20, token_bucket "
        f"(cost 1, logged as {disguised('global')})",
        "rest: does not apply: it is the default policy, and a more specific policy applies",
        f"orders: applies to {acme},203.0.113.9: 5 per 60 s, sliding_log; 90 per 3600 s, sliding_log "
        f"(cost 3 KiB, logged as {disguised((acme, '203.0.113.9'))})",
        "keys: does not apply: the path does not match",
        "shadow: does not apply: the path does not match",
    ]


@pytest.mark.parametrize(
    ("arguments", "policy", "why"),
    [
        (["GET", "/orgs/a/b"], "orders", "the method does not match"),
        (["POST", "/orgs/a/b"], "orders", "the host does not match"),
        (["GET", "/healthz"], "all", "the path is exempt"),
        (["GET", "/keys/1", "--header", "X-API-Key: free"], "keys", "the subject is exempt"),
        (["GET", "/keys/1"], "keys", "the request has no API key: 400"),
        (
            ["GET", "/shadow"],
            "shadow",
            "the request is unidentified, and this policy skips such requests",
        ),
        (["GET", "/", "--peer", "unknown"], "rest", "'unknown' is no address: 400"),
    ],
)
def test_why_a_policy_does_not_apply(
    path: str, arguments: list[str], policy: str, why: str
) -> None:
    entry = explain(path, *arguments)[policy]
    assert (entry["applies"], entry["why"]) == (False, why)
    assert entry.get("refuses", False) == why.endswith("400")


def test_an_override(path: str) -> None:
    entry = explain(path, "GET", "/keys/1", "--header", "Authorization: Bearer partner")["keys"]
    assert entry["overridden"]
    assert entry["limits"][0]["limit"] == 30
    assert entry["key"] == hashed("api-key", "partner")
    assert (
        "an override"
        in run("explain", path, "GET", "/keys/1", "--header", "X-API-Key: partner").stdout
    )


def test_a_cost_that_the_response_settles(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    path.write_text("[policies.p]\nlimits = '9/hour'\nrefund_unless = ['401']\n")
    assert explain(str(path), "GET", "/a")["p"]["settles"]
    shown = run("explain", str(path), "GET", "/a").stdout
    assert "(cost 1, an application settles the cost by its response, logged as" in shown


def test_plans_and_classes(tmp_path: Path) -> None:
    """`check` shows the numbers of each; `explain`, those of the request."""
    path = tmp_path / "policies.toml"
    path.write_text(
        "[policies.p]\nlimits = '100/minute'\nkey = 'header:X-Id'\nnew_subjects = '9/hour'\n"
        "plan = { header = 'X-Plan' }\nclass = { header = 'X-Class', low = 0.8, high = 1.0 }\n"
        "[policies.p.plans.gold]\nlimits = '50/minute'\nkeys = ['a', 'b']\n"
    )
    assert run("check", str(path)).stdout.splitlines()[:4] == [
        "p: 100 per 60 s, sliding_log",
        "  plan gold: 50 per 60 s, sliding_log",
        "  class low: 80 per 60 s, sliding_log",
        "  class high: 100 per 60 s, sliding_log",
    ]
    (described,) = json.loads(run("check", str(path), "--json").stdout)["policies"]
    limits = [{"name": None, "algorithm": "sliding_log", "limit": 50, "period": 60}]
    assert described["plans"] == [
        {"name": "gold", "limits": limits, "keys": 2, "has_prefix": False}
    ]
    assert described["class"] == {"header": "X-Class", "low": 0.8, "high": 1.0}
    get = ["GET", "/", "--header", "X-Id: c", "--header", "X-Plan: gold"]
    entry = explain(str(path), *get, LIMITER_TRUSTED_PROXIES="127.0.0.1")["p"]
    assert (entry["plan"], entry["class"], entry["overridden"]) == ("gold", "low", False)
    assert entry["limits"][0]["limit"] == 40
    entry = explain(str(path), *get, "--peer", "203.0.113.9")["p"]
    assert (entry["plan"], entry["class"]) == (None, "low")
    assert "(cost 1, plan gold, class low, logged as" in run("explain", str(path), *get).stdout


def test_a_cost_that_can_never_pass(path: str) -> None:
    """The service would refuse the request with 413."""
    post = ["POST", "/orgs/a/b", "--host", "api.example", "--header", "Content-Length: 9999"]
    entry = explain(path, *post)["orders"]
    assert entry["refuses"]
    assert entry["why"].endswith(": 413")


def test_no_policy_applies(path: str) -> None:
    last = run("explain", path, "GET", "/healthz").stdout.splitlines()[-1]
    assert last == "no policy applies to this request: it is not limited"


def test_which_forwarded_address_counts(path: str) -> None:
    """The environment names the trusted proxies."""
    header = ["--header", "X-Forwarded-For: 203.0.113.9"]
    get = ["GET", "/", "--peer", "192.0.2.1", *header]
    assert explain(path, *get)["rest"]["key"] == "192.0.2.1"
    trusting = explain(path, *get, LIMITER_TRUSTED_PROXIES="192.0.2.0/24")
    assert trusting["rest"]["key"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (
            ["/", "--header", "A: b", "--header", "no colon"],
            {},
            "--header: 'no colon': expected",
        ),
        (["/", "--header", ": no name"], {}, "--header: ': no name': expected"),
        (["x"], {}, "PATH: 'x': expected"),
        (["/"], {"LIMITER_TRUSTED_PROXIES": "nonsense"}, "LIMITER_TRUSTED_PROXIES is 'nonsense'"),
    ],
)
def test_wrong_arguments(
    path: str, arguments: list[str], environ: dict[str, str], message: str
) -> None:
    result = run("explain", path, "GET", *arguments, **environ)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "expected" in result.stderr


@pytest.mark.parametrize(
    "target", ["/keys/%2Fa", "/KEYS/a#b", "/Keys/%C3%A9\u00e9", "HTTP://h/keys/a?b"]
)
def test_a_path_is_read_as_forward_auth_reads_it(tmp_path: Path, target: str) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(
        "[policies.keys]\nlimits = '1/minute'\n"
        "match = { paths = ['/keys/{name}'], ignore_case = true }\n"
    )
    assert explain(str(path), "GET", target)["keys"]["applies"] is True
    entry = json.loads(run("check", str(path), "--json").stdout)["policies"][0]
    assert entry["match"] == {"paths": ["/keys/{name}"], "ignore_case": True}


@pytest.mark.parametrize("target", ["keys", "", "/a b", "ftp://h/a", "*"])
def test_a_path_must_be_a_request_target(path: str, target: str) -> None:
    result = run("explain", path, "GET", target)
    assert result.exit_code == 2
    assert "expected what a request line has" in " ".join(result.stderr.split())


PROXY = ["--header", "X-Forwarded-For: 203.0.113.9", "--peer", "192.0.2.1"]
TRUSTING = {"LIMITER_TRUSTED_PROXIES": "192.0.2.0/24"}


def answered(path: str, *arguments: str, **environ: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer to a proxy, and the entries of the policies that it asks."""
    result = run("explain", path, *arguments, "--json", **environ)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    return printed["forward_auth"], {entry["policy"]: entry for entry in printed["policies"]}


def test_a_proxy_asks_all_policies(path: str) -> None:
    result = run("explain", path, "GET", "/a?b", *PROXY, "--forward-auth", **TRUSTING)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "all: applies to global: 100 per 60 s burst 20, token_bucket "
        f"(cost 1, logged as {disguised('global')})",
        "rest: applies to 203.0.113.9: 10 per 60 s, sliding_log "
        f"(cost 1, logged as {disguised('203.0.113.9')})",
        "orders: does not apply: the method does not match",
        "keys: is left out: it counts leases, and no proxy reports the end of a request",
        "shadow: does not apply: the path does not match",
        "/forward-auth answers 204 or 429: the limits decide, by what the store has counted",
    ]
    answer, entries = answered(path, "GET", "/a?b", *PROXY, "--forward-auth", **TRUSTING)
    assert answer == {
        "path": "/forward-auth",
        "statuses": [204, 429],
        "why": "the limits decide, by what the store has counted",
    }
    assert entries["rest"]["digest"] == disguised("203.0.113.9")
    assert entries["keys"]["left_out"] is True


def test_a_policy_that_is_left_out_does_not_replace_the_default(path: str) -> None:
    """The request is not free: the service checks it as if the file had no policy with leases."""
    _, entries = answered(path, "GET", "/keys/1", *PROXY, "--forward-auth", **TRUSTING)
    assert entries["rest"]["applies"] is True
    assert explain(path, "GET", "/keys/1", "--header", "X-API-Key: a")["rest"]["applies"] is False


def test_a_proxy_asks_one_policy(path: str) -> None:
    result = run("explain", path, "GET", "/a", *PROXY, "--forward-auth", "all", **TRUSTING)
    assert [line.partition(" ")[0] for line in result.stdout.splitlines()] == [
        "all:",
        "/forward-auth/all",
    ]
    # The default policy is asked by its name, although another policy matches.
    _, entries = answered(path, "GET", "/keys/1", *PROXY, "--forward-auth=rest", **TRUSTING)
    assert entries["rest"]["applies"] is True


def test_a_word_that_the_option_took_is_explained(path: str) -> None:
    result = run("explain", "--forward-auth", path, "GET", "/a")
    assert result.exit_code == 2
    assert "Missing argument 'PATH'. The word behind --forward-auth is read" in result.stderr
    result = run("explain", path, "GET")
    assert result.exit_code == 2
    assert "--forward-auth" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["GET", "/a", "--forward-auth"], 403, "Only trusted proxies are answered. The peer is 1"),
        (
            ["GET", "/a", *PROXY, "--forward-auth", "x"],
            404,
            "There is no such policy. The file has all, r",
        ),
        (["GET", "/a", *PROXY, "--forward-auth", "keys"], 422, "This policy counts leases, and F"),
        (
            ["GET", "/a", "--peer", "192.0.2.1", "--forward-auth"],
            400,
            "The proxy does not report the client's address.",
        ),
        (
            ["GET", "/a", *PROXY, "--header", "X-Forwarded-Uri: ", "--forward-auth"],
            400,
            "The proxy does not report the method, host or path.",
        ),
        (
            ["GET", "a b", *PROXY, "--forward-auth"],
            400,
            "The proxy does not report the method, host or path.",
        ),
        (
            ["GET", "/a", *PROXY, "--host", "a.example,b.example", "--forward-auth"],
            400,
            "The proxy does not report the method, host or path.",
        ),
        (
            ["GET", "/a%2Fb\\..;%FF%0A#x", *PROXY, "--forward-auth"],
            400,
            "all refuses: the request's path has too many readings",
        ),
        (
            ["POST", "/orgs/a/b", *PROXY, "--host", "api.example", "--forward-auth"],
            204,
            "the limits decide",
        ),
        (["OPTIONS", "/shadow", *PROXY, "--forward-auth", "shadow"], 204, "no policy applies"),
        (["GET", "/healthz", *PROXY, "--forward-auth"], 204, "no policy applies to this request"),
    ],
)
def test_what_a_proxy_is_answered(path: str, arguments: list[str], status: int, why: str) -> None:
    answer, _ = answered(path, *arguments, **TRUSTING)
    assert answer["statuses"][0] == status
    assert answer["why"].startswith(why)


def test_what_a_proxy_is_answered_for_a_cost_that_never_passes(tmp_path: Path) -> None:
    """In shadow mode the policy never denies, nor does it refuse."""
    path = tmp_path / "policies.toml"
    for shadow, status in (("false", 413), ("true", 204)):
        path.write_text(
            f"[policies.p]\nlimits = '5/minute'\ncost = {{header = 'X-Cost'}}\nshadow = {shadow}\n"
        )
        costly = ["GET", "/", *PROXY, "--header", "X-Cost: 6", "--forward-auth"]
        answer, _ = answered(str(path), *costly, **TRUSTING)
        assert answer["statuses"] == [status]
    assert answer["why"] == "only policies in shadow mode apply, which never deny"


def test_every_policy_counts_leases(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    path.write_text("[policies.p]\nlimits = {algorithm = 'concurrency', limit = 2}\n")
    answer, entries = answered(str(path), "GET", "/", *PROXY, "--forward-auth", **TRUSTING)
    assert (answer["statuses"], entries) == ([422], {})
    assert answer["why"].startswith("Every policy counts leases")


@pytest.mark.parametrize(
    "arguments", [["--forward-auth", "GET", "/a"], ["GET", "--forward-auth", "/a"]]
)
def test_a_word_behind_the_option_is_never_read_as_an_argument(
    path: str, arguments: list[str]
) -> None:
    """It is a policy's name, so that an argument is missing."""
    result = run("explain", path, *arguments)
    assert result.exit_code == 2
    assert "Missing argument 'PATH'" in result.stderr

"""Warnings about valid files: keys that clients choose, without a bound on their number."""

from __future__ import annotations

import json
import logging
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

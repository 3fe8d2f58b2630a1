"""``limiter explain --forward-auth`` says what the service answers, and the start what it does not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from limiter.command import cli
from tests.server.conftest import Make

FILE = """\
default = "rest"
[policies.rest]
limits = "1/hour"
exempt.paths = ["/healthz"]
[policies.keys]
limits = "1/hour"
key = "api-key"
match.paths = ["/keys/**"]
[policies.skipping]
limits = "1/hour"
key = "header:X-Org"
unidentified = "skip"
match.methods = ["PUT"]
[policies.costly]
limits = "3/hour"
cost = { header = "X-Cost" }
match.hosts = ["costly.example"]
[policies.trial]
limits = "1/hour"
shadow = true
match.paths = ["/trial"]
[policies.jobs]
limits = { algorithm = "concurrency", limit = 1 }
match.paths = ["/jobs"]
"""
NAMES = (None, "rest", "keys", "skipping", "costly", "trial", "jobs", "unknown")
CALLER = {"X-Forwarded-For": "203.0.113.9"}


@pytest.mark.parametrize(
    ("method", "target", "fields", "peer"),
    [
        ("GET", "/", CALLER, "127.0.0.1"),
        ("GET", "/", CALLER, "192.0.2.1"),
        ("GET", "/", {}, "127.0.0.1"),
        ("GET", "/", {"X-Forwarded-For": "unknown"}, "127.0.0.1"),
        ("GET", "/healthz", CALLER, "127.0.0.1"),
        ("GET", "/keys/1?a=b", {**CALLER, "X-API-Key": "a"}, "127.0.0.1"),
        ("GET", "/keys/1", CALLER, "127.0.0.1"),
        ("GET", "/keys/1", {**CALLER, "X-API-Key": "a, b"}, "127.0.0.1"),
        ("GET", "/a%2Fb\\..;%FF%0A#x", CALLER, "127.0.0.1"),
        ("GET", "a b", CALLER, "127.0.0.1"),
        ("GET", "/", {**CALLER, "X-Forwarded-Uri": ""}, "127.0.0.1"),
        ("GET, PUT", "/", CALLER, "127.0.0.1"),
        ("PUT", "/", CALLER, "127.0.0.1"),
        ("PUT", "/", {**CALLER, "X-Org": "a"}, "127.0.0.1"),
        ("GET", "/", {**CALLER, "X-Forwarded-Host": "costly.example"}, "127.0.0.1"),
        (
            "GET",
            "/",
            {**CALLER, "X-Forwarded-Host": "costly.example", "X-Cost": "4"},
            "127.0.0.1",
        ),
        ("GET", "/", {**CALLER, "X-Forwarded-Host": "a.example, b.example"}, "127.0.0.1"),
        ("GET", "/trial", CALLER, "127.0.0.1"),
        ("GET", "/jobs", CALLER, "127.0.0.1"),
    ],
)
def test_the_service_answers_what_the_command_says(
    make_by_file: Make,
    tmp_path: Path,
    method: str,
    target: str,
    fields: dict[str, str],
    peer: str,
) -> None:
    """Where a limit decides, the last of the requests is denied."""
    client = make_by_file(FILE).client
    reported = {
        "X-Forwarded-Method": method,
        "X-Forwarded-Host": "localhost",
        "X-Forwarded-Uri": target,
        **fields,
    }
    for name in NAMES:
        explained = explain(tmp_path / "policies.toml", method, target, fields, peer, name)
        answer = explained["forward_auth"]
        assert answer["path"] == ("/forward-auth" if name is None else f"/forward-auth/{name}")
        answers = [client.get(answer["path"], headers=reported, peer=peer) for _ in range(4)]
        statuses = [each.status for each in answers]
        assert statuses[-1] == answer["statuses"][-1], (name, answer)
        assert set(statuses) <= set(answer["statuses"]), (name, answer)
        if answer["statuses"][0] in (403, 404, 422):
            assert answer["why"].startswith(answers[-1].json()["detail"])


def explain(
    path: Path, method: str, target: str, fields: dict[str, str], peer: str, name: str | None
) -> Any:
    """What the command prints, as JSON."""
    headers = [part for item in fields.items() for part in ("--header", f"{item[0]}: {item[1]}")]
    asked = ["--forward-auth"] if name is None else ["--forward-auth", name]
    arguments = ["explain", str(path), method, target, *headers, "--peer", peer, *asked, "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_start_and_a_new_text_warn_of_what_no_proxy_reports(
    make_by_file: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy that counts leases is left out, which the operator must know."""
    policies = make_by_file(FILE).service.policies
    assert caplog.text.count("policies.jobs.limits: behind ForwardAuth") == 1
    (tmp_path / "policies.toml").write_text(FILE.replace('{ header = "X-Cost" }', "{ body = 1 }"))
    assert policies.reload()
    assert caplog.text.count("policies.costly.cost: behind ForwardAuth") == 1

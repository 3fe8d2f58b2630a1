"""The examples of ``docs/policies.md`` do what it shows, and it explains every key."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from limiter.command import cli
from limiter.policyfile import InvalidPolicyFile, watch
from limiter.policyfile.reading import TOP_KEYS
from limiter.policyfile.schema import KEYS
from tests.wsgi.support import ask

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "policies.md").read_text()
EXAMPLE = (ROOT / "docs" / "policies.example.toml").read_text()
(CONSOLE,) = re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
TOMLS = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
CODE, CONFIGURATION = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def test_commands_print_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("LIMITER_TRUSTED_PROXIES", raising=False)
    commands = re.findall(r"^\$ limiter (.*)\n((?:[^$].*\n)*)", CONSOLE, re.M)
    assert len(commands) == 3
    for command, printed in commands:
        result = CliRunner().invoke(cli, shlex.split(command))
        assert (result.exit_code, result.output) == (0, printed)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("[policies.reports]", ["default (the default): 100 per 60 s", "reports: 1000 per 3600 s"]),
        ("[policies.passwords]", ["passwords: 5 per 60 s", "tokens: 100000 per 60 s"]),
    ],
)
def test_an_example_is_right(tmp_path: Path, text: str, output: list[str]) -> None:
    (example,) = [toml for toml in TOMLS if text in toml]
    (tmp_path / "policies.toml").write_text(example)
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "policies.toml")])
    assert result.exit_code == 0
    for line in output:
        assert line in result.output


def test_the_examples_of_plans_and_classes(tmp_path: Path) -> None:
    """Together they are a file, in which a class has its share of a plan."""
    plans, classes = TOMLS[-2:]
    (tmp_path / "policies.toml").write_text(plans.replace("key =", f"{classes}key ="))
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "policies.toml")])
    assert "  plan gold: 1000 per 60 s" in result.output
    explained = ["explain", str(tmp_path / "policies.toml"), "GET", "/", "--header"]
    for customer, limit in (("acme", 800), ("gold-7", 800), ("other", 80)):
        result = CliRunner().invoke(cli, [*explained, f"X-Customer: {customer}"])
        assert f": {limit} per 60 s" in result.output


def test_every_key_is_in_the_table_and_the_example() -> None:
    """The table has the keys in their order."""
    assert tuple(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) == tuple(KEYS)
    for key in (*KEYS, *TOP_KEYS):
        assert re.search(rf"\b{key}\b", EXAMPLE), key
        assert f"`{key}`" in PAGE or key in ("policies", "defaults"), key


def test_a_middleware_takes_policies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str, subject: str
) -> None:
    """The middleware uses the current policies: a change counts for later requests."""
    path = tmp_path / "policies.toml"
    monkeypatch.chdir(tmp_path)
    path.write_text(f"[policies.{subject}]\nlimits = '2/hour'\n")
    shown: dict[str, Any] = {}
    code = CODE.replace('"redis://127.0.0.1:6379/0"', f'"{store}"')
    exec(code, shown)  # noqa: S102 (it is ours)
    app, first = shown["application"], shown["policies"]
    assert [int(ask(app).status[:3]) for _ in range(3)] == [200, 200, 429]
    path.write_text(f"[policies.{subject}]\nlimits = '3/hour'\n")
    assert shown["policies"].reload()
    # A worker that starts while the file is wrong uses the last good text; the first start fails.
    exec(CONFIGURATION, shown)  # noqa: S102 (it is ours)
    shown["on_starting"](None)
    path.write_text("nonsense")
    exec(code, shown)  # noqa: S102 (it is ours)
    assert list(shown["policies"].current.guards) == [subject]
    monkeypatch.setattr(watch, "_shared_texts", {})
    with pytest.raises(InvalidPolicyFile):
        shown["on_starting"](None)
    path.write_text(f"[policies.{subject}]\nlimits = '3/hour'\n")
    app = shown["application"]
    assert shown["policies"].reload()
    assert [int(ask(app).status[:3]) for _ in range(2)] == [200, 429]
    for policies in (first, shown["policies"]):
        policies.close()

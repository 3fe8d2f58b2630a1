"""``limiter simulate``: what it prints, its exit codes, and what it reads besides files."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from limiter.command import cli
from limiter.simulate.logs import Reading
from limiter.simulate.observed import Observed
from tests.cli.support import UNSET, run, unmeasured
from tests.service.support import ROOT

LINE = '{} - - [01/Nov/2026:12:00:{:02} +0000] "GET {} HTTP/1.1" {} 612 "-" "curl/8.5.0"\n'
TEXT = "".join(
    LINE.format(address, second, "/api/orders?page=1", 200)
    for second in range(50)
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2")
)
FILE = """
[policies.api]
limits = "60/minute"
match = {paths = ["/api/**"]}

[policies.stricter]
limits = "20/minute burst 5; 1000/day"
shadow = true
"""


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A log of 150 requests in 50 seconds, and two lines that are none."""
    path = tmp_path / "access.log"
    path.write_text("nothing\n" + TEXT + "\x16\x03\n")
    return str(path)


@pytest.fixture
def policies(tmp_path: Path) -> str:
    """A policy file."""
    path = tmp_path / "policies.toml"
    path.write_text(FILE)
    return str(path)


def test_a_table(log: str, policies: str) -> None:
    """A column for each policy that fits, the subjects that were denied most, and warnings."""
    result = run(f"simulate {log} {policies}")
    assert result.exit_code == 0
    assert (
        result.stdout
        == f"""\
150 requests from 2026-11-01 12:00:00 to 2026-11-01 12:00:49, of which 40 (26.67%) would be denied \
(policies in shadow mode deny none)
2 of 152 lines are no entries of a log, such as:
  {log}:1: 'nothing' (it is no line of the common or combined format)
  {log}:152: '\\x16\\x03' (it is no line of the common or combined format)

                      api
limits                60 per 60 s, sliding_log
requests              150
denied                40 (26.67%)
subjects              2
denied subjects       1 (50.00%)
  once or twice only  0
first denial          2026-11-01 12:00:30
busiest second        2026-11-01 12:00:00
  requests in it      3
memory in Redis       about 2 KB
  subjects' keys      2

                      stricter (shadow)
limits                20 per 60 s burst 5, token_bucket; 1000 per 86400 s, sliding_log
requests              150
denied                75 (50.00%)
subjects              2
denied subjects       2 (100.00%)
  once or twice only  0
first denial          2026-11-01 12:00:02
busiest second        2026-11-01 12:00:00
  requests in it      3
memory in Redis       about 2 KB
  subjects' keys      3

api: the subjects that were denied most often
  192.0.2.1  40 of 100 requests

stricter: the subjects that were denied most often
  192.0.2.1  46 of 100 requests
  192.0.2.2  29 of 50 requests
"""
    )
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["warning"] * 3


def test_policies_side_by_side(tmp_path: Path, log: str) -> None:
    """If they fit."""
    path = tmp_path / "two.toml"
    path.write_text('[policies.a]\nlimits = "1/minute"\n[policies.b]\nlimits = "2/minute"\n')
    lines = run(f"simulate {log} {path}").stdout.splitlines()
    assert "                      a                        b" in lines
    assert "limits                1 per 60 s, sliding_log  2 per 60 s, sliding_log" in lines


def test_json(log: str, policies: str) -> None:
    """The whole report; subjects may be hidden."""
    report = json.loads(run(f"simulate {log} {policies} --json --hash").stdout)
    assert (report["requests"], report["denied"], report["unreadable"]) == (150, 40, 2)
    assert report["logs"] == [log]
    assert not report["interrupted"]
    api, stricter = report["policies"]
    assert (api["name"], stricter["shadow"]) == ("api", True)
    assert stricter["limits"][0] == {
        "name": None,
        "algorithm": "token_bucket",
        "limit": 20,
        "period": 60,
        "burst": 5,
    }
    assert api["worst"][0] == {
        "subject": api["worst"][0]["subject"],
        "requests": 100,
        "denied": 40,
    }
    assert "192.0.2" not in json.dumps(report["policies"])
    assert len(report["warnings"]) == 3


def test_limits_without_a_file(log: str) -> None:
    """Of all requests together, or by any key of a policy file."""
    report = json.loads(
        run(f"simulate {log} --limits 60/minute --algorithm gcra --key global --json").stdout
    )
    (policy,) = report["policies"]
    assert (policy["limits"][0]["algorithm"], policy["subjects"]) == ("gcra", 1)
    assert policy["key"] == ["global"]
    by_two = run(f"simulate {log} --limits 60/minute --key global --key header:User-Agent --json")
    assert json.loads(by_two.stdout)["policies"][0]["subjects"] == 1


def test_standard_input_and_several_logs(log: str) -> None:
    """Compressed, too; the bytes of standard input are read as they are."""
    runner = CliRunner()
    for content in (TEXT.encode(), gzip.compress(TEXT.encode())):
        words = ["simulate", "-", log, "--limits", "60/minute", "--json"]
        result = runner.invoke(cli, words, env=UNSET, input=content)
        assert json.loads(result.stdout)["requests"] == 300
        assert "several logs are merged by their times" in result.stdout


def test_the_secret_decides_whom_a_percentage_includes(tmp_path: Path) -> None:
    """As in the service."""
    log, file = tmp_path / "access.log", tmp_path / "policies.toml"
    log.write_text(
        "".join(LINE.format(f"198.51.100.{n % 250}", n // 10, "/", 200) for n in range(500))
    )
    file.write_text('[policies.half]\nlimits = "1/minute"\npercent = 50\n')
    worst = {
        secret: run(f"simulate {log} {file} --json", LIMITER_KEY_SECRET=secret).stdout
        for secret in ("", "a", "b")
    }
    assert len(set(worst.values())) == 3
    for text in worst.values():
        assert 80 < json.loads(text)["policies"][0]["subjects"] < 170


def test_trusted_proxies_report_the_client(tmp_path: Path) -> None:
    """Those of LIMITER_TRUSTED_PROXIES, as in the service."""
    log = tmp_path / "access.log"
    lines = [
        {"time": 1, "address": "10.0.0.1", "headers": {"X-Forwarded-For": f"203.0.113.{number}"}}
        for number in range(5)
    ]
    log.write_text("\n".join(map(json.dumps, lines)))
    command = f"simulate {log} --limits 1/minute --json"
    report = json.loads(run(command).stdout)
    assert report["policies"][0]["subjects"] == 1
    assert "no proxy in LIMITER_TRUSTED_PROXIES" in report["warnings"][0]
    report = json.loads(run(command, LIMITER_TRUSTED_PROXIES="10.0.0.0/8").stdout)
    assert report["policies"][0]["subjects"] == 5
    assert run(command, LIMITER_TRUSTED_PROXIES="nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "Missing argument 'LOG... [POLICIES]'"),
        ("access.log", 2, "no policies: the last argument is a policy file; or give --limits"),
        ("access.log policies.toml --key global", 2, "--key is only for --limits"),
        ("access.log policies.toml --algorithm gcra", 2, "--algorithm is only for --limits"),
        ("access.log --limits often", 2, "limit is 'often'"),
        ("access.log --limits 1/minute --key whom", 2, "expected address (or"),
        ("access.log missing.toml", 1, "missing.toml:1: cannot be read"),
        ("missing.log --limits 1/minute", 1, "missing.log cannot be read: No such file"),
        (". --limits 1/minute", 1, ". cannot be read: Is a directory"),
        ("access.log policies.toml --limits 1/minute", 2, "policies.toml is no log: give a"),
        ("access.log access.log", 1, "the last argument is the policy file: without one, give"),
        ("access.log --limits 1/minute --tolerance nan", 2, "expected a number from 0"),
        ("access.log --limits 1/minute;1/minute", 2, "Error: two policies of one limiter are"),
        ("access.log --limits 1/minute --key path:id", 2, "Error: key is 'path:id': expected"),
        ("- - --limits 1/minute", 2, "- stands for standard input: give it once"),
        ("access.log --limits 1/minute --format csv", 1, "names no column time"),
    ],
)
def test_mistakes(
    arguments: str,
    code: int,
    message: str,
    log: str,
    policies: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is one message, with its exit code."""
    monkeypatch.chdir(Path(log).parent)
    assert Path(policies).exists()
    result = run(f"simulate {arguments}")
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_an_empty_log(tmp_path: Path) -> None:
    """A report of no requests."""
    (tmp_path / "empty").touch()
    result = run(f"simulate {tmp_path / 'empty'} --limits 1/minute")
    assert result.exit_code == 0
    assert result.stdout.startswith("no requests in 0 lines\n\n")
    assert result.stderr == ""


def test_an_interrupt_shows_what_was_read(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so, also in the exit code."""
    whole = Reading.entries

    def interrupted(*arguments: object) -> object:
        for number, entry in enumerate(whole(*arguments)):  # type: ignore[arg-type]
            if number == 100:
                raise KeyboardInterrupt
            yield entry

    monkeypatch.setattr(Reading, "entries", interrupted)
    result = run(f"simulate {log} --limits 60/minute")
    assert result.exit_code == 130
    assert result.stdout.startswith("100 requests from ")
    assert "interrupted: the report is about the part that was read" in result.stderr
    assert json.loads(run(f"simulate {log} --limits 60/minute --json").stdout)["interrupted"]


def test_an_interrupt_of_the_suggestion(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has its exit code too: 1 would mean that the log is wrong."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Observed, "suggestions", interrupted)
    assert run(f"simulate {log} --limits 60/minute --suggest 99%").exit_code == 130


@pytest.mark.slow
def test_progress_on_a_terminal(log: str) -> None:
    """Only there, so that no bar gets into a file of errors."""
    terminal, other_end = os.openpty()
    words = [sys.executable, "-m", "limiter", "simulate", log, "--limits", "60/minute"]
    settings = {"cwd": ROOT, "env": {**unmeasured(), **UNSET}, "check": True}
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=other_end, timeout=60, **settings)
    os.close(other_end)
    shown = os.read(terminal, 9_999)
    os.close(terminal)
    assert b"reading" in shown
    assert b"100%" in shown
    assert b"reading" not in done.stdout

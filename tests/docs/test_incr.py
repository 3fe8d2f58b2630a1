"""The program beside docs/incr.md makes every failure happen that the page describes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "incr.md"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program like a reader."""
    return subprocess.run(
        [sys.executable, "docs/incr.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def table(store) -> list[str]:
    """Return the lines that the program prints."""
    done = run("--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.rstrip() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_every_failure_happens_and_none_to_the_script(table, store):
    """Each INCR version loses counts or expiries as the page says; the script loses none."""
    happened = [line[34:74].strip() for line in table[1:]]

    assert 100 < int(happened[0].removesuffix(" admitted")) <= 400
    assert happened[1] == "100 admitted, count 400, TTL -1"
    assert happened[2] == "100 admitted"
    assert re.fullmatch(r"\d+ killed, 1 key without TTL", happened[3])
    assert happened[4:] == ["denied", "100 admitted", "40 killed, 0 keys without TTL"]
    with redis.Redis.from_url(store) as client:
        assert not list(client.scan_iter("incr-demo.*"))


@pytest.mark.slow
def test_the_page_shows_what_the_program_prints(table):
    """The page has the program's rows, except for random numbers."""
    shown = re.search(r"```\n(400 calls.*?)```", PAGE.read_text(), re.S)
    assert shown is not None

    def without_chance(lines: list[str]) -> list[str]:
        return [re.sub(r"\d+ (admitted|killed) +|\d+ killed", "N ", line) for line in lines]

    assert without_chance(table) == without_chance(shown[1].splitlines())


def test_the_program_starts_its_own_server():
    """Without --store it starts a server, and stops it at the end."""
    spec = importlib.util.spec_from_file_location("incr", ROOT / "docs" / "incr.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)

    with program.server_at(None) as url, redis.Redis.from_url(url) as client:
        assert client.ping()


@pytest.mark.parametrize("function", ["get_set", "incr", "incr_expire"])
def test_the_page_shows_the_program_s_lines(function):
    """Each of the page's three counters is the body of the program's function."""
    program = (ROOT / "docs" / "incr.py").read_text()
    body = re.search(rf"def {function}\(.*?\n    \"\"\".*?\"\"\"\n(.*?)\n\n\n", program, re.S)
    assert body is not None
    lines = [
        line[4:].replace("int(store.incr(key))", "store.incr(key)") for line in body[1].splitlines()
    ]
    if function == "incr_expire":
        lines = [line.replace("window_s", "WINDOW_S") for line in lines]

    assert "```python\n" + "\n".join(lines) + "\n```" in PAGE.read_text()


def test_help_and_a_missing_server():
    """Help lists the options; an error is one line, and its exit code is neither 0 nor 1."""
    assert "--store" in run("--help").stdout

    done = run("--store", "redis://127.0.0.1:1/0")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
